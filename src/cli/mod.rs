//! Command line: arguments, prompts, progress, exit codes. No logic of the filesystem. The contract is `docs/CLI.md`.
//!
//! Invariant: no secret comes from or goes to an argument, the value of a variable, or a log line.

mod args;
mod exit;
mod harden;
mod init;
mod key;
mod keystore;
mod places;
mod secrets;
mod text;
mod unlock;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::exit::Code;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                Code::Usage
            } else {
                Code::Ok
            }
            .into();
        }
    };
    harden::process();
    text::log_to_stderr();
    match run(&cli) {
        Ok(code) => code.into(),
        Err(error) => {
            let (code, sentence) = exit::explain(&error);
            eprintln!("strongroom: {sentence}");
            code.into()
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Code> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::init(global, args),
        Command::Keystore { command } => keystore::run(global, command),
        Command::Key { command } => key::run(global, command),
    }?;
    Ok(Code::Ok)
}

//! Command line: arguments, prompts, progress, exit codes. No logic of the filesystem. The contract is `docs/CLI.md`.
//!
//! Invariant: no secret comes from or goes to an argument, the value of a variable, or a log line.

mod args;
mod bench;
mod check;
mod copy;
mod daemon;
mod exit;
mod export;
mod harden;
mod info;
mod init;
mod inside;
mod key;
mod keystore;
mod mount;
mod mounts;
mod opening;
mod places;
mod providers;
mod reexec;
mod rekey;
mod rekey_data;
mod rotate;
mod secrets;
mod supervisor;
mod target;
mod text;
mod token_choice;
mod unlock;
mod up;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command, Inside};
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
    text::log_to_stderr();
    harden::process();
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
        Command::Up(args) => return up::up(global, args),
        Command::Init(args) => init::init(global, args),
        Command::Mount(args) => return mount::mount(global, args),
        Command::Reexec { mountpoint } => return reexec::reexec(global, mountpoint),
        Command::Umount { mountpoint } => mount::umount(mountpoint),
        Command::Info { output, path } => info::info(path, output.json),
        Command::Rotate(args) => return rotate::rotate(global, args),
        Command::Rekey(args) => return rekey::rekey(global, args),
        Command::RekeyData(args) => return rekey_data::rekey_data(global, args),
        Command::Copy(args) => copy::copy(global, args),
        Command::Ls {
            trust,
            output,
            directory,
            path,
        } => {
            let (trust, directory, path) = (trust.clone(), directory.clone(), path.clone());
            inside::ls(
                global,
                &Inside {
                    trust,
                    directory,
                    path,
                },
                output.json,
            )
        }
        Command::Bench(args) => bench::bench(args),
        Command::Check(args) => return check::check(global, args),
        Command::Cat(inside) => inside::cat(global, inside),
        Command::Export { inside, target } => return export::export(global, inside, target),
        Command::Keystore { command } => keystore::run(global, command),
        Command::Key { command } => key::run(global, command),
    }?;
    Ok(Code::Ok)
}

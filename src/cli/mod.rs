//! Command line: arguments, prompts, progress, exit codes. No logic of the filesystem.

/// Runs the program with the process's arguments.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

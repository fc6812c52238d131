//! The program.

use std::process::ExitCode;

fn main() -> ExitCode {
    readstates::cli::run()
}

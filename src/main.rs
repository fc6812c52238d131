//! The program.

use std::process::ExitCode;

/// What one thread allocates is freed by another all the time, which leaves half of glibc's memory unused.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    readstates::memory::use_small_pages();
    readstates::cli::run()
}

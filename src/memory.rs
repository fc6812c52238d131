//! How the process takes memory.

use std::sync::{Mutex, PoisonError};

/// Takes memory in pages of the usual size. Linux has huge pages for programs whose allocator asks for them, as ours does:
/// then whoever needs the first byte of two megabytes waits until all of them are there and cleared, and until others have
/// been moved out of the way if need be. Databases switch them off for this reason. Measured with 4 million read states and 8
/// million evictions on a virtual machine whose memory came from its host as it was touched: the longest call took 38 ms
/// with them and 3 ms without, and an event 0.87 as long.
///
/// Call it first: what is there by then stays as it is.
pub fn use_small_pages() {
    set_off(true);
}

/// Makes something large that stays for good and is touched meanwhile, in huge pages where the system has them: nobody waits
/// yet, and what is looked for at random in few pages is found sooner.
pub fn in_huge_pages<T>(make: impl FnOnce() -> T) -> T {
    static MAKING: Mutex<()> = Mutex::new(());
    // There is nothing in it that a panic could have left half done.
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let were_off = set_off(false);
    let made = make();
    set_off(were_off);
    made
}

/// Switches huge pages off, or on. Whether they were off.
#[cfg(target_os = "linux")]
fn set_off(off: bool) -> bool {
    use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
    let were_off = transparent_huge_pages_are_disabled().unwrap_or(false);
    // Kernels that have no huge pages refuse, and there is nothing to be switched.
    let _ = disable_transparent_huge_pages(off);
    were_off
}

#[cfg(not(target_os = "linux"))]
fn set_off(_: bool) -> bool {
    false
}

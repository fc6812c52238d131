//! How the process takes memory.

/// Takes memory in pages of the usual size. Linux has huge pages for programs whose allocator asks for them, as ours does:
/// then whoever needs the first byte of two megabytes waits until all of them are there and cleared, and until others have
/// been moved out of the way if need be. Databases switch them off for this reason. Measured with 4 million read states and 8
/// million evictions on a virtual machine whose memory came from its host as it was touched: the longest call took 38 ms
/// with them and 3 ms without, and an event 0.87 as long.
///
/// Call it first: what is there by then stays as it is.
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    // Kernels that have no huge pages refuse, and there is nothing to be switched off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

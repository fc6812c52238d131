//! Turns of threads that answer questions, where others want the processor as well.
//!
//! A question goes through several threads, and each may have to wait until others have had their turns, some milliseconds
//! each. Linux gives a thread that asks for shorter turns no more of the processor, but lets it go first when it wakes up (EEVDF;
//! [the kernel's documentation][eevdf] says why). It needs no privilege. Kernels before 6.12 take no notice, and others have none of this.
//!
//! [eevdf]: https://docs.kernel.org/scheduler/sched-eevdf.html

/// How long a turn is to be; the kernel's own are some milliseconds.
#[cfg(target_os = "linux")]
const TURN_NS: u64 = 100_000;

/// Asks for short turns of the thread that calls it. What it has otherwise, it keeps.
pub fn ask_for_short_turns() {
    #[cfg(target_os = "linux")]
    if let Some(mut attributes) = linux::attributes()
        && attributes.policy == linux::SCHED_OTHER
    {
        attributes.runtime_ns = TURN_NS;
        linux::set(&attributes);
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "sched_setattr has no safe interface: two system calls with a structure that lives longer than they take"
)]
mod linux {
    use libc::{SYS_sched_getattr, SYS_sched_setattr, c_long, syscall};

    /// `struct sched_attr` in its first version: see sched_setattr(2).
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub struct Attributes {
        size: u32,
        pub policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        pub runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }

    const SIZE: u32 = size_of::<Attributes>() as u32;
    const _: () = assert!(SIZE == 48);
    pub const SCHED_OTHER: u32 = libc::SCHED_OTHER as u32;
    /// The thread that calls.
    const SELF: c_long = 0;
    const NO_FLAGS: c_long = 0;

    /// Those of this thread, if the kernel tells.
    pub fn attributes() -> Option<Attributes> {
        let mut attributes = Attributes::default();
        // SAFETY: the kernel writes at most `SIZE` bytes, which are there, and any bytes are a value of each field.
        let failed = unsafe {
            syscall(
                SYS_sched_getattr,
                SELF,
                &raw mut attributes,
                c_long::from(SIZE),
                NO_FLAGS,
            )
        };
        (failed == 0).then_some(attributes)
    }

    /// Gives this thread others. Where the kernel does not let it, it keeps its own: then it waits longer.
    pub fn set(attributes: &Attributes) {
        let attributes = Attributes {
            size: SIZE,
            ..*attributes
        };
        // SAFETY: the kernel reads `size` bytes, which are there.
        unsafe { syscall(SYS_sched_setattr, SELF, &raw const attributes, NO_FLAGS) };
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// In a thread of its own: what it asks for stays.
    #[test]
    fn turns_are_as_asked_for_and_nothing_else_changes() {
        let (before, after) = std::thread::spawn(|| {
            let before = linux::attributes().unwrap();
            ask_for_short_turns();
            (before, linux::attributes().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(before.policy, after.policy);
        // A kernel that has no such thing says 0 all the time.
        if before.runtime_ns != 0 {
            assert_eq!(after.runtime_ns, TURN_NS);
        }
    }
}

//! The life of one partition in this process, as one match.
//!
//! | phase | means |
//! |---|---|
//! | locating | ours by the group; its stored position is being loaded and compared with the log |
//! | running | its records are read and offered |
//! | paused | its owner has refused records for a while; nothing is read until it takes what is held |
//! | checking | librdkafka could not go on from where it was; the position is compared with the log again |
//! | refused | the stored position does not fit the log; nothing was assigned to an owner |
//! | stopped | the same, found while running: the owner keeps what it has |
//! | draining | revoked; its owner writes what is left |
//! | drained | nothing is left to do, or the deadline has passed; kept until all that was revoked with it is too |
//!
//! A partition that is gone has no phase: a handed-over or lost one is dropped from the table.

/// Where a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Locating,
    Running,
    Paused,
    Checking,
    Refused,
    Stopped,
    Draining,
    Drained { assigned: bool },
    Gone,
}

/// What happens to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The position fits the log.
    Located,
    /// The position does not fit the log.
    Misfit,
    /// Its owner has taken nothing for too long.
    Stalled,
    /// Its owner has taken all that was held.
    Accepted,
    /// librdkafka can't go on, or went back.
    Doubted,
    /// Its owner does not get further although the log goes on.
    Stuck,
    /// The same again, although it was taken anew.
    Hopeless,
    /// The group wants it back, or the process ends.
    Revoked,
    /// Its owner has written everything.
    Drained,
    /// The time for that is over.
    DeadlinePassed,
    /// The group has it back.
    HandedOver,
    /// The group gave it to someone else already.
    Lost,
}

/// What the thread has to do then, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Tell the owner that it is its own.
    Assign,
    /// Read from the next offset.
    Fetch,
    /// Read no more, and drop what was read and not offered.
    Halt,
    /// Read no more; keep what was read.
    Pause,
    /// Compare the position with the log.
    Locate,
    /// Stop comparing.
    Cancel,
    /// Take it as if the group had given it just now: under a new number, from the stored position.
    Renew,
    /// Tell the wiring that the process can't go on like this.
    Report,
    /// Tell the owner to write what is left.
    Drain,
    /// Say that the owner was too slow.
    Overdue,
    /// Tell the owner that it is not its own any more.
    Forget,
}

/// The next phase and what to do. Events that a phase doesn't care about change nothing.
pub(super) fn next(phase: Phase, event: Event) -> (Phase, &'static [Action]) {
    use Action as A;
    use Event as E;
    use Phase as P;
    match (phase, event) {
        (P::Locating, E::Located) => (P::Running, &[A::Assign, A::Fetch]),
        (P::Locating, E::Misfit) => (P::Refused, &[A::Report]),
        (P::Locating, E::Revoked) => (P::Drained { assigned: false }, &[A::Cancel]),
        (P::Locating, E::Lost) => (P::Gone, &[A::Cancel]),

        (P::Running, E::Stalled) => (P::Paused, &[A::Pause]),
        (P::Paused, E::Accepted) => (P::Running, &[A::Fetch]),
        (P::Running, E::Doubted) => (P::Checking, &[A::Pause, A::Locate]),
        (P::Checking, E::Located) => (P::Running, &[A::Fetch]),
        (P::Checking, E::Misfit) => (P::Stopped, &[A::Report]),

        (P::Running | P::Paused, E::Stuck) => (P::Locating, &[A::Halt, A::Forget, A::Renew, A::Locate]),
        (P::Checking, E::Stuck) => (P::Locating, &[A::Cancel, A::Halt, A::Forget, A::Renew, A::Locate]),
        (P::Running | P::Paused, E::Hopeless) => (P::Stopped, &[A::Halt]),
        (P::Checking, E::Hopeless) => (P::Stopped, &[A::Cancel, A::Halt]),

        (P::Running | P::Paused | P::Stopped, E::Revoked) => (P::Draining, &[A::Halt, A::Drain]),
        (P::Running | P::Paused | P::Stopped, E::Lost) => (P::Gone, &[A::Halt, A::Forget]),
        (P::Checking, E::Revoked) => (P::Draining, &[A::Cancel, A::Halt, A::Drain]),
        (P::Checking, E::Lost) => (P::Gone, &[A::Cancel, A::Halt, A::Forget]),
        (P::Refused, E::Revoked) => (P::Drained { assigned: false }, &[]),
        (P::Refused, E::Lost) => (P::Gone, &[]),

        (P::Draining, E::Drained) => (P::Drained { assigned: true }, &[]),
        (P::Draining, E::DeadlinePassed) => (P::Drained { assigned: true }, &[A::Overdue]),
        (P::Draining, E::Lost) => (P::Gone, &[A::Forget]),
        (P::Drained { assigned: true }, E::HandedOver | E::Lost) => (P::Gone, &[A::Forget]),
        (P::Drained { assigned: false }, E::HandedOver | E::Lost) => (P::Gone, &[]),

        (phase, _) => (phase, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 9] = [
        Phase::Locating,
        Phase::Running,
        Phase::Paused,
        Phase::Checking,
        Phase::Refused,
        Phase::Stopped,
        Phase::Draining,
        Phase::Drained { assigned: true },
        Phase::Drained { assigned: false },
    ];

    /// Follows events from the beginning and returns all that was done.
    fn follow(events: &[Event]) -> (Phase, Vec<Action>) {
        let mut phase = Phase::Locating;
        let mut done = Vec::new();
        for event in events {
            let (to, actions) = next(phase, *event);
            phase = to;
            done.extend_from_slice(actions);
        }
        (phase, done)
    }

    #[test]
    fn whatever_is_lost_is_gone_and_nothing_is_drained() {
        for phase in PHASES {
            let (to, actions) = next(phase, Event::Lost);
            assert_eq!(to, Phase::Gone, "{phase:?}");
            assert!(!actions.contains(&Action::Drain), "{phase:?}");
        }
    }

    #[test]
    fn whatever_is_revoked_comes_to_its_end() {
        for phase in PHASES {
            let (revoked, _) = next(phase, Event::Revoked);
            let (drained, _) = next(revoked, Event::DeadlinePassed);
            assert!(matches!(drained, Phase::Drained { .. }), "{phase:?}");
            assert_eq!(next(drained, Event::HandedOver).0, Phase::Gone, "{phase:?}");
        }
    }

    #[test]
    fn what_is_stuck_is_taken_anew_from_the_stored_position() {
        use Event::*;
        for before in [vec![], vec![Stalled], vec![Doubted]] {
            let events: Vec<Event> = [
                vec![Located],
                before,
                vec![Stuck, Located, Revoked, Drained, HandedOver],
            ]
            .concat();
            let (phase, done) = follow(&events);
            assert_eq!(phase, Phase::Gone);
            let assigned = done
                .iter()
                .filter(|action| matches!(action, Action::Assign | Action::Renew | Action::Forget));
            let expected = [
                Action::Assign,
                Action::Forget,
                Action::Renew,
                Action::Assign,
                Action::Forget,
            ];
            assert!(assigned.eq(&expected), "{events:?}: {done:?}");
        }
    }

    #[test]
    fn an_owner_forgets_exactly_what_it_was_assigned() {
        use Event::*;
        for (events, assigned) in [
            (vec![Located, Revoked, Drained, HandedOver], true),
            (vec![Located, Stalled, Lost], true),
            (
                vec![Located, Doubted, Misfit, Revoked, DeadlinePassed, HandedOver],
                true,
            ),
            (vec![Located, Stuck, Misfit, Lost], true),
            (vec![Located, Hopeless, Revoked, Drained, HandedOver], true),
            (vec![Revoked, HandedOver], false),
            (vec![Misfit, Revoked, HandedOver], false),
            (vec![Misfit, Lost], false),
        ] {
            let (phase, done) = follow(&events);
            assert_eq!(phase, Phase::Gone, "{events:?}");
            let count = |action| done.iter().filter(|a| **a == action).count();
            assert_eq!(count(Action::Assign), usize::from(assigned), "{events:?}");
            assert_eq!(count(Action::Forget), usize::from(assigned), "{events:?}");
        }
    }
}

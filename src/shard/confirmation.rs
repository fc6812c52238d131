//! Until when it is certain that nobody else owns the partitions that are owned here.

use std::time::Instant;

use tokio::sync::watch;

use crate::source::Confirmed;

/// What the group has confirmed. A process that was stopped, or is cut off from the group, may own nothing any more and
/// not know it: its answers could be behind what another owner has made durable.
///
/// It is enough that it was certain at some time after a question has arrived: nobody else owned the partition when the
/// question was asked, so whatever was durable then is in the answer, whenever that leaves.
pub struct Confirmation {
    newest: watch::Sender<Option<Confirmed>>,
}

impl Confirmation {
    pub fn new() -> Self {
        Confirmation {
            newest: watch::Sender::new(None),
        }
    }

    pub fn set(&self, confirmed: Option<Confirmed>) {
        self.newest.send_replace(confirmed);
    }

    /// Whether it has been certain at this time or later.
    pub fn is_certain_since(&self, arrived: Instant) -> bool {
        is_certain_since(*self.newest.borrow(), arrived)
    }

    /// Waits until it has.
    pub async fn certain_since(&self, arrived: Instant) {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as this.
        let _ = newest.wait_for(|newest| is_certain_since(*newest, arrived)).await;
    }
}

fn is_certain_since(newest: Option<Confirmed>, arrived: Instant) -> bool {
    newest.is_some_and(|newest| newest.at >= arrived || newest.until > Instant::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_question_needs_a_confirmation_from_after_its_arrival_or_one_that_still_holds() {
        let confirmation = Confirmation::new();
        let arrived = Instant::now();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let with = |confirmed| {
            confirmation.set(confirmed);
            confirmation.is_certain_since(arrived)
        };
        let at = |at, until| Some(Confirmed { at, until });
        assert!(!with(None));
        assert!(
            !with(at(arrived - second, arrived - second)),
            "another may own it since then"
        );
        assert!(!with(at(arrived - minute, arrived - second)), "that is over");
        assert!(with(at(arrived - second, arrived + minute)));
        assert!(with(at(arrived, arrived)), "asked for after the question");
    }
}

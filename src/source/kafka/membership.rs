//! Until when the group counts on this member, whatever happens meanwhile.
//!
//! The coordinator gives a member up once it has heard nothing from it for the session's time. librdkafka notices that
//! by itself only once it runs, and counts from when it *read* an answer: after the process was stopped (SIGSTOP, a
//! machine that stood still) it takes an old answer for news, and goes on for a while as if nothing had happened. So
//! this counts from when something was *sent* that the coordinator has accepted, which is later than what it counts
//! from only by clocks that differ. What is sent are commits: the coordinator refuses those of a member that it has given up,
//! and to one that is a member they are as good as a heartbeat.
//!
//! | state | means | ends by |
//! |---|---|---|
//! | certain | nobody else can own what is assigned here | nearly a session without an accepted commit |
//! | in doubt | others may own it | an accepted commit, or the loss |
//! | lost | the group has said so, and nothing is assigned | an accepted commit, after partitions were assigned anew |
//!
//! While it is in doubt the coordinator is asked for the group's members again and again. A member that is listed was one
//! when the question was sent, so whoever asked this process before can be answered, and nothing follows for what
//! comes later. It takes that where a rebalance waits for a member that was killed: a broker takes no commit of a member
//! that waits to join, and holds on to it nevertheless.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::FetcherContext;
use crate::source::Confirmed;

/// Of the session's time, so many tenths count: clocks may run at rates that differ by the rest.
const CERTAIN_TENTHS: u32 = 9;
/// So often within the session's time membership is proved.
const PROOFS_PER_SESSION: u32 = 6;
/// The pause after a commit that was not accepted.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The pause between two looks at the group's members.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long one may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of being a member.
pub(super) struct Membership {
    session: Duration,
    /// When the next proof is to be asked for.
    due: Option<Instant>,
    /// Until when membership is certain.
    until: Option<Instant>,
    /// When the group's members may be looked at again; none while they are being looked at.
    look_at: Option<Instant>,
    /// Names this process to the group, and no other.
    client_id: Arc<str>,
}

impl Membership {
    /// Of a group whose coordinator gives members up after `session`, and knows this one by `client_id`.
    pub fn new(session: Duration, client_id: &str, now: Instant) -> Self {
        Membership {
            session,
            due: None,
            until: None,
            look_at: Some(now),
            client_id: client_id.into(),
        }
    }

    /// Whether a proof is to be asked for.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// What was sent at this time was accepted. Until when that is proof.
    pub fn proved(&mut self, sent_at: Instant) -> Confirmed {
        self.due = Some(sent_at + self.session / PROOFS_PER_SESSION);
        let until = sent_at + self.session * CERTAIN_TENTHS / 10;
        self.until = Some(until);
        Confirmed { at: sent_at, until }
    }

    /// It was not accepted.
    pub fn refused(&mut self, now: Instant) {
        self.due = Some(now + RETRY_PAUSE);
    }

    /// The group has given the member up: nothing that it has confirmed before counts.
    pub fn lost(&mut self) {
        self.due = None;
        self.until = None;
    }

    /// Whether others may own what is assigned here.
    pub fn is_in_doubt(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// What looks at the group's members, if it is time for that; then [`Membership::looked`] is to be called.
    pub fn look(
        &mut self,
        now: Instant,
        fetcher: &Arc<BaseConsumer<FetcherContext>>,
        group: &str,
    ) -> Option<impl FnOnce() -> bool + Send + 'static> {
        self.look_at.take_if(|at| now >= *at)?;
        let (fetcher, client_id, group) = (fetcher.clone(), self.client_id.clone(), group.to_owned());
        Some(
            move || match fetcher.fetch_group_list(Some(&group), LOOK_TIMEOUT) {
                Ok(listed) => listed
                    .groups()
                    .iter()
                    .flat_map(|group| group.members())
                    .any(|member| member.client_id() == &*client_id),
                Err(error) => {
                    tracing::debug!(group, %error, "the group's members can't be listed");
                    false
                }
            },
        )
    }

    /// The look has come to its end.
    pub fn looked(&mut self, now: Instant) {
        self.look_at = Some(now + LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_counts_from_when_it_was_asked_for_and_for_less_than_the_session() {
        let sent_at = Instant::now();
        let mut membership = Membership::new(Duration::from_secs(6), "it", sent_at);
        assert!(membership.is_due(sent_at), "nothing is known at the start");
        assert!(membership.is_in_doubt(sent_at));
        let Confirmed { at, until } = membership.proved(sent_at);
        assert_eq!((at, until - sent_at), (sent_at, Duration::from_millis(5400)));
        assert!(!membership.is_in_doubt(until - Duration::from_millis(1)) && membership.is_in_doubt(until));
        assert!(!membership.is_due(sent_at + Duration::from_millis(999)));
        assert!(membership.is_due(sent_at + Duration::from_secs(1)));
        membership.refused(sent_at);
        assert!(!membership.is_due(sent_at + RETRY_PAUSE / 2));
        assert!(membership.is_due(sent_at + RETRY_PAUSE));
        membership.lost();
        assert!(membership.is_due(sent_at) && membership.is_in_doubt(sent_at));
    }
}

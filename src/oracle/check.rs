//! Whether an answer agrees with the true numbers.

use super::{Membership, Numbers};

/// What the service answered for one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Whether there is a read state at all, where the answer tells it.
    pub exists: Option<bool>,
    /// Everything up to here is read.
    pub last_read: u64,
    /// The newest message that is not deleted; 0: none.
    pub last_message: u64,
    /// Unread messages.
    pub unread: u32,
    /// At least so many.
    pub unread_capped: bool,
    /// Unread messages that mention the user.
    pub mentions: u32,
    /// Those of them by name.
    pub direct: u32,
    /// At least so many, of both.
    pub mentions_capped: bool,
    /// Of the user.
    pub membership: Membership,
}

impl Reported {
    /// Whether this is a right answer where `true_numbers` are the true ones.
    ///
    /// Everything but the two mention counts has one right value. So have these, unless mentions may have been
    /// forgotten. The contract says which may: by-name mentions older than the read state's newest
    /// `max_direct_mentions`, and those older than the channel's newest `max_unread_count` messages that were read
    /// before and marked unread again. It leaves open whether they are, so two answers are right then:
    /// the true numbers as if nothing had been forgotten, or `mentions_capped` with counts that are not above the true
    /// ones. They may not be below the mentions above the place up to which the contract permits forgetting either.
    ///
    /// The oracle keeps that place as one id for each read state, `forgotten`, and takes the contract at its most
    /// permissive, since a service must not be blamed for what it may do:
    /// - When a read state has more than `max_direct_mentions` unread by-name mentions, the place is at least the newest
    ///   surplus one. It stays when newer ones are deleted afterwards, because what is forgotten can't come back.
    /// - When a mark moves `last_read` back over messages, what it passes and what is older than the newest
    ///   `max_unread_count` messages, deleted ones included, need not be looked at again. The place is at least the
    ///   newest id so passed, whether or not a message there mentions the user: who did not look can't know. If no
    ///   message at all lies there, nothing was passed. What was above the old `last_read` was not "read before":
    ///   a mark permits nothing there.
    /// - A late message up to the place may be missed as well, as it is among those of which only a lower bound is known.
    /// - Once `last_read` reaches the place, nothing above is uncertain, and the place is gone: a later mark recounts.
    /// - A deletion or an edit doesn't move the place: a service that has forgotten a mention can't tell that it was
    ///   the one taken away.
    ///
    /// # Errors
    /// Says what is wrong, with both sides.
    pub fn check(&self, true_numbers: &Numbers) -> Result<(), String> {
        let truth = true_numbers;
        let deleted = truth.membership == Membership::ChannelDeleted;
        let wrong = |what: &str| Err(format!("{what}: answered {self:?}, true is {truth:?}"));
        if !deleted && self.exists.is_some_and(|exists| exists != truth.exists) {
            return wrong("exists");
        }
        if self.last_read != truth.last_read {
            return wrong("last_read");
        }
        if self.last_message != truth.last_message {
            return wrong("last_message");
        }
        if self.membership != truth.membership {
            return wrong("membership");
        }
        if (self.unread, self.unread_capped) != (truth.unread, truth.unread_capped) {
            return wrong("unread");
        }
        let as_if_remembered = (self.mentions, self.direct, self.mentions_capped)
            == (truth.mentions, truth.direct, truth.mentions_capped);
        if as_if_remembered {
            return Ok(());
        }
        if !truth.may_be_forgotten {
            return wrong("mentions, where nothing may be forgotten");
        }
        if !self.mentions_capped {
            return wrong("mentions, neither exact nor capped");
        }
        if self.mentions > truth.mentions || self.direct > truth.direct {
            return wrong("mentions, more than there are");
        }
        if self.mentions < truth.mentions_kept || self.direct < truth.direct_kept {
            return wrong("mentions, fewer than may not be forgotten");
        }
        Ok(())
    }
}

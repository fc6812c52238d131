//! How many messages a user has not read: what a read state and a channel say together.

use std::ops::ControlFlow;

use super::channel::{Above, Head, Nodes, Wanted};
use super::ids::{MessageId, UserId};
use super::planted::{Bug, Planted};
use super::read_state::{Membership, ReadState, Remembered, RememberedList};

/// Up to where counts are exact. The rows depend on these, as contract section 2 allows.
#[derive(Clone, Copy, Debug)]
pub struct CountLimits {
    /// `limits.max_unread_count`.
    pub unread_max: u32,
    /// `limits.max_direct_mentions`.
    pub direct_mentions_max: usize,
}

impl Default for CountLimits {
    fn default() -> Self {
        CountLimits {
            unread_max: 10_000,
            direct_mentions_max: 1000,
        }
    }
}

/// The numbers of one user in one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Unread messages.
    pub unread: u32,
    /// At least so many.
    pub unread_capped: bool,
    /// Unread messages that mention the user.
    pub mentions: u32,
    /// Those of them that do so by name.
    pub direct_mentions: u32,
    /// At least so many, of both.
    pub mentions_capped: bool,
}

/// What counts are made of: messages above `last_read`, of a member of a channel that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Messages that are not deleted, by anyone (as far down as own ones were looked for).
    pub live: u64,
    /// Those of them that the user wrote.
    pub own: u64,
    /// Messages of others further down, where own ones were not looked for; counted until the cap is passed.
    pub others_below: u64,
    /// Messages that mention everyone.
    pub everyone: u64,
    /// Those of them that the user wrote.
    pub own_everyone: u64,
    /// Messages that mention the user by name.
    pub by_name: u64,
    /// Those of them that do not mention everyone as well.
    pub only_by_name: u64,
    /// Mentions by name may have been forgotten.
    pub forgotten: bool,
}

impl Parts {
    /// The numbers that these make.
    pub fn counts(&self, limits: &CountLimits) -> Counts {
        let max = u64::from(limits.unread_max);
        let unread = self.live.saturating_sub(self.own) + self.others_below;
        let mentions = self.everyone.saturating_sub(self.own_everyone) + self.only_by_name;
        Counts {
            unread: unread.min(max) as u32,
            unread_capped: unread > max,
            mentions: mentions.min(max) as u32,
            direct_mentions: self.by_name.min(max) as u32,
            mentions_capped: mentions > max || self.forgotten,
        }
    }
}

/// Counts what the user has not read.
///
/// # Errors
/// The nodes that are missing: count again once they are there.
pub fn count(
    state: &ReadState,
    user: UserId,
    head: &Head,
    nodes: &impl Nodes,
    limits: &CountLimits,
) -> Result<Counts, Vec<Wanted>> {
    parts(state, user, head, nodes, limits).map(|parts| parts.counts(limits))
}

/// What [`count`] counts, part by part. Nothing where the channel is deleted or the user left.
///
/// # Errors
/// The nodes that are missing: count again once they are there.
pub fn parts(
    state: &ReadState,
    user: UserId,
    head: &Head,
    nodes: &impl Nodes,
    limits: &CountLimits,
) -> Result<Parts, Vec<Wanted>> {
    if head.deleted || state.membership == Membership::Left {
        return Ok(Parts::default());
    }
    let known_above = state.last_read.max(state.own_unknown);
    let Above { live, everyone } = head.above(known_above, nodes).map_err(|wanted| vec![wanted])?;
    let own = state.own.len() as u64;
    debug_assert!(
        live >= own,
        "own messages above {known_above} are not in the channel"
    );
    let others = live.saturating_sub(own);
    let unread_max = u64::from(limits.unread_max);
    let is_looked_through = state.own_unknown <= state.last_read || others > unread_max;
    let others_below = if is_looked_through {
        0
    } else {
        count_unknown(state, user, head, nodes, unread_max + 1 - others)?
    };
    let with_everyone = |list: &[Remembered]| list.iter().filter(|message| message.everyone).count() as u64;
    let by_name = state.mentions.len() as u64;
    Ok(Parts {
        live,
        own,
        others_below,
        everyone,
        own_everyone: with_everyone(&state.own),
        by_name,
        only_by_name: by_name - with_everyone(&state.mentions),
        forgotten: state.forgotten > state.last_read,
    })
}

/// Counts unread messages where own ones were not looked for, up to `enough`.
fn count_unknown(
    state: &ReadState,
    user: UserId,
    head: &Head,
    nodes: &impl Nodes,
    enough: u64,
) -> Result<u64, Vec<Wanted>> {
    let mut unread = 0;
    head.descend(state.own_unknown, state.last_read, nodes, |message| {
        unread += u64::from(message.author != Some(user));
        if unread < enough {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(unread)
}

/// Marks everything above `last_read` as unread: recounts mentions and own messages from the messages themselves,
/// newest first, as far as the limits need. Only ever moves back.
///
/// It stops once more than `unread_max` unread messages are known, or as many own ones: then every count is capped,
/// and should deletions bring it below the cap, [`count`] looks at the rest.
///
/// # Errors
/// The nodes that are missing; nothing was changed.
pub fn rewind(
    state: &mut ReadState,
    last_read: MessageId,
    user: UserId,
    head: &Head,
    nodes: &impl Nodes,
    limits: &CountLimits,
    planted: Planted,
) -> Result<(), Vec<Wanted>> {
    let was_read_up_to = state.last_read;
    if last_read >= was_read_up_to {
        return Ok(());
    }
    if state.own_unknown > was_read_up_to {
        state.last_read = last_read;
        return Ok(());
    }
    let above = head.above(was_read_up_to, nodes).map_err(|wanted| vec![wanted])?;
    let mut unread = above.live.saturating_sub(state.own.len() as u64);
    let mut mentions = RememberedList::new();
    let mut own = RememberedList::new();
    let mut unknown = MessageId::NONE;
    let is_enough =
        |unread: u64, own: usize| unread > u64::from(limits.unread_max) || own > limits.unread_max as usize;
    if is_enough(unread, state.own.len()) {
        let passed = head.above(last_read, nodes).map_err(|wanted| vec![wanted])?;
        if passed.live > above.live {
            unknown = was_read_up_to;
        }
    } else {
        head.descend(was_read_up_to, last_read, nodes, |message| {
            let remembered = Remembered {
                id: message.id,
                everyone: message.everyone,
            };
            if message.author == Some(user) && !planted.is(Bug::RewindForgetsOwn) {
                own.push(remembered);
            } else {
                unread += 1;
                if message.counts_as_mention_of(user) && message.id > state.forgotten {
                    mentions.push(remembered);
                }
            }
            if is_enough(unread, state.own.len() + own.len()) {
                unknown = MessageId(message.id.0 - 1);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
    }
    let unknown = if unknown > last_read {
        unknown
    } else {
        MessageId::NONE
    };
    state.last_read = last_read;
    state.own_unknown = unknown;
    state.forgotten = state.forgotten.max(unknown);
    mentions.reverse();
    mentions.append(&mut state.mentions);
    state.mentions = mentions;
    own.reverse();
    own.append(&mut state.own);
    state.own = own;
    state.forget_oldest_mentions(limits.direct_mentions_max);
    Ok(())
}

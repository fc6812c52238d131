//! What one user has read in one channel.

use smallvec::SmallVec;

use super::ids::{LogPosition, MAX_ID, MessageId};

/// Membership as joins and leaves have told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// No join or leave seen: counts as a member that has read nothing.
    #[default]
    Unspecified,
    /// Joined.
    Joined,
    /// Left: counts are 0 until the next join.
    Left,
}

/// A message that a read state remembers, with its everyone flag so that it is not counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The message.
    pub id: MessageId,
    /// Whether it mentions everyone.
    pub everyone: bool,
}

/// Remembered messages: almost always none or one, which takes no memory of its own.
pub type RememberedList = SmallVec<[Remembered; 1]>;

/// What one user has read in one channel. The default is the state of a user nothing was heard of.
///
/// A function of the records up to `applied` (invariant 2). The lists hold live messages above `last_read` only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// The last record that changed this state; [`LogPosition::NOTHING`] while there is no such read state.
    pub applied: LogPosition,
    /// Every message up to here is read.
    pub last_read: MessageId,
    /// As joins and leaves have told.
    pub membership: Membership,
    /// Unread messages of others that mention the user by name, ascending: all those above `forgotten`.
    pub mentions: RememberedList,
    /// The user's own messages above `last_read`, ascending: all those above `own_unknown`.
    pub own: RememberedList,
    /// By-name mentions up to here may have been forgotten. 0 or above `last_read`.
    pub forgotten: MessageId,
    /// Own messages up to here were not looked for. 0 or above `last_read`.
    pub own_unknown: MessageId,
}

impl ReadState {
    /// Whether there is such a read state at all.
    pub fn exists(&self) -> bool {
        self.applied != LogPosition::NOTHING
    }

    /// What is promised about the fields, for one that comes from outside.
    ///
    /// # Errors
    /// Which promise it breaks.
    pub fn check(&self) -> Result<(), String> {
        let last_read = self.last_read;
        if last_read.0 > MAX_ID {
            return Err(format!("last_read {last_read} is out of range"));
        }
        for (name, list) in [("mention", &self.mentions), ("own message", &self.own)] {
            let mut below = last_read;
            for message in list {
                if message.id <= below || message.id.0 > MAX_ID {
                    return Err(format!("{name} {} does not follow {below}", message.id));
                }
                below = message.id;
            }
        }
        for (name, mark) in [("forgotten", self.forgotten), ("own_unknown", self.own_unknown)] {
            let fits = mark == MessageId::NONE || (mark > last_read && mark.0 <= MAX_ID);
            if !fits {
                return Err(format!(
                    "{name} {mark} is neither 0 nor above last_read {last_read}"
                ));
            }
        }
        Ok(())
    }

    /// Everything up to `id` is read. Never moves back.
    pub fn read_up_to(&mut self, id: MessageId) {
        if id <= self.last_read {
            return;
        }
        self.last_read = id;
        forget_up_to(&mut self.mentions, id);
        forget_up_to(&mut self.own, id);
        for mark in [&mut self.forgotten, &mut self.own_unknown] {
            if *mark <= id {
                *mark = MessageId::NONE;
            }
        }
    }

    /// The user left: nothing counts until the next join, which reads everything, so nothing need be remembered.
    pub fn leave(&mut self) {
        self.membership = Membership::Left;
        self.mentions = RememberedList::new();
        self.own = RememberedList::new();
        self.forgotten = MessageId::NONE;
        self.own_unknown = MessageId::NONE;
    }

    /// A live message of someone else mentions the user by name, with this everyone flag.
    pub fn mentioned_by(&mut self, id: MessageId, everyone: bool, direct_mentions_max: usize) {
        if id <= self.last_read || id <= self.forgotten || self.membership == Membership::Left {
            return;
        }
        match self.mentions.binary_search_by_key(&id, |mention| mention.id) {
            Ok(index) => self.mentions[index].everyone = everyone,
            Err(index) => self.mentions.insert(index, Remembered { id, everyone }),
        }
        self.forget_oldest_mentions(direct_mentions_max);
    }

    /// Keeps the newest `direct_mentions_max` mentions.
    pub fn forget_oldest_mentions(&mut self, direct_mentions_max: usize) {
        if let Some(excess) = self
            .mentions
            .len()
            .checked_sub(direct_mentions_max)
            .filter(|excess| *excess > 0)
        {
            self.forgotten = self.forgotten.max(self.mentions[excess - 1].id);
            self.mentions.drain(..excess);
        }
    }

    /// A message does not mention the user by name any more, or is gone.
    pub fn not_mentioned_by(&mut self, id: MessageId) {
        remove(&mut self.mentions, id);
    }

    /// An own message changed its everyone flag.
    pub fn own_changed(&mut self, id: MessageId, everyone: bool) {
        if let Ok(index) = self.own.binary_search_by_key(&id, |own| own.id) {
            self.own[index].everyone = everyone;
        }
    }

    /// An own message is gone.
    pub fn own_deleted(&mut self, id: MessageId) {
        remove(&mut self.own, id);
    }
}

fn forget_up_to(list: &mut RememberedList, id: MessageId) {
    let read = list.partition_point(|remembered| remembered.id <= id);
    if read > 0 {
        list.drain(..read);
    }
}

fn remove(list: &mut RememberedList, id: MessageId) {
    if let Ok(index) = list.binary_search_by_key(&id, |remembered| remembered.id) {
        list.remove(index);
    }
}

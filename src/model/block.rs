//! Neighbouring messages of a channel, in as little memory as possible: 24 bytes each, and 8 for each mention by name.

use super::channel::{Above, NodeRef, Shape};
use super::ids::{LogPosition, MessageId, UserId};

/// A message, or the mark that one was deleted before it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<Users = Box<[UserId]>> {
    /// Its id.
    pub id: MessageId,
    /// Who wrote it, if a user did.
    pub author: Option<UserId>,
    /// Users mentioned by name or by role, ascending, each once.
    pub mentions: Users,
    /// Whether it mentions everyone.
    pub everyone: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Whether it was created. False for a message that was deleted before it was created: a mark, no message.
    pub created: bool,
}

/// A message in a block.
pub type MessageRef<'a> = Message<&'a [UserId]>;

impl<Users: AsRef<[UserId]>> Message<Users> {
    /// Whether it counts: created and not deleted.
    pub fn is_live(&self) -> bool {
        self.created && !self.deleted
    }

    /// Whether it counts as a mention of the user by name: nobody is mentioned by an own message.
    pub fn counts_as_mention_of(&self, user: UserId) -> bool {
        self.author != Some(user) && self.mentions.as_ref().binary_search(&user).is_ok()
    }

    /// One of its own, whoever has this one.
    pub fn to_owned(&self) -> Message {
        Message {
            id: self.id,
            author: self.author,
            mentions: self.mentions.as_ref().into(),
            everyone: self.everyone,
            deleted: self.deleted,
            created: self.created,
        }
    }
}

/// A message as a block keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    id: MessageId,
    /// If [`Row::HAS_AUTHOR`].
    author: UserId,
    /// Where its mentions end among those of all; they begin where those of the message before end.
    mentions_end: u32,
    flags: u8,
}

const _: () = assert!(size_of::<Row>() == 24);

impl Row {
    const HAS_AUTHOR: u8 = 1;
    const EVERYONE: u8 = 2;
    const DELETED: u8 = 4;
    const CREATED: u8 = 8;

    fn new<Users>(message: &Message<Users>, mentions_end: usize) -> Self {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        Row {
            id: message.id,
            author: message.author.unwrap_or_default(),
            mentions_end: u32::try_from(mentions_end).unwrap_or_else(|_| {
                unreachable!("a row of the store holds a block, and fewer than 2^32 mentions fit into one")
            }),
            flags: flag(message.author.is_some(), Row::HAS_AUTHOR)
                | flag(message.everyone, Row::EVERYONE)
                | flag(message.deleted, Row::DELETED)
                | flag(message.created, Row::CREATED),
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn is_live(&self) -> bool {
        self.flags & (Row::CREATED | Row::DELETED) == Row::CREATED
    }

    fn counts(&self) -> Above {
        Above {
            live: u64::from(self.is_live()),
            everyone: u64::from(self.is_live() && self.has(Row::EVERYONE)),
        }
    }
}

/// A block that is full gets room for a quarter more: most of its memory is messages then, and that of a block which is cut
/// as its next message comes is not doubled first.
const ROWS_BY_SPARE: usize = 4;
const SPARE_ROWS_MIN: usize = 4;

/// A leaf of a channel's tree: neighbouring messages, ascending by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    rows: Vec<Row>,
    /// Mentions by name, message after message.
    named: Vec<UserId>,
}

/// What an edit made of one message of a block.
pub(super) struct Edited {
    /// Its place.
    pub index: usize,
    pub before: Above,
    pub after: Above,
}

impl Block {
    /// A block of these messages, ascending by id.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        let mut block = Block::default();
        for message in messages {
            block.named.extend_from_slice(&message.mentions);
            block.rows.push(Row::new(&message, block.named.len()));
        }
        block
    }

    /// The messages, in the order of their ids.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = MessageRef<'_>> + ExactSizeIterator + Clone {
        (0..self.rows.len()).map(|index| self.message(index))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The newest message, as it is kept: nothing to read, but something to have at hand in time.
    pub fn newest(&self) -> Option<&Row> {
        self.rows.last()
    }

    /// The lowest id in it.
    pub(super) fn first(&self) -> Option<MessageId> {
        self.rows.first().map(|row| row.id)
    }

    fn message(&self, index: usize) -> MessageRef<'_> {
        let row = &self.rows[index];
        Message {
            id: row.id,
            author: row.has(Row::HAS_AUTHOR).then_some(row.author),
            mentions: &self.named[self.mentions_start(index)..row.mentions_end as usize],
            everyone: row.has(Row::EVERYONE),
            deleted: row.has(Row::DELETED),
            created: row.has(Row::CREATED),
        }
    }

    fn mentions_start(&self, index: usize) -> usize {
        let before = index.checked_sub(1).map(|before| self.rows[before].mentions_end);
        before.unwrap_or_default() as usize
    }

    pub(super) fn insert(&mut self, message: &Message) -> Edited {
        let index = self.find(message.id).unwrap_or_else(|index| index);
        let start = self.mentions_start(index);
        let row = Row::new(message, start);
        if self.rows.len() == self.rows.capacity() {
            self.rows
                .reserve_exact((self.rows.len() / ROWS_BY_SPARE).max(SPARE_ROWS_MIN));
        }
        self.rows.insert(index, row);
        self.put_mentions(index, start..start, &message.mentions);
        Edited {
            index,
            before: Above::default(),
            after: row.counts(),
        }
    }

    pub(super) fn modify(&mut self, id: MessageId, change: impl FnOnce(&mut Message)) -> Edited {
        let index = self
            .find(id)
            .unwrap_or_else(|_| unreachable!("message {id} is modified but not there"));
        let before = self.rows[index];
        let mut message = self.message(index).to_owned();
        change(&mut message);
        let (start, end) = (self.mentions_start(index), before.mentions_end as usize);
        self.rows[index] = Row::new(&message, end);
        self.put_mentions(index, start..end, &message.mentions);
        Edited {
            index,
            before: before.counts(),
            after: self.rows[index].counts(),
        }
    }

    /// Replaces the mentions of a message; those of later ones move.
    fn put_mentions(&mut self, index: usize, range: std::ops::Range<usize>, users: &[UserId]) {
        if range.is_empty() && users.is_empty() {
            return;
        }
        let (before, after) = (range.len() as u32, users.len() as u32);
        self.named.splice(range, users.iter().copied());
        for row in &mut self.rows[index..] {
            row.mentions_end = row.mentions_end - before + after;
        }
    }

    pub(super) fn newest_live(&self) -> MessageId {
        let newest = self.rows.iter().rev().find(|row| row.is_live());
        newest.map_or(MessageId::NONE, |row| row.id)
    }

    /// Its place among the messages, or the place where it would be. Most are asked for while they are new: what is near the
    /// end is found without a look at the rest.
    fn find(&self, id: MessageId) -> Result<usize, usize> {
        let len = self.rows.len();
        let (mut from_end, mut up_to) = (1, len);
        while from_end < len && self.rows[len - from_end].id > id {
            up_to = len - from_end;
            from_end *= 2;
        }
        let start = len.saturating_sub(from_end);
        let found = self.rows[start..up_to].binary_search_by_key(&id, |row| row.id);
        found.map(|index| start + index).map_err(|index| start + index)
    }

    /// The message with this id.
    pub fn get(&self, id: MessageId) -> Option<MessageRef<'_>> {
        self.find(id).ok().map(|index| self.message(index))
    }

    pub(super) fn above(&self, id: MessageId) -> Above {
        let start = self.find(id).map_or_else(|index| index, |index| index + 1);
        self.rows[start..].iter().fold(Above::default(), |sum, row| {
            let Above { live, everyone } = row.counts();
            Above {
                live: sum.live + live,
                everyone: sum.everyone + everyone,
            }
        })
    }

    /// What the parent has to know of this block.
    pub fn to_ref(&self, first: MessageId, version: LogPosition) -> NodeRef {
        NodeRef::new(first, version, self.above(MessageId::NONE), self.newest_live())
    }

    pub(super) fn is_overfull(&self, shape: &Shape) -> bool {
        self.rows.len() > shape.block_messages_max
            || (self.rows.len() > 1 && self.named.len() > shape.block_mentions_max)
    }

    /// Cuts an overfull block into ones that are not, the first cut at `at`.
    pub(super) fn split(mut self, at: usize, shape: &Shape, parts: &mut Vec<Block>) {
        if !self.is_overfull(shape) {
            return parts.push(self);
        }
        let upper = self.split_off(at);
        for half in [self, upper] {
            let middle = half.rows.len() / 2;
            half.split(middle, shape, parts);
        }
    }

    /// Takes the messages from this place on out. What is left will hardly grow any more.
    fn split_off(&mut self, at: usize) -> Block {
        let named_before = self.mentions_start(at);
        let mut upper = Block {
            rows: self.rows.split_off(at),
            named: self.named.split_off(named_before),
        };
        for row in &mut upper.rows {
            row.mentions_end -= named_before as u32;
        }
        self.rows.shrink_to_fit();
        self.named.shrink_to_fit();
        upper
    }

    /// The memory it takes.
    pub fn weight_bytes(&self) -> usize {
        size_of::<Block>() + self.heap_bytes()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.named.capacity() * size_of::<UserId>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let mentions = prop::collection::btree_set((1..9_u64).prop_map(UserId), 0..4);
        let flags = any::<[bool; 3]>();
        let author = prop::option::of((1..9_u64).prop_map(UserId));
        (1..40_u64, author, mentions, flags).prop_map(|(id, author, mentions, flags)| Message {
            id: MessageId(id),
            author,
            mentions: mentions.into_iter().collect(),
            everyone: flags[0],
            deleted: flags[1],
            created: flags[2],
        })
    }

    fn sums<'a>(messages: impl Iterator<Item = &'a Message>) -> Above {
        let live: Vec<&Message> = messages.filter(|message| message.is_live()).collect();
        Above {
            live: live.len() as u64,
            everyone: live.iter().filter(|message| message.everyone).count() as u64,
        }
    }

    #[test]
    fn most_of_its_memory_is_messages() {
        let mut block = Block::default();
        for id in (1..=128).map(MessageId) {
            let author = Some(UserId(id.0));
            block.insert(&Message {
                id,
                author,
                mentions: Box::default(),
                everyone: false,
                deleted: false,
                created: true,
            });
            assert!(block.heap_bytes() <= size_of::<Row>() * (block.len() * 5 / 4 + SPARE_ROWS_MIN));
        }
    }

    proptest! {
        /// Against a list of messages.
        #[test]
        fn it_keeps_what_was_put_in(
            steps in prop::collection::vec(message(), 0..60),
            at in 0..40_usize,
        ) {
            let (mut block, mut list) = (Block::default(), Vec::<Message>::new());
            for message in steps {
                let Edited { index, before, after } = match list.binary_search_by_key(&message.id, |it| it.id) {
                    Ok(index) => {
                        let edited = block.modify(message.id, |it| *it = message.clone());
                        prop_assert_eq!(edited.before, sums([&list[index]].into_iter()));
                        list[index] = message.clone();
                        edited
                    }
                    Err(index) => {
                        list.insert(index, message.clone());
                        block.insert(&message)
                    }
                };
                prop_assert_eq!(list[index].id, message.id);
                prop_assert!(before.live <= 1);
                prop_assert_eq!(after, sums([&message].into_iter()));
                prop_assert_eq!(&block, &Block::new(list.clone()));
            }
            for id in (0..42).map(MessageId) {
                prop_assert_eq!(block.get(id).map(|it| it.to_owned()), list.iter().find(|it| it.id == id).cloned());
                prop_assert_eq!(block.above(id), sums(list.iter().filter(|it| it.id > id)));
            }
            let newest = list.iter().rev().find(|message| message.is_live());
            prop_assert_eq!(block.newest_live(), newest.map_or(MessageId::NONE, |message| message.id));
            let at = at.min(list.len());
            let upper = block.split_off(at);
            prop_assert_eq!(upper, Block::new(list.split_off(at)));
            prop_assert_eq!(block, Block::new(list));
        }
    }
}

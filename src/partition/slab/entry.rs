//! A read state in 44 bytes. Ids leave the highest bit of their word free, places in the log 14 bits.

use crate::model::ids::{ChannelId, LogPosition, MessageId, ReadStateKey, UserId};
use crate::model::read_state::{Membership, ReadState, Remembered, RememberedList};

/// Bits of a [`LogPosition`].
const PLACE_BITS: u32 = 50;
const PLACE: u64 = (1 << PLACE_BITS) - 1;
const TOP: u64 = 1 << 63;
/// Highest bits of `applied`: the store has a row; it is changed and not acknowledged.
const STORED: u64 = 1 << 63;
const DIRTY: u64 = 1 << 62;
/// Between them: whose it is.
const TENANT_BITS: u32 = 12;
/// Tenants are below this.
pub const TENANTS_MAX: u16 = 1 << TENANT_BITS;
const TENANT: u64 = ((TENANTS_MAX as u64) - 1) << PLACE_BITS;

/// What an entry remembers besides `last_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(u64);

impl Memory {
    /// Nothing.
    pub const NOTHING: Memory = Memory(0);

    /// One mention.
    fn one(mention: Remembered) -> Self {
        Memory(mention.id.0 | if mention.everyone { TOP } else { 0 })
    }

    #[inline]
    fn mentions(self) -> RememberedList {
        match self.0 {
            0 => RememberedList::new(),
            _ => RememberedList::from_buf([Remembered {
                id: MessageId(self.0 & !TOP),
                everyone: self.0 & TOP != 0,
            }]),
        }
    }

    /// Where more is remembered, by number.
    pub fn more(number: u32) -> Self {
        Memory(u64::from(number))
    }

    /// The inverse of [`Memory::more`].
    pub fn number(self) -> u32 {
        self.0 as u32
    }
}

/// What does not fit into an entry: more than one mention, own messages, and what was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    mentions: RememberedList,
    own: RememberedList,
    forgotten: MessageId,
    own_unknown: MessageId,
}

/// A read state, whose it is, and how it stands to the store. Together, since each of them would be one more wait for memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, packed(4))]
pub struct Entry {
    /// Highest bit: joined.
    user: u64,
    /// Highest bit: left.
    channel: u64,
    /// Highest bit: there is [`More`].
    last_read: u64,
    /// With tenant and flags.
    applied: u64,
    /// A [`Memory`].
    memory: u64,
    /// Of a clean entry the time when it was settled, of a changed one the number of its change, of a free slot the next
    /// free one.
    pub tag: u32,
}

const _: () = assert!(size_of::<Entry>() == 44);

impl Entry {
    /// An entry that holds nothing yet.
    pub fn new(tenant: u16, key: &ReadStateKey) -> Self {
        Entry {
            user: key.user.0,
            channel: key.channel.0,
            applied: u64::from(tenant) << PLACE_BITS,
            ..Entry::default()
        }
    }

    pub fn is(&self, tenant: u16, key: &ReadStateKey) -> bool {
        let differs = ((self.user ^ key.user.0) | (self.channel ^ key.channel.0)) & !TOP;
        differs == 0 && self.tenant() == tenant
    }

    /// Whether nothing is there: no user has the id 0.
    pub fn is_free(&self) -> bool {
        self.user == 0
    }

    pub fn key(&self) -> ReadStateKey {
        ReadStateKey {
            user: UserId(self.user & !TOP),
            channel: ChannelId(self.channel & !TOP),
        }
    }

    pub fn tenant(&self) -> u16 {
        ((self.applied & TENANT) >> PLACE_BITS) as u16
    }

    pub fn set_tenant(&mut self, tenant: u16) {
        self.applied = self.applied & !TENANT | u64::from(tenant) << PLACE_BITS;
    }

    pub fn applied(&self) -> LogPosition {
        LogPosition::from_bits(self.applied & PLACE)
    }

    pub fn set_applied(&mut self, at: LogPosition) {
        self.applied = self.applied & !PLACE | at.to_bits();
    }

    /// As [`ReadState::exists`].
    pub fn exists(&self) -> bool {
        self.applied() != LogPosition::NOTHING
    }

    pub fn is_stored(&self) -> bool {
        self.applied & STORED != 0
    }

    pub fn set_stored(&mut self, is_stored: bool) {
        self.applied = self.applied & !STORED | if is_stored { STORED } else { 0 };
    }

    pub fn is_dirty(&self) -> bool {
        self.applied & DIRTY != 0
    }

    pub fn set_dirty(&mut self, is_dirty: bool) {
        self.applied = self.applied & !DIRTY | if is_dirty { DIRTY } else { 0 };
    }

    /// What it remembers, or where more than that is.
    pub fn memory(&self) -> Memory {
        Memory(self.memory)
    }

    pub fn set_memory(&mut self, memory: Memory) {
        self.memory = memory.0;
    }

    pub fn has_more(&self) -> bool {
        self.last_read & TOP != 0
    }

    fn membership(&self) -> Membership {
        match (self.user & TOP != 0, self.channel & TOP != 0) {
            (true, _) => Membership::Joined,
            (_, true) => Membership::Left,
            _ => Membership::Unspecified,
        }
    }

    /// Takes over what fits, and gives back what has to be kept elsewhere.
    #[inline]
    pub fn pack(&mut self, state: &ReadState) -> Option<More> {
        let top = |is_set: bool| if is_set { TOP } else { 0 };
        let fits = state.mentions.len() <= 1
            && state.own.is_empty()
            && state.forgotten == MessageId::NONE
            && state.own_unknown == MessageId::NONE;
        self.user = self.user & !TOP | top(state.membership == Membership::Joined);
        self.channel = self.channel & !TOP | top(state.membership == Membership::Left);
        self.last_read = state.last_read.0 | top(!fits);
        self.set_applied(state.applied);
        if fits {
            self.memory = state
                .mentions
                .first()
                .map_or(Memory::NOTHING, |it| Memory::one(*it))
                .0;
            return None;
        }
        Some(More {
            mentions: state.mentions.clone(),
            own: state.own.clone(),
            forgotten: state.forgotten,
            own_unknown: state.own_unknown,
        })
    }

    /// The read state, with `more` where there is more. Made in one go: parts that are stored and then moved on in larger ones
    /// make the processor wait.
    #[inline]
    pub fn unpack(&self, more: Option<&More>) -> ReadState {
        match more {
            None => ReadState {
                applied: self.applied(),
                last_read: MessageId(self.last_read & !TOP),
                membership: self.membership(),
                mentions: Memory(self.memory).mentions(),
                own: RememberedList::new(),
                forgotten: MessageId::NONE,
                own_unknown: MessageId::NONE,
            },
            Some(more) => self.unpack_with(more),
        }
    }

    #[cold]
    fn unpack_with(&self, more: &More) -> ReadState {
        ReadState {
            applied: self.applied(),
            last_read: MessageId(self.last_read & !TOP),
            membership: self.membership(),
            mentions: more.mentions.clone(),
            own: more.own.clone(),
            forgotten: more.forgotten,
            own_unknown: more.own_unknown,
        }
    }
}

//! The numbers that name things. Each is a type of its own, so that a user is never taken for a channel.

use std::fmt;

/// The largest id that the wire format allows: 2^63 - 1.
pub const MAX_ID: u64 = i64::MAX as u64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user, 1 ..= 2^63-1.
    UserId
}
id! {
    /// A channel, 1 ..= 2^63-1.
    ChannelId
}
id! {
    /// A message, 1 ..= 2^63-1; 0 stands for "none" and is below every message.
    MessageId
}
id! {
    /// The offset of a record in its partition (JetStream: the stream sequence).
    Offset
}

impl MessageId {
    /// Below every message.
    pub const NONE: MessageId = MessageId(0);
}

/// The number of a partition of the stream.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What names a read state: one user in one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadStateKey {
    /// The user.
    pub user: UserId,
    /// The channel.
    pub channel: ChannelId,
}

/// A place in the life of a partition: the epoch of the stream and an offset in it, or the start of that epoch.
///
/// Packed as `epoch << 42 | (offset + 1)`, so that places compare across epochs, and so that the number serves as
/// the write timestamp of a row as it is. The default is before everything.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(u64);

impl LogPosition {
    /// Before every record of every epoch. A row that never was written has this as `applied`.
    pub const NOTHING: LogPosition = LogPosition(0);
    const OFFSET_BITS: u32 = 42;
    /// Epochs are below this: ScyllaDB refuses timestamps more than 3 days ahead of now in µs, which 2^50 is below.
    pub const EPOCHS_MAX: u32 = 1 << 8;
    /// Offsets are below this.
    pub const OFFSETS_MAX: u64 = (1 << Self::OFFSET_BITS) - 1;

    /// The record at `offset` in `epoch`.
    ///
    /// # Panics
    /// If either is out of range: 255 epochs, or 4.4 million million records in one partition.
    pub fn new(epoch: u32, offset: Offset) -> Self {
        assert!(
            epoch < Self::EPOCHS_MAX,
            "stream.epoch {epoch} is above {}",
            Self::EPOCHS_MAX - 1
        );
        assert!(
            offset.0 < Self::OFFSETS_MAX,
            "offset {offset} is above {}",
            Self::OFFSETS_MAX - 1
        );
        LogPosition((u64::from(epoch) << Self::OFFSET_BITS) | (offset.0 + 1))
    }

    /// Before the first record of `epoch`, after every record of the epochs before it.
    pub fn start(epoch: u32) -> Self {
        assert!(
            epoch < Self::EPOCHS_MAX,
            "stream.epoch {epoch} is above {}",
            Self::EPOCHS_MAX - 1
        );
        LogPosition(u64::from(epoch) << Self::OFFSET_BITS)
    }

    /// The epoch.
    pub fn epoch(self) -> u32 {
        (self.0 >> Self::OFFSET_BITS) as u32
    }

    /// The offset, or nothing at the start of the epoch.
    pub fn offset(self) -> Option<Offset> {
        (self.0 & Self::OFFSETS_MAX).checked_sub(1).map(Offset)
    }

    /// The place just before this one. Never crosses into another epoch.
    pub fn before(self) -> Self {
        if self.offset().is_some() {
            LogPosition(self.0 - 1)
        } else {
            self
        }
    }

    /// As stored, and as the write timestamp of a row.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`LogPosition::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        LogPosition(bits)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.epoch(), self.offset()) {
            (0, None) => f.write_str("start"),
            (0, Some(offset)) => write!(f, "{offset}"),
            (epoch, None) => write!(f, "epoch {epoch} start"),
            (epoch, Some(offset)) => write!(f, "epoch {epoch} offset {offset}"),
        }
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_positions_order_by_epoch_then_offset() {
        let places = [
            LogPosition::NOTHING,
            LogPosition::new(0, Offset(0)),
            LogPosition::new(0, Offset(7)),
            LogPosition::start(1),
            LogPosition::new(1, Offset(0)),
            LogPosition::new(255, Offset(1 << 41)),
        ];
        assert!(places.is_sorted_by(|a, b| a < b));
        for place in places {
            assert_eq!(LogPosition::from_bits(place.to_bits()), place);
            assert!(place.to_bits() < 1 << 50);
        }
        assert_eq!(places[2].before(), LogPosition::new(0, Offset(6)));
        assert_eq!(places[4].before(), places[3]);
        assert_eq!(places[3].before(), places[3]);
    }
}

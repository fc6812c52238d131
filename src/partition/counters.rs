//! What a partition counts, in plain fields: they are published when someone looks.

use crate::model::event::EVENT_KINDS;

/// Why an event changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The message is known already.
    Duplicate,
    /// An edit of a message that is not known.
    UnknownMessage,
    /// The channel is gone.
    ChannelDeleted,
    /// The record was applied before: it is at or before what the store has of the channel.
    Replayed,
}

impl Ignored {
    /// The label values, in the order of the variants.
    pub const NAMES: [&str; 4] = ["duplicate", "unknown_message", "channel_deleted", "replayed"];
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a partition counted since it was assigned.
        #[derive(Clone, Debug, Default)]
        pub struct Counters {
            /// Events applied or ignored, by kind as in [`EVENT_KINDS`].
            pub events: [u64; EVENT_KINDS.len()],
            /// Events that changed nothing, by [`Ignored`].
            pub ignored: [u64; Ignored::NAMES.len()],
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds what another partition counted.
            pub fn add(&mut self, other: &Counters) {
                for (sum, count) in self.events.iter_mut().zip(other.events) {
                    *sum += count;
                }
                for (sum, count) in self.ignored.iter_mut().zip(other.ignored) {
                    *sum += count;
                }
                $(self.$name += other.$name;)*
            }

            /// The names and values of what is not by kind or reason.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Records without an event: they went to the dead letters.
    dead_letters,
    /// Times that the end of the partition was beyond the last record (transaction markers).
    ends_passed,
    /// Looks into the cache that found a read state.
    read_state_hits,
    /// Looks into the cache that had to load a read state.
    read_state_misses,
    /// Looks into the cache that found a head or node.
    channel_hits,
    /// Looks into the cache that had to load a head or node.
    channel_misses,
    /// Clean read states that made room.
    read_states_evicted,
    /// Clean heads and nodes that made room.
    channels_evicted,
    /// Evictions of something loaded or acknowledged in the last seconds.
    fresh_evictions,
    /// Loads that failed.
    loads_failed,
    /// Rows that came for a load that had become void.
    void_loads,
    /// Times a record had to wait for a load.
    records_waited,
    /// Records that waited behind another one of their channel.
    records_queued,
    /// Changes of a read state that its row had already.
    changes_skipped,
    /// Channels forgotten because their head was ahead.
    forgotten_ahead,
    /// Channels forgotten because a node was gone.
    forgotten_node_gone,
    /// Answers that waited behind records of their channel.
    answers_queued,
    /// Answers that waited because a row was ahead.
    answers_ahead,
    /// Requests that waited for a position.
    requests_after,
    /// Answers given from what is cached while the store fails.
    answers_without_store,
    /// Answers given from what is cached while a load takes long.
    answers_past_slow_loads,
    /// Requests that ran out of time.
    requests_expired,
    /// Requests refused because too many wait.
    requests_refused,
    /// Rows handed over and taken.
    handed_rows_taken,
    /// Rows handed over with a stamp too old.
    handed_rows_old,
    /// Rows handed over that a fresh eviction made void.
    handed_rows_void,
    /// Rows handed over for a read state that was cached.
    handed_rows_known,
    /// Overviews that must begin again, since their stamp became void.
    overviews_void,
    /// Read states added to an overview that the store did not show.
    overview_keys_added,
    /// Times too much was waiting or unwritten.
    congestions,
}

impl Counters {
    pub(super) fn ignore(&mut self, why: Ignored) {
        self.ignored[why as usize] += 1;
    }
}

//! Which partition a channel belongs to: the rule of Kafka's Java client.

use crate::model::ids::{ChannelId, MAX_ID, PartitionId};

/// Decimal digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// The partition of a channel, of `partition_count`.
///
/// As `BuiltInPartitioner.partitionForKey` of Kafka's Java client does for the channel id in decimal ASCII:
/// `(murmur2(key) & 0x7fffffff) % partition_count`. Allocates nothing.
///
/// # Panics
/// If `partition_count` is 0.
pub fn partition_of(channel: ChannelId, partition_count: u32) -> PartitionId {
    partition_of_key(DecimalKey::new(channel).as_bytes(), partition_count)
}

/// The partition of any key, of `partition_count`.
///
/// # Panics
/// If `partition_count` is 0.
pub fn partition_of_key(key: &[u8], partition_count: u32) -> PartitionId {
    PartitionId((murmur2(key) & 0x7fff_ffff) % partition_count)
}

/// The key of a channel's records: its id in decimal ASCII, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct DecimalKey {
    digits: [u8; DIGITS_MAX],
    first: usize,
}

impl DecimalKey {
    /// The key of a channel.
    pub fn new(channel: ChannelId) -> Self {
        let mut digits = [b'0'; DIGITS_MAX];
        let mut first = DIGITS_MAX;
        let mut rest = channel.0;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return DecimalKey { digits, first };
            }
        }
    }

    /// As it stands in the record.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.first..]
    }
}

/// Whether these bytes are the key of a channel's records: no sign, no leading zeros, no id above [`MAX_ID`].
pub fn is_key_of(key: &[u8], channel: ChannelId) -> bool {
    // So many digits fit into a u64, whichever they are.
    const ID_DIGITS_MAX: usize = 19;
    let canonical = key.first().is_some_and(|first| *first != b'0') && key.len() <= ID_DIGITS_MAX;
    if !canonical || !key.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = key
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    number == channel.0 && number <= MAX_ID
}

/// Murmur2 in 32 bits, by Austin Appleby, with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;

    let (words, tail) = data.as_chunks::<4>();
    // Java's length is an i32, so longer keys than that can't be.
    let mut hash = SEED ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first six are `testMurmur2` of Kafka's
    /// `clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java`; the others were computed by
    /// `Utils.murmur2` of kafka-clients 4.4.0: every length of the last word, the largest id, and the empty key.
    const HASHES: &[(&str, i32)] = &[
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
        ("", 275_646_681),
        ("1", -1_993_445_489),
        ("12", 126_087_238),
        ("123", -267_702_483),
        ("1234", -1_614_185_708),
        ("12345", -1_188_365_604),
        ("2953243897484280", 378_262_073),
        ("9223372036854775807", -1_221_667_907),
    ];

    /// Channel, partitions, partition: from `BuiltInPartitioner.partitionForKey` of kafka-clients 4.4.0.
    const PARTITIONS: &[(u64, u32, u32)] = &[
        (1, 1, 0),
        (1, 3, 0),
        (1, 16, 15),
        (1, 1000, 159),
        (2, 3, 2),
        (2, 16, 8),
        (2_953_243_897_484_280, 16, 9),
        (2_953_243_897_484_280, 1000, 73),
        (8_088_948_414_452_350, 16, 8),
        (8_088_948_414_452_350, 1000, 952),
        (i64::MAX as u64, 16, 13),
        (i64::MAX as u64, 1000, 741),
    ];

    #[test]
    fn hashes_are_those_of_the_java_client() {
        for (key, hash) in HASHES {
            assert_eq!(murmur2(key.as_bytes()) as i32, *hash, "{key:?}");
        }
    }

    #[test]
    fn partitions_are_those_of_the_java_client() {
        for (channel, count, partition) in PARTITIONS {
            assert_eq!(
                partition_of(ChannelId(*channel), *count),
                PartitionId(*partition),
                "channel {channel} of {count} partitions"
            );
        }
    }

    #[test]
    fn keys_are_canonical_decimal() {
        for id in [
            0,
            1,
            9,
            10,
            99,
            100,
            1_985_524_625_571_840_000,
            i64::MAX as u64,
            u64::MAX,
        ] {
            assert_eq!(
                DecimalKey::new(ChannelId(id)).as_bytes(),
                id.to_string().as_bytes()
            );
        }
    }

    #[test]
    fn only_the_canonical_key_is_that_of_a_channel() {
        for id in [1, 7, 10, 1_985_524_625_571_840_000, MAX_ID] {
            let channel = ChannelId(id);
            assert!(is_key_of(DecimalKey::new(channel).as_bytes(), channel));
            let same_in_64_bits = u128::from(id) + (1 << 64);
            let others = [
                format!("0{id}"),
                format!("+{id}"),
                format!("{id} "),
                format!("{}", id + 1),
                format!("{same_in_64_bits}"),
            ];
            for other in others {
                assert!(!is_key_of(other.as_bytes(), channel), "{other:?} for {id}");
            }
        }
        assert!(!is_key_of(b"", ChannelId(0)) && !is_key_of(b"0", ChannelId(0)));
    }
}

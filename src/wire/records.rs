//! Records on their way from a source to their partition: one on its own, or many in one buffer.

use std::fmt;

use bytes::Bytes;

use crate::model::ids::Offset;

/// A length that says that there is nothing, not even something empty.
const ABSENT: u32 = u32::MAX;

/// A record as it came, on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// Its offset.
    pub offset: Offset,
    /// When it was published, in milliseconds since 1970, where that is known.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Neighbouring records of one partition. However many there are, they cost one buffer and one table, and headers, which
/// hardly any record has, one more.
///
/// At most 4 GiB: sources end a batch long before.
#[derive(Clone, Default)]
pub struct Records {
    /// Of each record the key, then the value, then names and values of its headers.
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    headers: Vec<HeaderSlot>,
}

#[derive(Clone, Copy)]
struct Slot {
    offset: Offset,
    timestamp_ms: Option<i64>,
    /// Where the key begins, and right behind it the value.
    from: u32,
    key_len: u32,
    value_len: u32,
    /// Where its headers end in the table of all; they begin where those of the record before end.
    headers_end: u32,
}

#[derive(Clone, Copy)]
struct HeaderSlot {
    /// Where the name begins, and right behind it the value.
    from: u32,
    name_len: u32,
    value_len: u32,
}

/// A record in its place among others.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: Offset,
    /// When it was published, in milliseconds since 1970, where that is known.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    all: &'a Records,
    headers: &'a [HeaderSlot],
}

impl Records {
    /// None yet, with room for so many records whose keys, values and headers have so many bytes together.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Records {
            bytes: Vec::with_capacity(bytes),
            slots: Vec::with_capacity(records),
            headers: Vec::new(),
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Length of all keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a record without headers.
    ///
    /// # Panics
    /// If all records together had 4 GiB.
    pub fn push(
        &mut self,
        offset: Offset,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let from = self.place();
        let slot = Slot {
            offset,
            timestamp_ms,
            from,
            key_len: self.copy(key),
            value_len: self.copy(value),
            headers_end: self.headers.len() as u32,
        };
        self.slots.push(slot);
    }

    /// Appends a header to the record that was appended last.
    ///
    /// # Panics
    /// If all records together had 4 GiB.
    pub fn push_header(&mut self, name: &str, value: Option<&[u8]>) {
        let from = self.place();
        let header = HeaderSlot {
            from,
            name_len: self.copy(Some(name.as_bytes())),
            value_len: self.copy(value),
        };
        self.headers.push(header);
        if let Some(slot) = self.slots.last_mut() {
            slot.headers_end = self.headers.len() as u32;
        }
    }

    /// The record in this place, the first in place 0.
    pub fn get(&self, place: usize) -> Option<Record<'_>> {
        let slot = self.slots.get(place)?;
        let (key, value) = self.pair(slot.from, slot.key_len, slot.value_len);
        let headers = if self.headers.is_empty() {
            &[]
        } else {
            let before = place.checked_sub(1).and_then(|before| self.slots.get(before));
            let from = before.map_or(0, |before| before.headers_end);
            &self.headers[from as usize..slot.headers_end as usize]
        };
        Some(Record {
            offset: slot.offset,
            timestamp_ms: slot.timestamp_ms,
            key,
            value,
            all: self,
            headers,
        })
    }

    /// All records, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    fn place(&self) -> u32 {
        let place = u32::try_from(self.bytes.len());
        assert!(place.is_ok(), "a batch of records has 4 GiB");
        place.unwrap_or_default()
    }

    fn copy(&mut self, bytes: Option<&[u8]>) -> u32 {
        let Some(bytes) = bytes else { return ABSENT };
        assert!(bytes.len() < ABSENT as usize, "a record has 4 GiB");
        self.bytes.extend_from_slice(bytes);
        bytes.len() as u32
    }

    fn pair(&self, from: u32, first: u32, second: u32) -> (Option<&[u8]>, Option<&[u8]>) {
        let (first, rest) = part(&self.bytes[from as usize..], first);
        let (second, _) = part(rest, second);
        (first, second)
    }
}

/// The part of this length, and what follows.
fn part(bytes: &[u8], length: u32) -> (Option<&[u8]>, &[u8]) {
    if length == ABSENT {
        return (None, bytes);
    }
    let (part, rest) = bytes.split_at(length as usize);
    (Some(part), rest)
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<RawRecord> for Records {
    fn from_iter<I: IntoIterator<Item = RawRecord>>(records: I) -> Self {
        let mut all = Records::default();
        for record in records {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            all.push(record.offset, record.timestamp_ms, key, value);
            for (name, value) in &record.headers {
                all.push_header(name, value.as_deref());
            }
        }
        all
    }
}

impl<'a> Record<'a> {
    /// Its headers, in order: name and value.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let all = self.all;
        self.headers.iter().map(move |header| {
            let (name, value) = all.pair(header.from, header.name_len, header.value_len);
            // It was text when it came in.
            let name = str::from_utf8(name.unwrap_or_default()).unwrap_or_default();
            (name, value)
        })
    }

    /// The record on its own.
    pub fn to_owned(&self) -> RawRecord {
        let headers = self.headers();
        RawRecord {
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.map(Bytes::copy_from_slice),
            value: self.value.map(Bytes::copy_from_slice),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice)))
                .collect(),
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
    }

    fn record() -> impl Strategy<Value = RawRecord> {
        let headers = prop_oneof![
            3 => Just(Vec::new()),
            1 => proptest::collection::vec((".{0,6}", bytes()), 0..4),
        ];
        let parts = (any::<u64>(), any::<Option<i64>>(), bytes(), bytes(), headers);
        parts.prop_map(|(offset, timestamp_ms, key, value, headers)| RawRecord {
            offset: Offset(offset),
            timestamp_ms,
            key,
            value,
            headers,
        })
    }

    proptest! {
        /// What is put in comes out, record by record: nothing is not the same as something empty.
        #[test]
        fn what_goes_in_comes_out(records in proptest::collection::vec(record(), 0..12)) {
            let together: Records = records.iter().cloned().collect();
            prop_assert_eq!(together.len(), records.len());
            prop_assert!(together.get(records.len()).is_none());
            let apart: Vec<RawRecord> = together.iter().map(|record| record.to_owned()).collect();
            prop_assert_eq!(apart, records);
        }
    }
}

//! Places in the stream: read your own writes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::model::ids::{Offset, PartitionId};
use crate::wire::proto::v1;

/// A place in the stream: a record's partition, and its offset there (JetStream: its sequence in the stream).
///
/// As text it is `partition:offset`, such as `3:1789`, so that it can be handed on in a header or a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The record's place in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    /// What is allowed.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(partition, offset)| {
            Some(Position {
                partition: PartitionId(partition.parse().ok()?),
                offset: Offset(offset.parse().ok()?),
            })
        });
        parsed.ok_or_else(|| "a position is PARTITION:OFFSET, such as 3:1789".to_owned())
    }
}

impl From<v1::Position> for Position {
    fn from(position: v1::Position) -> Self {
        Position {
            partition: PartitionId(position.partition),
            offset: Offset(position.offset),
        }
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        v1::Position {
            partition: position.partition.0,
            offset: position.offset.0,
        }
    }
}

/// How far someone has seen the stream: the highest position of each partition, one at most.
///
/// Put in what [`Publisher::publish`](super::Publisher::publish) returns, hand it to [`Get::after`](super::Get::after), and
/// every answer has what was published. As text, `3:1789,5:20`, it goes through a session or a cookie.
///
/// ```
/// use readstates::client::Positions;
///
/// let mut seen: Positions = "3:1789,5:20".parse()?;
/// seen.add("3:1800".parse()?);
/// seen.add("5:7".parse()?);
/// assert_eq!(seen.to_string(), "3:1800,5:20");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<PartitionId, Offset>);

impl Positions {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Positions::default()
    }

    /// This was seen as well. A position before one that is there already changes nothing.
    pub fn add(&mut self, position: Position) {
        let highest = self.0.entry(position.partition).or_insert(position.offset);
        *highest = position.offset.max(*highest);
    }

    /// By partition.
    pub fn iter(&self) -> impl Iterator<Item = Position> {
        self.0.iter().map(|(partition, offset)| Position {
            partition: *partition,
            offset: *offset,
        })
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<Position> for Positions {
    fn extend<I: IntoIterator<Item = Position>>(&mut self, positions: I) {
        positions.into_iter().for_each(|position| self.add(position));
    }
}

impl FromIterator<Position> for Positions {
    fn from_iter<I: IntoIterator<Item = Position>>(positions: I) -> Self {
        let mut all = Positions::new();
        all.extend(positions);
        all
    }
}

impl From<Position> for Positions {
    fn from(position: Position) -> Self {
        Positions::from_iter([position])
    }
}

impl From<&Positions> for Positions {
    fn from(positions: &Positions) -> Self {
        positions.clone()
    }
}

impl From<Vec<Position>> for Positions {
    fn from(positions: Vec<Position>) -> Self {
        Positions::from_iter(positions)
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, position) in self.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{position}")?;
        }
        Ok(())
    }
}

impl FromStr for Positions {
    /// What is allowed.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let positions = text.split(',').filter(|position| !position.is_empty());
        positions.map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_partition_and_offset() {
        let three = Position {
            partition: PartitionId(3),
            offset: Offset(0),
        };
        assert_eq!("3:0".parse(), Ok(three));
        for wrong in ["3", "3:", ":0", "3:-1", "a:1", "4294967296:1"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_highest_of_each_partition_is_kept() {
        let parse = |text: &str| text.parse::<Positions>();
        assert_eq!(parse(""), Ok(Positions::new()));
        let seen = parse("5:1,3:9,5:0,3:10");
        assert_eq!(seen.map(|seen| seen.to_string()), Ok("3:10,5:1".to_owned()));
        assert!(parse("5:1,x").is_err());
    }
}

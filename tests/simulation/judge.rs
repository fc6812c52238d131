//! What was seen in a run, compared with the oracle: evidence is collected with its place in the log and judged after the
//! run, while the oracle goes over the log once.

use std::rc::Rc;
use std::sync::Arc;

use readstates::model::channel::{Above, Head, MessageRef as ModelMessage, NodeRef};
use readstates::model::ids::{ChannelId, ReadStateKey, UserId};
use readstates::model::read_state::{Membership as ModelMembership, ReadState};
use readstates::oracle::{Event, Limits, Membership, Message, Oracle, Reported};
use readstates::partition::io::Answer;

use super::log::Log;
use super::profile::Profile;
use super::stats::{Stat, Stats};
use super::store::StoredChannel;

/// How many records of the log are applied: what everything is compared at.
pub type Count = usize;

pub enum Evidence {
    /// An answer.
    Answer(Answer),
    /// The channels that an overview had, asked at this place and answered `until` that one.
    Overview {
        user: u64,
        above: u64,
        up_to: u64,
        channels: Vec<u64>,
        until: Count,
    },
    /// The second half of it: these were missing, so they must be deleted by now.
    Deleted { user: u64, channels: Vec<u64> },
    /// A row that was written, and is of this place.
    Row { key: ReadStateKey, row: Rc<ReadState> },
    /// A head that was stored, and is of this place, with all it names and the read states that were stored then.
    Head {
        channel: ChannelId,
        stored: Box<StoredChannel>,
        rows: Vec<(ReadStateKey, Rc<ReadState>)>,
    },
    /// What was stored when this place became the durable one; heads with their own places.
    Durable {
        rows: Vec<(ReadStateKey, Rc<ReadState>)>,
        heads: Vec<(ChannelId, Arc<Head>, Count)>,
    },
}

pub struct Judge<'a> {
    profile: &'a Profile,
    log: &'a Log,
    oracle: Oracle,
    /// For each channel the last place at which its messages changed.
    changed: Vec<Count>,
}

impl<'a> Judge<'a> {
    pub fn new(profile: &'a Profile, log: &'a Log) -> Self {
        let limits = Limits {
            max_unread_count: profile.max_unread_count,
            max_direct_mentions: profile.max_direct_mentions,
        };
        Judge {
            profile,
            log,
            oracle: Oracle::new(limits),
            changed: vec![0; profile.channels as usize + 1],
        }
    }

    /// Goes over the log and judges each piece of evidence at its place.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn judge(mut self, mut evidence: Vec<Vec<Evidence>>, stats: &mut Stats) -> Result<(), String> {
        for count in 0..evidence.len() {
            if count > 0 {
                self.apply(count);
            }
            let mut later = Vec::new();
            for piece in std::mem::take(&mut evidence[count]) {
                self.check(count, piece, &mut later, stats)
                    .map_err(|wrong| format!("after {}: {wrong}", self.place(count)))?;
            }
            for (at, piece) in later {
                if at == count {
                    self.check(count, piece, &mut Vec::new(), stats)
                        .map_err(|wrong| format!("after {}: {wrong}", self.place(count)))?;
                } else {
                    evidence[at].push(piece);
                }
            }
        }
        Ok(())
    }

    fn place(&self, count: Count) -> String {
        match count.checked_sub(1) {
            None => "nothing".to_owned(),
            Some(index) => {
                let record = &self.log.records[index];
                format!("offset {} {:?}", record.offset, record.event)
            }
        }
    }

    fn apply(&mut self, count: Count) {
        let Some((channel, event)) = &self.log.records[count - 1].event else {
            return;
        };
        let touched: Vec<u64> = match event {
            Event::MessageCreated { message, .. } | Event::MessageUpdated { message, .. } => {
                vec![*message]
            }
            Event::MessageDeleted { messages } => messages.clone(),
            _ => Vec::new(),
        };
        let look = |oracle: &Oracle| -> Vec<Option<Message>> {
            let of = |id: &u64| oracle.message(*channel, *id).cloned();
            touched.iter().map(of).collect()
        };
        let before = (look(&self.oracle), self.oracle.is_deleted(*channel));
        self.oracle.apply(*channel, event);
        let after = (look(&self.oracle), self.oracle.is_deleted(*channel));
        if before != after {
            self.changed[*channel as usize] = count;
        }
    }

    fn check(
        &self,
        count: Count,
        piece: Evidence,
        later: &mut Vec<(Count, Evidence)>,
        stats: &mut Stats,
    ) -> Result<(), String> {
        match piece {
            Evidence::Answer(answer) => self.check_answer(&answer, stats),
            Evidence::Overview {
                user,
                above,
                up_to,
                channels,
                until,
            } => {
                let mut missing = self.oracle.channels_of(user);
                missing.retain(|c| *c > above && *c <= up_to && !channels.contains(c));
                if !missing.is_empty() {
                    let channels = missing;
                    later.push((until, Evidence::Deleted { user, channels }));
                }
                Ok(())
            }
            Evidence::Deleted { user, channels } => {
                match channels.iter().find(|channel| !self.oracle.is_deleted(**channel)) {
                    None => Ok(()),
                    Some(channel) => Err(format!(
                        "an overview of user {user} answered here was without channel {channel}"
                    )),
                }
            }
            Evidence::Row { key, row } => self
                .check_row(key, Some(&row))
                .map_err(|wrong| format!("a row written, {wrong}")),
            Evidence::Head {
                channel,
                stored,
                rows,
            } => self.check_head(count, channel, &stored, &rows),
            Evidence::Durable { rows, heads } => self.check_durable(count, &rows, &heads),
        }
    }

    fn check_answer(&self, answer: &Answer, stats: &mut Stats) -> Result<(), String> {
        let (user, channel) = (answer.key.user.0, answer.key.channel.0);
        let numbers = self.oracle.numbers(user, channel);
        stats.hit_if(numbers.unread_capped, Stat::UnreadCapped);
        stats.hit_if(numbers.mentions_capped, Stat::MentionsCapped);
        stats.hit_if(numbers.may_be_forgotten, Stat::MentionsForgotten);
        stats.hit_if(numbers.membership == Membership::Left, Stat::LeftMember);
        stats.hit_if(
            numbers.membership == Membership::ChannelDeleted,
            Stat::DeletedChannel,
        );
        let membership = match answer.membership {
            _ if answer.channel_deleted => Membership::ChannelDeleted,
            ModelMembership::Unspecified => Membership::Unspecified,
            ModelMembership::Joined => Membership::Joined,
            ModelMembership::Left => Membership::Left,
        };
        let reported = Reported {
            exists: Some(answer.exists),
            last_read: answer.last_read.0,
            last_message: answer.last_message.0,
            unread: answer.unread,
            unread_capped: answer.unread_capped,
            mentions: answer.mentions,
            direct: answer.direct_mentions,
            mentions_capped: answer.mentions_capped,
            membership,
        };
        reported
            .check(&numbers)
            .map_err(|wrong| format!("user {user} in channel {channel}: {wrong}"))
    }

    /// A row, or that there is none, must say what the oracle says at this place. In a deleted channel nothing shows.
    fn check_row(&self, key: ReadStateKey, row: Option<&ReadState>) -> Result<(), String> {
        let (user, channel) = (key.user.0, key.channel.0);
        if self.oracle.is_deleted(channel) {
            return Ok(());
        }
        let wrong = |what: &str| Err(format!("{what} of {key:?} is wrong: {row:?}"));
        let Some((last_read, membership)) = self.oracle.read_state(user, channel) else {
            return match row {
                None => Ok(()),
                Some(_) => wrong("existence"),
            };
        };
        let Some(row) = row else {
            return Err(format!("there is no row of {key:?}"));
        };
        let expected = match membership {
            Membership::Joined => ModelMembership::Joined,
            Membership::Left => ModelMembership::Left,
            _ => ModelMembership::Unspecified,
        };
        if row.membership != expected {
            return wrong("membership");
        }
        if row.last_read.0 != last_read {
            return wrong(&format!("last_read (true is {last_read})"));
        }
        if membership == Membership::Left {
            return Ok(());
        }
        let above = |limit: u64| {
            let messages = self.oracle.messages(channel).rev();
            let unread = messages.take_while(move |(id, _)| *id > limit.max(last_read));
            unread.filter(|(_, message)| message.is_live())
        };
        let named = above(row.forgotten.0)
            .filter(|(_, m)| m.author != user && m.mentions.contains(&user))
            .map(|(id, m)| (id, m.everyone));
        if !named.eq(row.mentions.iter().rev().map(|m| (m.id.0, m.everyone))) {
            return wrong("mentions");
        }
        let own = above(row.own_unknown.0)
            .filter(|(_, m)| m.author == user)
            .map(|(id, m)| (id, m.everyone));
        if !own.eq(row.own.iter().rev().map(|m| (m.id.0, m.everyone))) {
            return wrong("own");
        }
        Ok(())
    }

    /// All messages of the stored tree, its sums, and that the read states its records changed are stored (invariant 3).
    fn check_head(
        &self,
        count: Count,
        channel: ChannelId,
        stored: &StoredChannel,
        rows: &[(ReadStateKey, Rc<ReadState>)],
    ) -> Result<(), String> {
        let head = &stored.head;
        if head.deleted != self.oracle.is_deleted(channel.0) {
            return Err(format!(
                "the head of channel {channel} has a wrong mark: {head:?}"
            ));
        }
        if head.deleted {
            return Ok(());
        }
        if head.newest_seen.0 != self.oracle.newest_seen(channel.0) {
            return Err(format!("the newest of channel {channel} is wrong: {head:?}"));
        }
        let messages = || stored.blocks.iter().flat_map(|block| block.messages());
        if !messages()
            .map(|m| m.id.0)
            .eq(self.oracle.messages(channel.0).map(|(id, _)| id))
        {
            return Err(format!("the ids of channel {channel} are wrong: {stored:?}"));
        }
        for (stored, (_, truth)) in messages().zip(self.oracle.messages(channel.0)) {
            if !is_same(&stored, truth) {
                return Err(format!("{stored:?} of channel {channel} should be {truth:?}"));
            }
        }
        check_sums(stored)?;
        for user in 1..=self.profile.users {
            let key = ReadStateKey {
                user: UserId(user),
                channel,
            };
            self.check_row_unless_ahead(count, key, rows).map_err(|wrong| {
                format!("invariant 3: a head of channel {channel} was stored while {wrong}")
            })?;
        }
        Ok(())
    }

    /// A row ahead of this place is judged at its own.
    fn check_row_unless_ahead(
        &self,
        count: Count,
        key: ReadStateKey,
        rows: &[(ReadStateKey, Rc<ReadState>)],
    ) -> Result<(), String> {
        let row = rows.iter().find(|(of, _)| *of == key).map(|(_, row)| &**row);
        let ahead = row.is_some_and(|row| self.log.count_at(row.applied) > count);
        if ahead { Ok(()) } else { self.check_row(key, row) }
    }

    fn check_durable(
        &self,
        count: Count,
        rows: &[(ReadStateKey, Rc<ReadState>)],
        heads: &[(ChannelId, Arc<Head>, Count)],
    ) -> Result<(), String> {
        for channel in 1..=self.profile.channels {
            for user in 1..=self.profile.users {
                let key = ReadStateKey {
                    user: UserId(user),
                    channel: ChannelId(channel),
                };
                self.check_row_unless_ahead(count, key, rows)
                    .map_err(|wrong| format!("invariant 5: durable here, but {wrong}"))?;
            }
            let stored = heads.iter().find(|(of, ..)| of.0 == channel);
            let stored = stored.map_or(0, |(_, _, count)| *count);
            if stored < self.changed[channel as usize] {
                return Err(format!(
                    "invariant 5: durable here, but the head of channel {channel} is only of {}",
                    self.place(stored)
                ));
            }
        }
        Ok(())
    }
}

fn is_same(stored: &ModelMessage<'_>, truth: &Message) -> bool {
    stored.deleted == truth.deleted
        && stored.created == truth.created
        && (!truth.created
            || (stored.author.map_or(0, |author| author.0) == truth.author
                && stored.everyone == truth.everyone
                && stored
                    .mentions
                    .iter()
                    .map(|user| user.0)
                    .eq(truth.mentions.iter().copied())))
}

fn check_sums(stored: &StoredChannel) -> Result<(), String> {
    let wrong = |what: &NodeRef| Err(format!("the sums of {what:?} are wrong: {stored:?}"));
    let mut blocks = stored.blocks.iter();
    let mut lowest = true;
    for (page_ref, page) in stored.head.pages.iter().zip(&stored.pages) {
        let mut sum = Above::default();
        let mut newest_of_page = 0;
        for (place, block_ref) in page.blocks.iter().enumerate() {
            let Some(block) = blocks.next() else {
                return wrong(block_ref);
            };
            let live = block.messages().filter(|m| m.is_live());
            let everyone = live.clone().filter(|m| m.everyone).count() as u64;
            let newest = live.clone().map(|m| m.id.0).max().unwrap_or(0);
            let first = block.messages().next().map_or(0, |m| m.id.0);
            let first_wrong = block_ref.first.0 > first || (lowest && block_ref.first.0 != 0);
            let page_wrong = place == 0 && page_ref.first != block_ref.first;
            let count = live.count() as u64;
            if (block_ref.live, block_ref.everyone, block_ref.newest_live.0) != (count, everyone, newest)
                || first_wrong
                || page_wrong
            {
                return wrong(block_ref);
            }
            lowest = false;
            newest_of_page = newest_of_page.max(newest);
            sum.live += count;
            sum.everyone += everyone;
        }
        if (page_ref.live, page_ref.everyone, page_ref.newest_live.0)
            != (sum.live, sum.everyone, newest_of_page)
        {
            return wrong(page_ref);
        }
    }
    Ok(())
}

impl std::fmt::Debug for StoredChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.head, self.pages, self.blocks)
    }
}

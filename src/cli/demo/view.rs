//! What is shown beside the numbers, and how it is shown where there is no terminal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asking::Whom;
use super::chat::{EVERYONE_FIRST_MS, EVERYONE_INTERVAL_MS};
use super::figures::{Figures, grouped, milliseconds};
use super::happenings::{Happening, Happenings};

/// Happenings that are kept for the screen.
const SHOWN_MAX: usize = 50;
/// A new one comes so often, so that people can read it.
const HAPPENING_INTERVAL: Duration = Duration::from_millis(600);
/// A mention of everyone stays on the screen so long.
const EVERYONE_SHOWN: Duration = Duration::from_secs(8);

/// What doesn't change: addresses, and where the data is.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How this program was called.
    pub program: String,
    /// `nats://host:port`.
    pub nats_url: String,
    /// What subjects begin with.
    pub subject_prefix: String,
    /// `host:port` of the status page.
    pub admin: String,
    /// Where the data is, for people.
    pub data: String,
    /// Which servers, for people.
    pub servers: String,
    /// Who is shown.
    pub whom: Whom,
    /// Whether the chat is the demo's own, so that it is known when everyone is mentioned.
    pub is_own_chat: bool,
}

impl Facts {
    /// Commands that ask for a user in a channel, as words.
    pub fn commands(&self) -> [Vec<String>; 2] {
        let (user, channel) = (self.whom.users.first(), self.whom.channels.first());
        let (user, channel) = (user.copied().unwrap_or(1), channel.copied().unwrap_or(1));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut own: Vec<String> = words(&[
            &format!("{} get {user} {channel}", self.program),
            &format!("--set nats.url={}", self.nats_url),
        ]);
        if self.subject_prefix != "readstates" {
            own.push(format!("--set nats.subject_prefix={}", self.subject_prefix));
        }
        let nats = words(&[
            &format!("nats -s {} request {}.v1.get", self.nats_url, self.subject_prefix),
            &format!("'{{\"keys\":[{{\"userId\":\"{user}\",\"channelId\":\"{channel}\"}}]}}'"),
        ]);
        [own, nats]
    }
}

/// What happens, line by line.
#[derive(Debug)]
pub struct News {
    happenings: Arc<Happenings>,
    whom: Whom,
    began: Instant,
    taken_at: Instant,
    /// The newest first.
    pub shown: VecDeque<Happening>,
}

impl News {
    /// Of what happens from now on.
    pub fn new(happenings: Arc<Happenings>, whom: Whom) -> Self {
        News {
            happenings,
            whom,
            began: Instant::now(),
            taken_at: Instant::now(),
            shown: VecDeque::new(),
        }
    }

    /// Takes what is next, when it is time for it.
    pub fn go_on(&mut self) {
        if self.taken_at.elapsed() < HAPPENING_INTERVAL {
            return;
        }
        self.taken_at = Instant::now();
        let is_watched = |it: &Happening| {
            self.whom.channels.contains(&it.channel)
                && it.people.iter().any(|user| self.whom.users.contains(user))
        };
        if let Some(happening) = self.happenings.take(is_watched) {
            self.shown.truncate(SHOWN_MAX - 1);
            self.shown.push_front(happening);
        }
    }

    /// Everyone was mentioned a moment ago.
    pub fn everyone(&self) -> Option<String> {
        let (at, happening) = self.happenings.everyone()?;
        (at.elapsed() < EVERYONE_SHOWN).then_some(happening.text)
    }

    /// Seconds until everyone is mentioned the next time.
    pub fn next_everyone_s(&self) -> u64 {
        let left = match self.happenings.everyone() {
            Some((at, _)) => Duration::from_millis(EVERYONE_INTERVAL_MS).saturating_sub(at.elapsed()),
            None => Duration::from_millis(EVERYONE_FIRST_MS).saturating_sub(self.began.elapsed()),
        };
        left.as_secs()
    }
}

/// What is printed first where there is no terminal.
pub fn introduction(facts: &Facts) -> String {
    let [own, nats] = facts.commands();
    format!(
        "demo: serving {}; data in {}\ndemo: status page http://{}/, metrics http://{}/metrics\n\
         demo: ask for one yourself: {}\ndemo: or: {}\n",
        facts.servers,
        facts.data,
        facts.admin,
        facts.admin,
        own.join(" "),
        nats.join(" "),
    )
}

/// The numbers on a line.
pub fn line(figures: &Figures) -> String {
    let answers = &figures.answers;
    let mut line = format!(
        "demo: {} s: {:.0} events/s, {} in all; {:.0} queries/s, p50 {}, p99 {}; lag {} records applied, {} durable \
         ({:.1} s); cached {} read states, {} channels; {} dirty",
        figures.running.as_secs(),
        figures.events_per_second,
        grouped(figures.events),
        figures.queries_per_second,
        milliseconds(answers.p50),
        milliseconds(answers.p99),
        grouped(figures.lag_records),
        grouped(figures.durable_lag_records),
        figures.oldest_dirty_seconds,
        grouped(figures.read_states),
        grouped(figures.channels),
        grouped(figures.dirty_entries),
    );
    if !figures.is_live() {
        line += &format!(
            "; {} of {} partitions live",
            figures.partitions_live, figures.partitions
        );
    }
    if let Some(error) = &answers.error {
        line += &format!("; the last question: {error}");
    }
    line.push('\n');
    line
}

//! Whether a partition moves while its log does.

use std::time::Duration;

use crate::model::ids::LogPosition;
use crate::partition::Standing;
use crate::partition::io::Millis;

/// A partition that should move and has not for so long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);
/// What the broker said about the end of the log holds for so long.
const END_KNOWN_MS: u64 = 15_000;
/// Who has not looked for so long (a process that was stopped, a machine that is too busy) can't tell what moved.
const LOOKED_AWAY_MS: u64 = 1000;

/// Between two looks.
const LOOK_INTERVAL_MS: u64 = 250;

/// What changes where a partition moves: applied, durable, what is changed. The last says that it moves while it only
/// writes, before it takes records again.
type Place = (LogPosition, LogPosition, usize);

/// Watches one partition.
pub struct Progress {
    stuck_after_ms: u64,
    place: Option<Place>,
    /// Since when it has been standing although it should move.
    standing_since: Millis,
    looked_at: Millis,
    /// When the end of the log was told last.
    end_known_at: Option<Millis>,
    is_stuck: bool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing new.
    Nothing,
    /// It is stuck from now on.
    Stuck,
    /// It moves again.
    MovesAgain,
}

impl Progress {
    pub fn new(stuck_after: Duration) -> Self {
        Progress {
            stuck_after_ms: stuck_after.as_millis() as u64,
            place: None,
            standing_since: Millis::default(),
            looked_at: Millis::default(),
            end_known_at: None,
            is_stuck: false,
        }
    }

    /// The broker told the end of the log just now.
    pub fn end_told(&mut self, now: Millis) {
        self.end_known_at = Some(now);
    }

    /// Whether it is time to look.
    pub fn is_due(&self, now: Millis) -> bool {
        now.0 >= self.looked_at.0 + LOOK_INTERVAL_MS
    }

    /// Whether it is stuck.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Looks where the partition is. `is_behind`: the log goes on behind what is applied. `is_excused`: it is known
    /// why it stands, and that is told elsewhere; asked only where it matters.
    pub fn look(
        &mut self,
        now: Millis,
        standing: &Standing,
        is_behind: bool,
        is_excused: impl FnOnce() -> bool,
    ) -> Found {
        let place = Some((standing.applied, standing.durable, standing.dirty));
        let moved = self.place != place;
        let looked_away = now.0 - self.looked_at.0.min(now.0) > LOOKED_AWAY_MS;
        let is_end_known = self.end_known_at.is_some_and(|at| now.0 <= at.0 + END_KNOWN_MS);
        self.place = place;
        self.looked_at = now;
        if moved || looked_away || !is_behind || !is_end_known {
            return self.moves(now);
        }
        if self.is_stuck || now.0 < self.standing_since.0 + self.stuck_after_ms {
            return Found::Nothing;
        }
        if is_excused() {
            return self.moves(now);
        }
        self.is_stuck = true;
        Found::Stuck
    }

    fn moves(&mut self, now: Millis) -> Found {
        self.standing_since = now;
        match std::mem::take(&mut self.is_stuck) {
            true => Found::MovesAgain,
            false => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Offset;

    const STEP_MS: u64 = 500;

    fn at(applied: u64, dirty: usize) -> Standing {
        Standing {
            applied: LogPosition::new(0, Offset(applied)),
            durable: LogPosition::NOTHING,
            oldest_change_at: None,
            read_states_cached: 0,
            channels_cached: 0,
            channel_bytes_cached: 0,
            dirty,
            waiting_records: 0,
        }
    }

    /// Looks every half second, from `from_s` up to `to_s`, with an end that is told each time. What was found.
    fn look(
        progress: &mut Progress,
        from_s: u64,
        to_s: u64,
        mut standing: impl FnMut(u64) -> Standing,
        is_behind: bool,
        is_excused: bool,
    ) -> Vec<(u64, Found)> {
        let mut found = Vec::new();
        for ms in (from_s * 1000..to_s * 1000).step_by(STEP_MS as usize) {
            let now = Millis(ms);
            progress.end_told(now);
            match progress.look(now, &standing(ms), is_behind, || is_excused) {
                Found::Nothing => {}
                other => found.push((ms / 1000, other)),
            }
        }
        found
    }

    #[test]
    fn what_stands_while_its_log_goes_on_is_stuck_once_and_until_it_moves() {
        let mut progress = Progress::new(STUCK_AFTER);
        assert_eq!(look(&mut progress, 100, 129, |_| at(5, 2), true, false), []);
        assert_eq!(
            look(&mut progress, 129, 200, |_| at(5, 2), true, false),
            [(130, Found::Stuck)]
        );
        assert!(progress.is_stuck());
        assert_eq!(
            look(&mut progress, 200, 201, |_| at(6, 2), true, false),
            [(200, Found::MovesAgain)]
        );
        assert!(!progress.is_stuck());
    }

    #[test]
    fn what_moves_or_need_not_is_not_stuck() {
        let moves: fn(u64) -> Standing = |ms| at(ms / 20_000, 2);
        let writes: fn(u64) -> Standing = |ms| at(5, (ms / 20_000) as usize);
        let stands: fn(u64) -> Standing = |_| at(5, 2);
        for (standing, is_behind, is_excused) in [
            (moves, true, false),
            (writes, true, false),
            (stands, false, false),
            (stands, true, true),
        ] {
            let mut progress = Progress::new(STUCK_AFTER);
            assert_eq!(look(&mut progress, 100, 300, standing, is_behind, is_excused), []);
        }
    }

    #[test]
    fn an_excuse_begins_the_time_anew() {
        let mut progress = Progress::new(STUCK_AFTER);
        look(&mut progress, 100, 140, |_| at(5, 2), true, true);
        let found = look(&mut progress, 140, 200, |_| at(5, 2), true, false);
        assert_eq!(found, [(160, Found::Stuck)]);
    }

    #[test]
    fn nobody_is_stuck_while_the_broker_is_away_or_nobody_looked() {
        let mut progress = Progress::new(STUCK_AFTER);
        progress.end_told(Millis(100_000));
        for ms in (100_000..200_000).step_by(STEP_MS as usize) {
            assert_eq!(
                progress.look(Millis(ms), &at(5, 2), true, || false),
                Found::Nothing,
                "the end is old news"
            );
        }
        look(&mut progress, 200, 210, |_| at(5, 2), true, false);
        let after_a_stop = look(&mut progress, 300, 329, |_| at(5, 2), true, false);
        assert_eq!(after_a_stop, []);
    }
}

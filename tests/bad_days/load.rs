//! A deployment under load: one instance, events that are published all the time, and callers of every kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use readstates::wire::proto::v1::Event;
use readstates::wire::proto::v1::event::Kind;
use readstates::wire::proto::v1::{MemberJoined, MessageCreated, MessageRead};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::probes::{Probes, Tallies};
use crate::support::servers::wait_for;
use crate::support::service::Service;
use crate::whole_path::asker::{Asker, Asking};
use crate::whole_path::history;
use crate::whole_path::publishing::{Acknowledged, Publishing};
use crate::whole_path::rng::Rng;
use crate::whole_path::run::{Run, shared_keys};

/// Events that are there before the first trouble, and what they touch is cached.
const EVENTS_BEFORE: usize = 8_000;
/// Events that are published meanwhile, at most.
const EVENTS_MEANWHILE: usize = 150_000;
/// Events that are published together.
const PORTION_MAX: u64 = 60;
/// Between two portions, at most.
const PAUSE_MAX_MS: u64 = 160;
/// Channels in which nothing happens after the beginning; no other has so small an id.
const QUIET_CHANNELS: u64 = 30;
/// Users of each.
const QUIET_USERS: u64 = 4;
/// Of a thousand events, before so many a record comes that can't be used.
const UNUSABLE_PERMILLE: u64 = 2;
/// What a log says at its own rate, and not because of a trouble.
const EVERYDAY_LINES: &[&str] = &["a record can't be used"];
/// How long it may take until the log says that something works again.
const SAID_DEADLINE: Duration = Duration::from_secs(30);
/// Keys of busy channels that are asked for one by one.
const BUSY_KEYS: usize = 2000;

/// The deployment, and what goes on with it.
pub struct Load {
    pub run: Run,
    pub asker: Asker,
    pub service: Service,
    acknowledged: Acknowledged,
    keys: Arc<Vec<(u64, u64)>>,
    probes: Probes,
    asking: Asking,
    stream: Stream,
}

/// A trouble that goes on.
pub struct Trouble {
    name: &'static str,
    began: Instant,
    lines_before: usize,
}

/// What was seen while a trouble lasted.
pub struct Seen {
    pub tallies: Tallies,
    /// What the log says about it.
    pub lines: Vec<String>,
    /// How long it took, once the trouble was over, until everything was answered again.
    pub recovered_after: Duration,
}

impl Load {
    /// Starts an instance, fills its cache, and begins to publish and to ask.
    pub async fn start(mut run: Run, more: &[(&str, String)]) -> Self {
        let (year, what) = history::year(run.seed);
        let count = EVENTS_BEFORE + EVENTS_MEANWHILE;
        let from = run.rng.index(year.len() - year.len().min(count) + 1);
        let events = history::mix(&year[from..][..count.min(year.len())], run.seed);
        let (before, meanwhile) = events.split_at(EVENTS_BEFORE);
        run.say(format_args!(
            "{} events of {what} and more, from {from}",
            events.len()
        ));
        let quiet_events = quiet_events();
        let quiet = history::keys(&quiet_events);
        let warm = history::keys(before);
        let keys = shared_keys(&[&quiet_events, &events[..]].concat());

        let mut publishing = Publishing::new(&run.deployment, run.seed);
        let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
        let service = run.deployment.serve("0", more);
        run.say(format_args!("live after {:.1?}", asker.wait_until_live().await));
        block_in_place(|| publishing.by_producer(&[&quiet_events, before].concat(), UNUSABLE_PERMILLE));
        let ends = publishing.ends();
        asker.settle(&ends).await;
        for keys in [&quiet, &warm] {
            asker.ask_all(keys, &ends).await;
        }
        let step = warm.len().div_ceil(BUSY_KEYS);
        let busy: Vec<(u64, u64)> = warm.into_iter().step_by(step).collect();
        let acknowledged = publishing.acknowledged();
        let stream = Stream::start(publishing, meanwhile.to_vec(), run.seed);
        Load {
            probes: Probes::start(&asker, &quiet, &busy),
            asking: asker.ask_on(&keys, 2, run.seed),
            run,
            asker,
            service,
            acknowledged,
            keys,
            stream,
        }
    }

    /// A trouble begins now.
    pub fn trouble(&self, name: &'static str) -> Trouble {
        self.probes.take();
        self.asking.take_tally();
        Trouble {
            name,
            began: Instant::now(),
            lines_before: self.service.log_lines().len(),
        }
    }

    /// What the callers have seen of a trouble so far.
    pub fn seen(&self, _: &Trouble) -> Tallies {
        self.probes.seen()
    }

    /// From now on only [`Load::publish_unusable`] publishes what can't be used.
    pub fn stop_unusable(&self) {
        self.stream.orders.send(Order::NothingUnusable).unwrap();
    }

    /// Publishes a record that can't be used.
    pub fn publish_unusable(&self, partition: u32) {
        self.stream.orders.send(Order::Unusable(partition)).unwrap();
    }

    /// Starts an instance in place of the one that has ended, on a store that is older than what it has said to be
    /// durable, and waits until everything is answered.
    pub async fn restart_behind(&mut self, name: &str) {
        // Whoever asked last may still be waiting for an answer.
        sleep(Duration::from_secs(1)).await;
        self.asker.forget_durable();
        self.service = self.run.deployment.serve(name, &[]);
        let live = self.asker.wait_until_live().await;
        let ends = self.acknowledged.lock().unwrap().clone();
        self.asker.settle(&ends).await;
        let replayed = self.service.metric("readstates_events_total", "");
        let (tallies, tally) = (self.probes.take(), self.asking.take_tally());
        self.run.say(format_args!(
            "instance {name}: live after {live:.1?}, {replayed} events replayed and new; until then {tallies:?}, {tally:?}"
        ));
    }

    /// A trouble is over now: waits until everything is answered again, and until the log has `said` so.
    pub async fn over(&mut self, trouble: Trouble, said: Option<&str>) -> Seen {
        let lasted = trouble.began.elapsed();
        let tallies = self.probes.take();
        let tally = self.asking.take_tally();
        let began = Instant::now();
        self.wait_for_new_records().await;
        self.wait_for_fresh().await;
        let recovered_after = began.elapsed();
        self.service.assert_runs();
        let lines = || -> Vec<String> {
            let lines = self.service.log_lines().split_off(trouble.lines_before);
            let is_everyday = |line: &String| EVERYDAY_LINES.iter().any(|everyday| line.contains(everyday));
            lines.into_iter().filter(|line| !is_everyday(line)).collect()
        };
        if let Some(said) = said {
            block_in_place(|| {
                wait_for(said, SAID_DEADLINE, || {
                    lines().iter().any(|line| line.contains(said))
                });
            });
        }
        let lines = lines();
        let mib = self.service.resident_bytes() >> 20;
        self.run.say(format_args!(
            "{}: {lasted:.1?}, everything answered {recovered_after:.1?} later, {mib} MiB\n    quiet: {:?}\n    busy: \
             {:?}\n    fresh: {:?}\n    others: {tally:?}\n    log: {lines:#?}",
            trouble.name, tallies.quiet, tallies.busy, tallies.fresh
        ));
        Seen {
            tallies,
            lines,
            recovered_after,
        }
    }

    /// Waits until records of after a trouble are applied: where the stream itself was away, those of before it have been
    /// applied long ago.
    async fn wait_for_new_records(&self) {
        let ends = || self.acknowledged.lock().unwrap().clone();
        let before = ends();
        let deadline = Instant::now() + Duration::from_secs(60);
        while ends() == before {
            assert!(Instant::now() < deadline, "nothing is published any more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.asker.settle(&ends()).await;
    }

    /// Waits until what is not cached is answered.
    async fn wait_for_fresh(&self) {
        self.probes.take();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.probes.take().fresh.answered == 0 {
            assert!(Instant::now() < deadline, "what is not cached is not answered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends all load, and compares everything that was ever answered and all that can be asked.
    pub async fn finish(self) -> (Run, Service, Publishing) {
        let Load {
            mut run,
            asker,
            service,
            keys,
            probes,
            asking,
            stream,
            ..
        } = self;
        let publishing = block_in_place(|| stream.stop());
        let settled = asker.settle(&publishing.ends()).await;
        probes.stop().await;
        let tally = asking.stop().await;
        run.say(format_args!(
            "published {:?}, settled after {settled:.1?}; {tally:?}",
            publishing.usable
        ));
        let (topic, truth) = block_in_place(|| run.truth());
        publishing.check_topic(&topic);
        run.compare_all(&asker, &truth, &keys).await;
        run.check_dead_letters(&topic, &publishing.unusable, true);
        (run, service, publishing)
    }
}

/// What happens in the quiet channels.
fn quiet_events() -> Vec<Event> {
    let mut events = Vec::new();
    for channel_id in 1..=QUIET_CHANNELS {
        let users: Vec<u64> = (0..QUIET_USERS).map(|n| channel_id * 100 + n).collect();
        let mut push = |kind| {
            events.push(Event {
                channel_id,
                kind: Some(kind),
            });
        };
        push(Kind::MemberJoined(MemberJoined { user_id: users[0] }));
        for n in 1..=20 {
            push(Kind::MessageCreated(MessageCreated {
                message_id: n,
                author_id: users[n as usize % users.len()],
                mentioned_user_ids: vec![users[0]],
                mentions_everyone: n % 5 == 0,
            }));
        }
        push(Kind::MessageRead(MessageRead {
            user_id: users[1],
            message_id: 1 + channel_id % 20,
        }));
    }
    events
}

/// What is to be published beside the events.
enum Order {
    /// This partition gets a record that can't be used.
    Unusable(u32),
    /// No other ones any more.
    NothingUnusable,
}

/// Whether events are published at this very moment.
struct Stream {
    orders: Sender<Order>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Publishing>,
}

impl Stream {
    fn start(mut publishing: Publishing, events: Vec<Event>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (orders, ordered) = channel();
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::new(seed);
            let mut rest = &events[..];
            let mut unusable_permille = UNUSABLE_PERMILLE;
            while !rest.is_empty() && !stopped.load(Ordering::SeqCst) {
                let (portion, later) =
                    rest.split_at(rng.between(1, PORTION_MAX).min(rest.len() as u64) as usize);
                rest = later;
                for order in ordered.try_iter() {
                    match order {
                        Order::Unusable(partition) => publishing.unusable_in(partition),
                        Order::NothingUnusable => unusable_permille = 0,
                    }
                }
                publishing.by_producer(portion, unusable_permille);
                std::thread::sleep(Duration::from_millis(rng.between(0, PAUSE_MAX_MS)));
            }
            publishing
        });
        Stream { orders, stop, thread }
    }

    /// # Panics
    /// If everything was published already: then what was to happen meanwhile happened to nothing.
    fn stop(self) -> Publishing {
        assert!(!self.thread.is_finished(), "the events did not last");
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

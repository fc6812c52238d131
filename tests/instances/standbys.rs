//! Several instances with JetStream and Cassandra: one has the lease and with it all partitions, the others stand by. The
//! holder is killed, asked to end, and stopped for longer than its lease, while events are published and all
//! instances are asked. Every answer is compared at the position that it names.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;

use crate::several_instances::{owned_by, zombie};
use crate::support::servers::wait_for;
use crate::support::service::Service;
use crate::whole_path::asker::Asker;
use crate::whole_path::publishing::Publishing;
use crate::whole_path::run::{Run, alone, jetstream, shared_keys};
use crate::{LIMITS_DEFAULT, Stream, finish, some_days};

const PARTITIONS: u32 = 8;
/// For whatever a busy machine has to get to.
const DEADLINE: Duration = Duration::from_secs(60);
/// From a kill to answers for every partition by a standby, at most.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
/// From the end of a process that was asked to end until a standby answers for every partition: less than the life of the
/// lease, which is given back.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(4);

/// The instance that owns all partitions, out of these, and the others.
async fn holder_of(asker: &Asker, services: Vec<Service>) -> (Service, Vec<Service>) {
    asker.wait_until_shared(1).await;
    let (mut holders, mut standbys) = (Vec::new(), Vec::new());
    for service in services {
        match owned_by(asker, &service).await.len() as u32 {
            PARTITIONS => holders.push(service),
            0 => standbys.push(service),
            some => panic!("an instance has {some} partitions"),
        }
    }
    assert_eq!(holders.len(), 1, "one has the lease");
    (holders.remove(0), standbys)
}

/// One that owns nothing is well, says so, and answers by asking the owner.
fn check_stands_by(run: &Run, service: &Service, key: (u64, u64)) {
    wait_for("it to stand by", DEADLINE, || {
        service.log().contains("standby: another instance has the lease")
    });
    wait_for("it to be ready", DEADLINE, || {
        service.page("/readyz").starts_with("HTTP/1.1 200")
    });
    assert!(service.page("/healthz").starts_with("HTTP/1.1 200"));
    let metrics = service.page("/metrics");
    assert!(
        !metrics.contains("{partition="),
        "only of what is owned: {metrics}"
    );
    assert!(service.page("/").contains("HTTP/1.1 200"));
    // Whoever of the group gets the question.
    let (user, channel) = (key.0.to_string(), key.1.to_string());
    let of_it = || service.metric("readstates_queries_total", r#"endpoint="get",code="200""#);
    let (before, deadline) = (of_it(), Instant::now() + DEADLINE);
    while of_it() == before {
        let said = run.deployment.run("get", &[&user, &channel, "--json"], b"");
        assert_eq!(said.status, Some(0), "{said:?}");
        assert!(Instant::now() < deadline, "the standby answers nothing");
    }
}

/// `lag` sees all instances, and who owns what.
fn check_lag(run: &Run, instances: usize, holder: &Service) {
    let said = run.deployment.run("lag", &["--json"], b"");
    assert_eq!(said.status, Some(0), "{said:?}");
    let lag: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(lag["partitionCount"], PARTITIONS);
    assert_eq!(lag["unowned"], serde_json::json!([]));
    let found = lag["instances"].as_array().unwrap();
    assert_eq!(found.len(), instances, "{said:?}");
    for instance in found {
        let is_holder = instance["instance"]
            .as_str()
            .unwrap()
            .ends_with(&format!("-{}", holder.id()));
        let owned = instance["partitions"].as_array().unwrap().len();
        assert_eq!(owned, if is_holder { PARTITIONS as usize } else { 0 }, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_with_one_holder_and_standbys() {
    let _alone = alone().await;
    let settings = [("store.write_delay", "1s"), ("cache.read_states", "2400")];
    let mut run = Run::new("standbys", PARTITIONS, LIMITS_DEFAULT, &settings);
    run.deployment.settings.extend(jetstream());
    let events = some_days(&mut run, 250_000);
    let keys = shared_keys(&events);
    let publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let first = run.deployment.serve("one", &[]);
    // Schema changes are no transactions: the first instance starts alone.
    run.say(format_args!("live after {:.1?}", asker.wait_until_live().await));
    let stream = Stream::start(publishing, events, run.seed);
    let asking = asker.ask_on(&keys, 4, run.seed);
    let standbys = ["two", "three"].map(|name| run.deployment.serve(name, &[]));
    for standby in &standbys {
        block_in_place(|| check_stands_by(&run, standby, keys[0]));
    }
    let (mut holder, mut standbys) = holder_of(&asker, [first].into_iter().chain(standbys).collect()).await;
    block_in_place(|| check_lag(&run, 3, &holder));
    run.say(format_args!("one and two standbys: {:?}", asking.take_tally()));

    let began = Instant::now();
    holder.kill9();
    asker.wait_until_live().await;
    let took = began.elapsed();
    run.say(format_args!(
        "all answered {took:.1?} after a kill: {:?}",
        asking.take_tally()
    ));
    assert!(took < TAKEN_OVER_WITHIN, "{took:?}");
    let killed = holder;
    let again = run.deployment.serve("one-again", &[]);
    block_in_place(|| check_stands_by(&run, &again, keys[0]));
    standbys.push(again);

    // It was asked to end, and gives the lease back.
    let (mut holder, mut standbys) = holder_of(&asker, standbys).await;
    let began = Instant::now();
    let status = block_in_place(|| holder.terminate());
    let ended = Instant::now();
    assert_eq!(status.code(), Some(0), "{}", holder.log_tail());
    asker.wait_until_live().await;
    run.say(format_args!(
        "ended {:.1?} after SIGTERM, all answered {:.1?} after that: {:?}",
        ended - began,
        ended.elapsed(),
        asking.take_tally()
    ));
    assert!(ended.elapsed() < HANDED_OVER_WITHIN, "{:?}", ended.elapsed());
    let stopped = holder;
    standbys.push(run.deployment.serve("two-again", &[]));

    let (holder, standbys) = holder_of(&asker, standbys).await;
    zombie(&run, &asker, &holder, &keys).await;
    let all: Vec<Service> = [holder].into_iter().chain(standbys).collect();
    let (mut holder, mut standbys) = holder_of(&asker, all).await;
    run.say(format_args!("one has woken up: {:?}", asking.take_tally()));
    block_in_place(|| check_lag(&run, 3, &holder));

    let publishing = finish(&mut run, &asker, stream, asking, &keys).await;
    for service in standbys.iter_mut().chain([&mut holder]) {
        let status = block_in_place(|| service.terminate());
        assert_eq!(status.code(), Some(0), "{}", service.log_tail());
    }
    for service in standbys.iter().chain([&killed, &stopped, &holder]) {
        run.say(format_args!("complaints: {:#?}", service.complaints()));
    }
    let ends = block_in_place(|| publishing.ends());
    run.check_all_is_durable(&ends).await;
}

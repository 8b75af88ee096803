//! A leader and its followers, fetch by fetch.

use std::path::Path;
use std::sync::Arc;

use protocol::error::ErrorCode;
use protocol::records::{BatchBuilder, BatchSpec};
use protocol::time::Now;
use protocol::wire::Uuid;
use storage::mem::MemDisk;
use storage::{AppendOrigin, EpochEnd, Log, LogConfig, Verification};

use crate::*;

const LAG_MS: i64 = 30_000;

fn at(ms: i64) -> Now {
    Now { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms }
}

fn batch(value: &str) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchSpec::default());
    builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    builder.build()
}

fn replica(id: i32, min_insync_replicas: i32) -> Partition {
    let disk = Arc::new(MemDisk::default());
    let key = (Uuid::from_random([3; 16]), 0);
    let log = Log::create(disk, Path::new("/d/t-0"), Some(key.0), LogConfig::default(), at(0)).expect("a memory disk");
    let settings = Settings { min_insync_replicas, lag_time_max_ms: LAG_MS, mutations: Mutations::default() };
    Partition::new(key, "t".to_owned(), id, log, 0, settings)
}

fn state(leader: i32, leader_epoch: i32, partition_epoch: i32, isr: &[i32]) -> PartitionState {
    PartitionState { replicas: vec![1, 2, 3], isr: isr.to_vec(), leader: Some(leader), leader_epoch, partition_epoch }
}

fn append(p: &mut Partition, value: &str, now: Now) -> Result<i64, ErrorCode> {
    match p.append_as_leader(&mut batch(value), AppendOrigin::Client(Verification::Open), true, now) {
        Ok(info) => Ok(info.first_offset),
        Err(AppendRefused::Code(code)) => Err(code),
        Err(AppendRefused::Storage(error)) => panic!("{error}"),
    }
}

fn request(follower: &Partition) -> ReadRequest {
    let (offset, _, last_fetched_epoch) = follower.fetch_position();
    ReadRequest {
        offset,
        bytes_max: 1 << 20,
        whole_first: true,
        isolation: Isolation::LogEnd,
        leader_epoch: follower.leader_epoch(),
        last_fetched_epoch,
    }
}

/// One fetch of a follower, answered and taken in; what the leader said of its history, if it differs.
fn fetch(leader: &mut Partition, follower: &mut Partition, id: i32, broker_epoch: i64, now: Now) -> Option<EpochEnd> {
    let ask = request(follower);
    leader.on_follower_fetch(&ask, id, 0, broker_epoch, now);
    let read = leader.read(&ask, Reader::Follower { id, broker_epoch }).expect("the leader answers");
    if let Some(ends) = read.diverging {
        follower.truncate_on_divergence(ends, now).expect("a memory disk");
        return Some(ends);
    }
    let bytes = read.plan.map(|plan| plan.bytes().expect("a memory disk")).unwrap_or_default();
    let epoch = follower.leader_epoch();
    follower
        .append_as_follower(ask.offset, &bytes, read.high_watermark, read.log_start, epoch, now)
        .expect("what the leader sends follows");
    leader.check();
    follower.check();
    None
}

#[test]
fn the_high_watermark_waits_for_the_whole_isr() {
    let (mut one, mut two, mut three) = (replica(1, 2), replica(2, 2), replica(3, 2));
    for p in [&mut one, &mut two, &mut three] {
        p.apply(state(1, 0, 0, &[1, 2, 3]), at(0)).expect("a memory disk");
    }
    assert_eq!(append(&mut one, "a", at(1)), Ok(0));
    assert_eq!(one.is_replicated(1), None);
    fetch(&mut one, &mut two, 2, -1, at(2));
    fetch(&mut one, &mut two, 2, -1, at(3));
    assert_eq!(one.high_watermark(), 0, "the third has not said that it has the record");
    fetch(&mut one, &mut three, 3, -1, at(4));
    fetch(&mut one, &mut three, 3, -1, at(5));
    assert_eq!(one.high_watermark(), 1);
    assert_eq!(one.is_replicated(1), Some(ErrorCode::None));
    assert_eq!(two.high_watermark(), 0, "a follower hears of it with its next fetch");
    fetch(&mut one, &mut two, 2, -1, at(6));
    assert_eq!(two.high_watermark(), 1);
}

#[test]
fn nothing_is_committed_under_min_isr() {
    let mut one = replica(1, 2);
    one.apply(state(1, 0, 0, &[1, 2]), at(0)).expect("a memory disk");
    append(&mut one, "a", at(1)).expect("two are in sync");
    one.apply(state(1, 0, 1, &[1]), at(2)).expect("a memory disk");
    assert_eq!(one.high_watermark(), 0, "one replica is fewer than min.insync.replicas");
    assert_eq!(append(&mut one, "b", at(3)), Err(ErrorCode::NotEnoughReplicas));
}

#[test]
fn a_deposed_leader_cuts_off_what_nobody_has() {
    let (mut one, mut two) = (replica(1, 1), replica(2, 1));
    for p in [&mut one, &mut two] {
        p.apply(state(1, 0, 0, &[1, 2]), at(0)).expect("a memory disk");
    }
    append(&mut one, "a", at(1)).expect("leads");
    fetch(&mut one, &mut two, 2, -1, at(2));
    append(&mut one, "lost", at(3)).expect("leads");
    append(&mut one, "lost too", at(4)).expect("leads");
    // Broker 1 dies unheard; 2 leads epoch 1 and writes where 1 had written.
    two.apply(state(2, 1, 1, &[2]), at(5)).expect("a memory disk");
    append(&mut two, "kept", at(6)).expect("leads");
    one.apply(state(2, 1, 1, &[2]), at(7)).expect("a memory disk");
    let ends = fetch(&mut two, &mut one, 1, -1, at(8)).expect("the histories differ");
    assert_eq!((ends.epoch, ends.end_offset), (0, 1));
    assert_eq!(one.log().end_offset(), 1);
    fetch(&mut two, &mut one, 1, -1, at(9));
    assert_eq!(one.log().end_offset(), 2);
    assert_eq!(one.log().epochs().entries(), two.log().epochs().entries());
}

#[test]
fn a_follower_joins_under_its_registered_epoch_only() {
    let (mut one, mut two) = (replica(1, 1), replica(2, 1));
    for p in [&mut one, &mut two] {
        p.apply(state(1, 0, 0, &[1]), at(0)).expect("a memory disk");
    }
    append(&mut one, "a", at(1)).expect("leads");
    let alive = |id: i32| (id != 3).then_some(7);
    fetch(&mut one, &mut two, 2, 6, at(2));
    fetch(&mut one, &mut two, 2, 6, at(3));
    assert_eq!(one.poll_isr(&alive, at(4)), None, "it fetches under the epoch of an earlier life");
    fetch(&mut one, &mut two, 2, 7, at(5));
    let change = one.poll_isr(&alive, at(6)).expect("caught up and alive");
    assert_eq!(change.isr, vec![(1, 7), (2, 7)]);
    assert_eq!(one.poll_isr(&alive, at(7)), None, "one change at a time");
    append(&mut one, "b", at(8)).expect("leads");
    assert_eq!(one.high_watermark(), 1, "who is about to join counts at once");
    let done = AlterOutcome::Altered { leader: 1, leader_epoch: 0, isr: vec![1, 2], partition_epoch: 1 };
    one.on_altered(0, done, at(9));
    assert_eq!(one.state().isr, vec![1, 2]);
}

#[test]
fn an_idle_follower_is_not_late_when_records_come() {
    let (mut one, mut two) = (replica(1, 1), replica(2, 1));
    for p in [&mut one, &mut two] {
        p.apply(state(1, 0, 0, &[1, 2]), at(0)).expect("a memory disk");
    }
    append(&mut one, "a", at(1)).expect("leads");
    fetch(&mut one, &mut two, 2, -1, at(2));
    fetch(&mut one, &mut two, 2, -1, at(3));
    let alive = |_: i32| Some(1);
    let later = 100 * LAG_MS;
    append(&mut one, "b", at(later)).expect("leads");
    assert_eq!(one.poll_isr(&alive, at(later + 1)), None, "it had everything until a moment ago");
    let change = one.poll_isr(&alive, at(later + LAG_MS + 1)).expect("now it is late");
    assert_eq!(change.isr, vec![(1, 1)]);
}

#[test]
fn a_session_speaks_of_what_changed() {
    let mut sessions = FetchSessions::new(1);
    let key = (Uuid::from_random([1; 16]), 0);
    let other = (Uuid::from_random([2; 16]), 0);
    let entry = SessionEntry {
        offset: 0,
        log_start: 0,
        bytes_max: 1,
        leader_epoch: 0,
        last_fetched_epoch: -1,
        sent_high_watermark: -1,
        sent_log_start: -1,
    };
    let mut session = FetchSession::new(true, true);
    session.put(key, entry);
    session.put(other, entry);
    let id = sessions.open(session, || 5, at(0)).expect("a free slot");
    assert_eq!(sessions.resume(id, 2, true, at(1)).err(), Some(ErrorCode::InvalidFetchSessionEpoch));
    assert_eq!(sessions.resume(id, 1, false, at(1)).err(), Some(ErrorCode::FetchSessionTopicIdError));
    let session = sessions.resume(id, 1, true, at(1)).expect("the next epoch");
    session.settle(key);
    session.settle(other);
    assert!(session.ready().is_empty());
    assert_eq!(sessions.touch(other), vec![id]);
    let ready: Vec<_> = sessions.get_mut(id).expect("open").ready().into_iter().map(|(key, _)| key).collect();
    assert_eq!(ready, vec![other]);
    assert!(sessions.open(FetchSession::new(false, true), || 6, at(2)).is_err(), "no consumer evicts a follower");
}

/// A leader that has not yet heard of its leadership answers with an error. Nothing changes at the follower meanwhile,
/// and still its next request must name the partition, or the leader never learns that it has caught up.
#[test]
fn partition_is_named_again_after_an_error() {
    use crate::fetcher::{FetchPosition, Fetcher, FetcherOutcome, Limits};
    use protocol::messages::FetchResponse;
    use protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    let key = (protocol::wire::Uuid([7; 16]), 0);
    let limits = Limits { min_bytes: 1, max_wait_ms: 500, partition_max_bytes: 1 << 20, response_max_bytes: 1 << 20 };
    let position = FetchPosition { offset: 1, log_start: 0, last_epoch: 0, leader_epoch: 2 };
    let mut fetcher = Fetcher::new(1);
    fetcher.add(key);
    let ask = |fetcher: &mut Fetcher, mono_ms| {
        let now = protocol::time::Now { mono_ms, wall_ms: 0 };
        fetcher.next_request(&limits, 5, &mut |_| Some(position), now)
    };
    let first = ask(&mut fetcher, 100).expect("the session is opened");
    assert_eq!(first.topics.len(), 1);
    let data = PartitionData { error_code: 6, ..Default::default() };
    let topic = FetchableTopicResponse { topic_id: key.0, partitions: vec![data], ..Default::default() };
    let response = FetchResponse { session_id: 77, responses: vec![topic], ..Default::default() };
    fetcher.on_response(&response, &mut |_| FetcherOutcome::Backoff { until_ms: 120 }).expect("no error of the whole");
    assert!(ask(&mut fetcher, 110).is_none(), "its only partition waits");
    let again = ask(&mut fetcher, 120).expect("the wait is over");
    assert_eq!((again.session_id, again.topics.len()), (77, 1));
}

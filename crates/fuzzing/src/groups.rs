//! What a new coordinator finds in its partition: `([key len u16][key][has value u8][value len u16][value])*`.

use coordinator::{Facts, GroupConfig, GroupSettings, GroupShard, Token};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

const BOUND: Bound = Bound { anyway: 64 << 10, per_byte: 1024 };
const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_795_409_260_000 };

/// A cluster of one topic, which the recorded groups have read.
struct OneTopic;

const TOPIC: &str = "grp-in";
const PARTITIONS: i32 = 2;

impl Facts for OneTopic {
    fn version(&self) -> i64 {
        1
    }

    fn topic_id(&self, name: &str) -> Option<Uuid> {
        (name == TOPIC).then(|| Uuid::reserved(7))
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        (id == Uuid::reserved(7)).then_some(TOPIC)
    }

    fn partition_count(&self, id: Uuid) -> Option<i32> {
        (id == Uuid::reserved(7)).then_some(PARTITIONS)
    }

    fn partition_racks(&self, _: Uuid, _: i32) -> Vec<&str> {
        Vec::new()
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(std::iter::once(TOPIC))
    }

    fn group_settings(&self, _: &str) -> GroupSettings {
        GroupSettings::default()
    }
}

pub fn run(data: &[u8]) {
    BOUND.hold(data.len(), || {
        let mut input = Input::new(data);
        let mut shard = GroupShard::new(GroupConfig::default(), 1, NOW);
        while !input.is_empty() {
            let key = input.sized();
            let value = (input.u8() != 0).then(|| input.sized());
            let _ = shard.replay(key, value, NOW);
        }
        shard.on_loaded(&OneTopic, NOW);
        shard.check();
        for listed in shard.list() {
            shard.describe(&listed.group);
            shard.describe_consumer(&listed.group, &OneTopic);
        }
        let mut now = NOW;
        for _ in 0..20 {
            let at = shard.next_deadline().max(now.mono_ms + 1);
            if at == i64::MAX {
                break;
            }
            now.wall_ms = now.wall_ms.saturating_add(at - now.mono_ms);
            now.mono_ms = at;
            shard.tick(&OneTopic, now);
            commit(&mut shard, now);
            shard.check();
        }
        for listed in shard.list() {
            shard.delete(&listed.group, Token(1));
        }
        commit(&mut shard, now);
        shard.check();
    });
}

fn commit(shard: &mut GroupShard, now: Now) {
    for output in shard.take_outputs() {
        if let coordinator::Output::Write(ticket, records) = output {
            for record in records {
                // What a shard writes its successor can read.
                let mut next = GroupShard::new(GroupConfig::default(), 1, now);
                next.replay(&record.key, record.value.as_deref(), now).expect("a record of ours");
            }
            shard.on_committed(ticket, now);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = Output::default();
    let mut out = Vec::new();
    for (key, value) in golden::group_records() {
        let mut one = Output::default();
        one.sized(&key);
        match value {
            Some(value) => one.u8(1).sized(&value),
            None => one.u8(0),
        };
        all.raw(&one.0);
        out.push(one.0);
    }
    out.push(all.0);
    out
}

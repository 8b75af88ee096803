//! What a new coordinator finds in its partition: `([key len u16][key][has value u8][value len u16][value])*`.

use coordinator::{GroupConfig, GroupShard, Token};
use protocol::time::Now;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

const BOUND: Bound = Bound { anyway: 64 << 10, per_byte: 1024 };
const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_795_409_260_000 };

pub fn run(data: &[u8]) {
    BOUND.hold(data.len(), || {
        let mut input = Input::new(data);
        let mut shard = GroupShard::new(GroupConfig::default(), 1, NOW);
        while !input.is_empty() {
            let key = input.sized();
            let value = (input.u8() != 0).then(|| input.sized());
            let _ = shard.replay(key, value, NOW);
        }
        shard.check();
        for listed in shard.list() {
            shard.describe(&listed.group);
        }
        let mut now = NOW;
        for _ in 0..20 {
            let at = shard.next_deadline().max(now.mono_ms + 1);
            if at == i64::MAX {
                break;
            }
            now.wall_ms = now.wall_ms.saturating_add(at - now.mono_ms);
            now.mono_ms = at;
            shard.tick(now);
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

//! Whoever moves partitions about: to two of the nodes or to all three, in any order, and back again half way.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::AlterPartitionReassignmentsRequest;
use protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use protocol::time::Now;

use crate::client::{PARTITIONS, Question, TOPIC, accept, decoded, frame};
use crate::life::NODES;

const VERSION: i16 = 1;
const PAUSE_MS: i64 = 2_500;

pub struct Reassigner {
    rng: fastrand::Rng,
    next_at_ms: i64,
    /// How often the cluster took an order.
    pub moves: usize,
    /// Nothing but to bring every partition back to all nodes.
    pub is_draining: bool,
    /// Partitions that are back, one after the other.
    settled: i32,
    /// What was asked last is to bring one back.
    asked_to_settle: bool,
}

impl Reassigner {
    pub fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Reassigner { rng, next_at_ms: 0, moves: 0, is_draining: false, settled: 0, asked_to_settle: false }
    }

    pub fn is_done(&self) -> bool {
        self.settled == PARTITIONS
    }

    /// What to ask now, or when there will be something to ask.
    pub fn next_question(&mut self, now: Now) -> Result<Question, i64> {
        if self.is_done() {
            return Err(now.mono_ms + 1_000);
        }
        if !self.is_draining && now.mono_ms < self.next_at_ms {
            return Err(self.next_at_ms);
        }
        self.asked_to_settle = self.is_draining;
        let partition_index = if self.is_draining { self.settled } else { self.rng.i32(0..PARTITIONS) };
        let partition = ReassignablePartition { partition_index, replicas: self.wanted(), ..Default::default() };
        let topic = ReassignableTopic { name: TOPIC.into(), partitions: vec![partition], ..Default::default() };
        let request =
            AlterPartitionReassignmentsRequest { topics: vec![topic], timeout_ms: 1_000, ..Default::default() };
        let key = ApiKey::AlterPartitionReassignments;
        Ok(Question { leader_of: None, key, frame: frame(key, VERSION, &request) })
    }

    /// Two of the nodes or all, the first of them to lead; now and then what is under way is taken back.
    fn wanted(&mut self) -> Option<Vec<i32>> {
        if !self.is_draining && self.rng.u8(0..5) == 0 {
            return None;
        }
        let mut replicas: Vec<i32> = (1..=NODES).collect();
        self.rng.shuffle(&mut replicas);
        if !self.is_draining && self.rng.u8(0..3) > 0 {
            replicas.truncate(2);
        }
        Some(replicas)
    }

    pub fn on_answer(&mut self, frame: &[u8], now: Now) -> Result<(), String> {
        let response = decoded::<AlterPartitionReassignmentsRequest<'_>>(frame, VERSION)?;
        accept(response.error_code)?;
        let partition = response.responses.first().and_then(|topic| topic.partitions.first());
        let code = partition.map_or(-1, |partition| partition.error_code);
        match ErrorCode::from_i16(code) {
            // Nothing to take back, or not without losing records.
            ErrorCode::NoReassignmentInProgress | ErrorCode::InvalidReplicaAssignment if !self.asked_to_settle => {}
            _ => accept(code)?,
        }
        self.moves += 1;
        self.settled += i32::from(self.asked_to_settle);
        self.next_at_ms = now.mono_ms + self.rng.i64(0..PAUSE_MS);
        Ok(())
    }
}

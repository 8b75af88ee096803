//! Producer ids for idempotent producers: blocks of 1,000 from the controller, handed out one by one
//! (`RPCProducerIdManager`). The next block is asked for before the current one ends.

use std::collections::VecDeque;

use crate::reply::ReplyTo;

/// Requests that may wait for a block; beyond it clients are told to come back.
const WAITING_MAX: usize = 10_000;
/// Share of a block after which the next one is fetched.
const PREFETCH_AT: i64 = 900;

#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
    /// A block fetched ahead.
    spare: Option<(i64, i64)>,
    pub asked: bool,
    waiting: VecDeque<ReplyTo>,
}

impl ProducerIds {
    /// An id, if one is at hand.
    pub fn take(&mut self) -> Option<i64> {
        if self.next == self.end {
            (self.next, self.end) = self.spare.take()?;
        }
        let id = self.next;
        self.next += 1;
        Some(id)
    }

    pub fn wants_block(&self) -> bool {
        let used_up = self.end - self.next <= 1_000 - PREFETCH_AT;
        !self.asked && self.spare.is_none() && used_up
    }

    pub fn add_block(&mut self, first: i64, len: i64) {
        let block = (first, first.saturating_add(len));
        if self.next == self.end {
            (self.next, self.end) = block;
        } else {
            self.spare = Some(block);
        }
    }

    /// Puts a request aside until a block comes; false if too many wait already.
    pub fn wait(&mut self, reply: ReplyTo) -> bool {
        let room = self.waiting.len() < WAITING_MAX;
        if room {
            self.waiting.push_back(reply);
        }
        room
    }

    pub fn take_waiting(&mut self) -> VecDeque<ReplyTo> {
        std::mem::take(&mut self.waiting)
    }
}

//! Which transactions a cleaner is in the middle of while it reads a log from its beginning
//! (`CleanedTransactionMetadata`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::records::{BatchHeader, ControlRecordType};

use crate::txn_index::AbortedTxn;

struct Ongoing {
    txn: AbortedTxn,
    /// Some of its data is still in the log.
    has_data: bool,
}

/// What a marker says of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Nothing of the transaction is left: the marker may go, once its horizon has passed.
    pub is_spare: bool,
    /// An aborted transaction whose data was seen: the index of the new segment has to name it.
    pub aborted: Option<AbortedTxn>,
}

#[derive(Default)]
pub struct Transactions {
    /// By first offset, the last one first.
    aborted: Vec<AbortedTxn>,
    ongoing_aborted: BTreeMap<i64, Ongoing>,
    ongoing_committed: BTreeSet<i64>,
}

impl Transactions {
    pub fn new(mut aborted: Vec<AbortedTxn>) -> Transactions {
        aborted.sort_by_key(|txn| std::cmp::Reverse(txn.first_offset));
        Transactions { aborted, ..Transactions::default() }
    }

    fn begin_up_to(&mut self, offset: i64) {
        while let Some(txn) = self.aborted.pop_if(|txn| txn.first_offset <= offset) {
            self.ongoing_aborted.entry(txn.producer_id).or_insert(Ongoing { txn, has_data: false });
        }
    }

    /// Whether the batch, one of data, is part of an aborted transaction.
    pub fn on_data(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        match self.ongoing_aborted.get_mut(&header.producer_id) {
            Some(ongoing) => {
                ongoing.has_data = true;
                true
            }
            None => {
                self.ongoing_committed.insert(header.producer_id);
                false
            }
        }
    }

    /// A control batch; `kind` is `None` if its record is gone already.
    pub fn on_marker(&mut self, header: &BatchHeader, kind: Option<ControlRecordType>) -> Marker {
        self.begin_up_to(header.last_offset());
        let (is_spare, aborted) = match kind {
            Some(ControlRecordType::Abort) => {
                let ended = self.ongoing_aborted.remove(&header.producer_id).filter(|ongoing| ongoing.has_data);
                (ended.is_none(), ended.map(|ongoing| ongoing.txn))
            }
            Some(ControlRecordType::Commit) => (!self.ongoing_committed.remove(&header.producer_id), None),
            Some(_) => (false, None),
            None => (true, None),
        };
        Marker { is_spare, aborted }
    }
}

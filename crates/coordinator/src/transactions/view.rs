//! What operators ask: DescribeTransactions, ListTransactions.

use protocol::error::ErrorCode;
use protocol::messages::describe_transactions_response::{TopicData, TransactionState as Described};
use protocol::messages::list_transactions_response::TransactionState as Listed;
use protocol::time::Now;

use super::{Entry, TransactionShard, TransactionState};

/// Which transactions to list.
pub struct ListFilter<'a> {
    /// Empty: of any producer.
    pub producer_ids: &'a [i64],
    /// `None`: in any state. States that no transaction is seen in are left out of it.
    pub states: Option<&'a [TransactionState]>,
    /// Negative: whatever their age.
    pub longer_than_ms: i64,
    pub matches_id: &'a dyn Fn(&str) -> bool,
}

impl TransactionShard {
    pub fn describe(&self, id: &str) -> Described<'static> {
        let mut described = Described { transactional_id: id.to_owned().into(), ..Default::default() };
        let Some(Entry { current, markers_left, .. }) = self.entries.get(id).filter(|e| e.current.epoch >= 0) else {
            described.error_code = ErrorCode::TransactionalIdNotFound.into();
            return described;
        };
        described.transaction_state = current.state.name().into();
        described.transaction_timeout_ms = current.timeout_ms;
        described.transaction_start_time_ms = current.start_ms;
        described.producer_id = current.producer_id;
        described.producer_epoch = current.epoch;
        let partitions = if current.state.is_prepared() { markers_left } else { &current.partitions };
        for (topic, partition) in partitions {
            match described.topics.last_mut().filter(|t| t.topic == topic.as_str()) {
                Some(last) => last.partitions.push(*partition),
                None => described.topics.push(TopicData {
                    topic: topic.clone().into(),
                    partitions: vec![*partition],
                    ..Default::default()
                }),
            }
        }
        described
    }

    /// Whether partitions still have to be told of a transaction's end.
    pub fn awaits_markers(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.markers_left.is_empty())
    }

    pub fn list(&self, filter: &ListFilter<'_>, now: Now) -> Vec<Listed<'static>> {
        let wanted = |(id, entry): &(&String, &Entry)| {
            let current = &entry.current;
            (filter.producer_ids.is_empty() || filter.producer_ids.contains(&current.producer_id))
                && filter.states.is_none_or(|states| states.contains(&current.state))
                && (filter.longer_than_ms < 0 || now.wall_ms - current.start_ms > filter.longer_than_ms)
                && (filter.matches_id)(id)
        };
        let listed = self.entries.iter().filter(wanted).map(|(id, entry)| Listed {
            transactional_id: id.clone().into(),
            producer_id: entry.current.producer_id,
            transaction_state: entry.current.state.name().into(),
            ..Default::default()
        });
        listed.collect()
    }
}

//! This broker as a follower: one fetch at a time from each leader it follows (rules 12 to 15).

use protocol::api::ApiKey;
use protocol::codec::decode_all;
use protocol::error::ErrorCode;
use protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use protocol::messages::{FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use protocol::time::Now;
use replication::{FetchPosition, Fetched, FetcherOutcome, Limits, PartitionKey};
use storage::{AppendError, EpochEnd};

use crate::links::{Failure, Peer, Purpose};
use crate::node::{Node, Pending};

/// Metadata reaches brokers at different times; whoever is ahead asks again soon.
const METADATA_BACKOFF_MS: i64 = 20;
/// A leader that refuses connections is gone or starting; metadata will say which.
const REFUSED_BACKOFF_MS: i64 = 50;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl Node {
    pub(crate) fn drive_fetchers(&mut self, now: Now) {
        let due: Vec<i32> = self
            .replicas
            .fetchers
            .iter()
            .filter(|(_, f)| f.next_deadline() <= now.mono_ms)
            .map(|(id, _)| *id)
            .collect();
        for leader in due {
            self.fetch_from(leader, now);
        }
        self.replicas.fetchers.retain(|_, fetcher| !fetcher.is_empty() || fetcher.is_in_flight());
    }

    fn leader_peer(&self, leader: i32) -> Option<Peer> {
        let endpoint = self.image.brokers.get(&leader)?.endpoint(&self.config.inter_broker_listener_name)?;
        Some(Peer { purpose: Purpose::Replication, host: endpoint.host.clone(), port: endpoint.port })
    }

    fn fetch_from(&mut self, leader: i32, now: Now) {
        let peer = self.leader_peer(leader);
        let broker_epoch = self.broker_epoch();
        let Some(fetcher) = self.replicas.fetchers.get_mut(&leader) else { return };
        let Some(peer) = peer else {
            return fetcher.on_failure(now.mono_ms + REFUSED_BACKOFF_MS);
        };
        let limits = Limits {
            min_bytes: self.config.replica_fetch_min_bytes,
            max_wait_ms: i32::try_from(self.config.replica_fetch_wait_max_ms).unwrap_or(i32::MAX),
            partition_max_bytes: self.config.replica_fetch_max_bytes,
            response_max_bytes: self.config.replica_fetch_response_max_bytes,
        };
        let replicas = &self.replicas.all;
        let mut position = |key: PartitionKey| {
            let partition = &replicas.get(&key)?.partition;
            let (offset, log_start, last_epoch) = partition.fetch_position();
            Some(FetchPosition { offset, log_start, last_epoch, leader_epoch: partition.leader_epoch() })
        };
        let Some(request) = fetcher.next_request(&limits, broker_epoch, &mut position, now) else { return };
        // Topic ids, and the broker epoch beside the replica id: what every broker with KRaft understands.
        let versions = (15, self.image.metadata_version().replica_fetch().max(15));
        let timeout_ms = self.config.replica_socket_timeout_ms;
        let pending = (Pending::Fetch { leader }, timeout_ms);
        self.links.request(&peer, (ApiKey::Fetch, request), versions, pending, now, &mut self.effects);
    }

    pub(crate) fn on_fetch_failure(&mut self, leader: i32, failure: Failure, now: Now) {
        let Some(fetcher) = self.replicas.fetchers.get_mut(&leader) else { return };
        let wait_ms = match failure {
            Failure::Refused | Failure::Disconnected => REFUSED_BACKOFF_MS,
            Failure::TimedOut | Failure::UnsupportedVersion => self.config.replica_fetch_backoff_ms,
        };
        tracing::debug!(leader, ?failure, "fetch failed");
        fetcher.on_failure(now.mono_ms + wait_ms);
    }

    pub(crate) fn on_fetch_answer(&mut self, leader: i32, version: i16, body: &[u8], now: Now) {
        let Some(mut fetcher) = self.replicas.fetchers.remove(&leader) else { return };
        let response: FetchResponse<'_> = match decode_all(body, version) {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(leader, %error, "a fetch response cannot be read");
                fetcher.on_failure(now.mono_ms + self.config.replica_fetch_backoff_ms);
                self.replicas.fetchers.insert(leader, fetcher);
                return;
            }
        };
        let mut lost = Vec::new();
        let outcome = fetcher.on_response(&response, &mut |part| self.on_fetched(part, &mut lost, now));
        if let Err(code) = outcome {
            tracing::debug!(leader, error = code.name(), "fetch session is begun anew");
            let is_session = matches!(
                code,
                ErrorCode::FetchSessionIdNotFound
                    | ErrorCode::InvalidFetchSessionEpoch
                    | ErrorCode::FetchSessionTopicIdError
            );
            if !is_session {
                fetcher.on_failure(now.mono_ms + self.config.replica_fetch_backoff_ms);
            }
        }
        self.replicas.fetchers.insert(leader, fetcher);
        for key in lost {
            self.ask_offset(leader, key, true, now);
        }
        self.fetch_from(leader, now);
    }

    fn on_fetched(&mut self, part: Fetched<'_>, lost: &mut Vec<PartitionKey>, now: Now) -> FetcherOutcome {
        let Fetched { key, asked, data } = part;
        let later = |ms: i64| FetcherOutcome::Backoff { until_ms: now.mono_ms + ms };
        let backoff_ms = self.config.replica_fetch_backoff_ms;
        let Some(replica) = self.replicas.all.get_mut(&key) else { return FetcherOutcome::Unchanged };
        let partition = &mut replica.partition;
        if asked.leader_epoch != partition.leader_epoch() || asked.offset != partition.log().end_offset() {
            // The role changed while the answer was under way; what it says belongs to the past.
            return FetcherOutcome::Moved;
        }
        match ErrorCode::from_i16(data.error_code) {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                lost.push(key);
                return later(self.config.request_timeout_ms);
            }
            error if is_of_metadata(error) => return later(METADATA_BACKOFF_MS),
            error => {
                tracing::warn!(topic = %partition.topic, partition = key.1, error = error.name(), "the leader refuses our fetch");
                return later(backoff_ms);
            }
        }
        if data.diverging_epoch.epoch >= 0 && data.diverging_epoch.end_offset >= 0 {
            let ends = EpochEnd { epoch: data.diverging_epoch.epoch, end_offset: data.diverging_epoch.end_offset };
            tracing::info!(topic = %partition.topic, partition = key.1, our_end = asked.offset, epoch = ends.epoch, leaders_end = ends.end_offset, "history differs from the leader's");
            return match partition.truncate_on_divergence(ends, now) {
                // Nothing to cut off, and no epoch either: asking again at once would get the same answer.
                Ok(_) if partition.fetch_position() == (asked.offset, asked.log_start, asked.last_epoch) => {
                    later(backoff_ms)
                }
                Ok(_) => {
                    self.replicas.touched.insert(key);
                    FetcherOutcome::Moved
                }
                Err(error) => self.fail_fetch(error, now),
            };
        }
        let records = data.records.as_ref().map_or(&[][..], |r| r.bytes());
        if !self.offline.has_room(&*self.disk, replica.dir, &self.log_dirs[replica.dir].path, records.len(), now) {
            self.notice_full(&"a leader's records have no room", now);
            return later(backoff_ms);
        }
        let fed = partition.append_as_follower(
            asked.offset,
            records,
            data.high_watermark,
            data.log_start_offset,
            asked.leader_epoch,
            now,
        );
        match fed {
            Ok(fed) => {
                if fed.appended || fed.high_watermark_moved {
                    self.replicas.touched.insert(key);
                }
                let is_behind = partition.log().end_offset() < data.high_watermark;
                let throttled = replica.throttled.following.then(|| self.throttles.received(records.len(), now));
                if let Some(wait_ms) = throttled.filter(|wait_ms| *wait_ms > 0 && is_behind) {
                    return later(wait_ms);
                }
                // The leader learns of a new log start from our next fetch.
                if fed.appended || fed.log_start_moved { FetcherOutcome::Moved } else { FetcherOutcome::Unchanged }
            }
            Err(AppendError::Storage(error)) => self.fail_fetch(error, now),
            Err(error) => {
                tracing::error!(topic = %partition.topic, partition = key.1, offset = asked.offset, %error, "what the leader sent is not appended");
                later(backoff_ms)
            }
        }
    }

    /// The failure is looked at once the fetcher is back in its place.
    fn fail_fetch(&mut self, error: storage::StorageError, now: Now) -> FetcherOutcome {
        self.replicas.failures.push(error);
        FetcherOutcome::Backoff { until_ms: now.mono_ms + self.config.replica_fetch_backoff_ms }
    }

    // Rule 15: our end lies outside of the leader's log.

    fn ask_offset(&mut self, leader: i32, key: PartitionKey, asks_latest: bool, now: Now) {
        let Some(peer) = self.leader_peer(leader) else { return self.on_offsets_failure(key, now) };
        let Some(partition) = self.replicas.get(key) else { return };
        let asked = ListOffsetsPartition {
            partition_index: key.1,
            current_leader_epoch: partition.leader_epoch(),
            timestamp: if asks_latest { LATEST } else { EARLIEST },
            ..Default::default()
        };
        let topic =
            ListOffsetsTopic { name: partition.topic.clone().into(), partitions: vec![asked], ..Default::default() };
        let request = ListOffsetsRequest { replica_id: self.config.node_id, topics: vec![topic], ..Default::default() };
        let pending = (Pending::Offsets { leader, key, asks_latest }, self.config.replica_socket_timeout_ms);
        self.links.request(&peer, (ApiKey::ListOffsets, request), (4, 7), pending, now, &mut self.effects);
    }

    pub(crate) fn on_offsets_answer(
        &mut self,
        leader: i32,
        key: PartitionKey,
        asks_latest: bool,
        version: i16,
        body: &[u8],
        now: Now,
    ) {
        let response: Option<ListOffsetsResponse<'_>> = decode_all(body, version).ok();
        let part = response.as_ref().and_then(|r| r.topics.first()).and_then(|t| t.partitions.first());
        let Some(part) = part.filter(|p| p.error_code == 0 && p.partition_index == key.1 && p.offset >= 0) else {
            return self.on_offsets_failure(key, now);
        };
        let Some(replica) = self.replicas.all.get_mut(&key).filter(|r| r.partition.followed() == Some(leader)) else {
            return;
        };
        let end = replica.partition.log().end_offset();
        let done = if asks_latest && part.offset < end {
            // An unclean election chose a leader that has less than we have.
            tracing::warn!(topic = %replica.partition.topic, partition = key.1, our_end = end, leaders_end = part.offset, "the leader's log ends before ours: we cut ours back to it");
            replica.partition.truncate_to(part.offset, now)
        } else if asks_latest {
            return self.ask_offset(leader, key, false, now);
        } else if part.offset > end {
            tracing::warn!(topic = %replica.partition.topic, partition = key.1, our_end = end, leaders_start = part.offset, "the leader's log begins behind ours: ours starts over there");
            replica.partition.start_over_at(part.offset, now)
        } else {
            Ok(())
        };
        match done {
            Ok(()) => self.resume_fetching(leader, key),
            Err(error) => self.storage_failed(error, now),
        }
    }

    fn resume_fetching(&mut self, leader: i32, key: PartitionKey) {
        self.replicas.touched.insert(key);
        if let Some(fetcher) = self.replicas.fetchers.get_mut(&leader) {
            fetcher.add(key);
        }
    }

    /// The fetcher put the partition aside; it tries again by itself.
    pub(crate) fn on_offsets_failure(&mut self, key: PartitionKey, _now: Now) {
        if let Some(leader) = self.replicas.get(key).and_then(|p| p.followed()) {
            self.resume_fetching(leader, key);
        }
    }
}

/// The leader's metadata is not ours: one of us will hear of it.
fn is_of_metadata(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
    )
}

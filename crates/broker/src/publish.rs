//! What a change of the image means for this broker, in one fixed order: deletions, then partitions, then
//! configurations, then brokers (`BrokerMetadataPublisher`).

use std::collections::BTreeSet;
use std::sync::Arc;

use metadata::{ConfigResource, MetadataDelta, image};
use protocol::api::ApiKey;
use protocol::messages::{AssignReplicasToDirsRequest, assign_replicas_to_dirs_request as assign};
use protocol::time::Now;
use protocol::wire::Uuid;
use replication::{Fetcher, Partition, PartitionKey, PartitionState, Settings};
use storage::{DirKind, Log, LogConfig, OpenOptions, StorageError};

use crate::control::ControlOp;
use crate::lifecycle;
use crate::node::Node;
use crate::quotas::replication::Throttled;
use crate::replicas::{Replica, Unclaimed};
use crate::settings;
use crate::start::evidence_of;

impl Node {
    /// Recovers every log of a directory; the image will say whose they are.
    pub(crate) fn load_logs(&mut self, index: usize, now: Now) -> Result<(), StorageError> {
        let log_config = settings::log_config(&settings::topic_config(&self.image, &self.config, ""), &self.config);
        let Some(dir) = self.log_dirs.get(index) else { return Ok(()) };
        let failed = |error| StorageError { path: dir.path.clone(), error };
        let recovery_points = dir.recovery_points().map_err(failed)?;
        let log_starts = dir.log_starts().map_err(failed)?;
        let high_watermarks = dir.high_watermarks().map_err(failed)?;
        // Only ever a hint; a file that cannot be read is none.
        let cleaned = dir.cleaner_offsets().unwrap_or_default();
        for (name, (topic, partition, kind)) in dir.partitions().map_err(failed)? {
            let path = dir.path.join(&name);
            match kind {
                DirKind::Deleted => {
                    self.replicas.doomed.push((now.mono_ms, path));
                    continue;
                }
                DirKind::Replica if topic != "__cluster_metadata" => {}
                _ => continue,
            }
            let id = (topic, partition);
            let options = OpenOptions {
                topic_id: None,
                evidence: evidence_of(dir),
                recovery_point: recovery_points.get(&id).copied().unwrap_or(0),
                log_start_offset: log_starts.get(&id).copied().unwrap_or(0),
                now,
            };
            // Whether the topic is compacted the image will say; that it once was, and may have gaps, is known here.
            let log_config = LogConfig { compact: cleaned.contains_key(&id), ..log_config.clone() };
            let mut log = Log::open(self.disk.clone(), &path, log_config, &options)?;
            log.set_cleaned_upto(cleaned.get(&id).copied());
            let high_watermark = high_watermarks.get(&id).copied().unwrap_or(0);
            self.replicas.unclaimed.insert(id, Unclaimed { log, dir: index, high_watermark });
        }
        Ok(())
    }

    /// The image has new records.
    pub(crate) fn on_image_changed(&mut self, now: Now) {
        if self.has_failed {
            return;
        }
        if !self.replay.in_transaction() {
            self.publish(now);
        }
        self.check_controller_registration(now);
        self.release_committed();
        self.maybe_snapshot(now);
    }

    /// Nothing is published before our own registration is in the image: what came before it speaks of an earlier
    /// life, and acting on it could make this broker lead an epoch that has long ended.
    fn publish(&mut self, now: Now) {
        let Some(lifecycle) = &mut self.lifecycle else {
            if std::mem::take(&mut self.delta).concerns_quotas() {
                self.quotas.update(&self.image);
            }
            return;
        };
        if lifecycle.state == lifecycle::State::Registering || self.replay.next <= lifecycle.broker_epoch {
            return;
        }
        lifecycle.on_replayed();
        let mut delta = std::mem::take(&mut self.delta);
        if !self.replicas.is_published {
            delta.everything = true;
        } else if delta.is_empty() {
            return;
        }
        if delta.concerns_quotas() {
            self.quotas.update(&self.image);
        }
        self.apply_delta(&delta, now);
        if self.has_failed {
            return;
        }
        if !self.replicas.is_published {
            self.replicas.is_published = true;
            self.set_strays_aside();
        }
        if !self.early.is_done() {
            self.answer_early(now);
        }
        tracing::trace!(offset = self.replay.next - 1, "published");
    }

    fn apply_delta(&mut self, delta: &MetadataDelta, now: Now) {
        let mut failed = Vec::new();
        for (id, topic) in &delta.topics_deleted {
            for partition in topic.partitions.keys() {
                failed.extend(self.remove_replica((*id, *partition), now).err());
            }
        }
        if delta.everything {
            let gone: Vec<PartitionKey> =
                self.replicas.all.keys().copied().filter(|key| self.image.partition(key.0, key.1).is_none()).collect();
            for key in gone {
                failed.extend(self.remove_replica(key, now).err());
            }
        }
        let mut unassigned = Vec::new();
        for key in self.changed_partitions(delta) {
            let Some(topic) = self.image.topics.get(&key.0) else { continue };
            let Some(state) = topic.partitions.get(&key.1) else { continue };
            let (name, state) = (topic.name.clone(), state.clone());
            let applied = match state.replicas.contains(&self.config.node_id) {
                true => self.apply_partition(key, &name, &state, &mut unassigned, now),
                false => self.remove_replica(key, now),
            };
            if let Err(error) = applied {
                // Without a log it cannot serve, whatever the reason; one that has its log goes with its directory.
                if !self.replicas.all.contains_key(&key) {
                    self.offline.replicas.insert(key);
                }
                failed.push(error);
            }
        }
        self.tell_groups(delta);
        let is_of_clients = |resource: &ConfigResource| resource.kind == ConfigResource::CLIENT_METRICS;
        if delta.everything || delta.configs.iter().any(is_of_clients) {
            self.telemetry.update(&self.image);
        }
        self.apply_configs(delta);
        self.apply_brokers(delta);
        self.assign_directories(unassigned, now);
        for error in failed {
            self.storage_failed(error, now);
        }
    }

    /// Replicas that could not be opened for want of room may have it by now.
    pub(crate) fn reopen_replicas(&mut self, now: Now) {
        if !self.offline.replicas.is_empty() {
            let partitions = self.offline.replicas.iter().copied().collect();
            self.apply_delta(&MetadataDelta { partitions, ..Default::default() }, now);
        }
    }

    fn changed_partitions(&self, delta: &MetadataDelta) -> Vec<PartitionKey> {
        if !delta.everything {
            return delta.partitions.iter().copied().collect();
        }
        let of_topic = |(id, topic): (&Uuid, &image::Topic)| {
            let id = *id;
            topic.partitions.keys().map(move |p| (id, *p)).collect::<Vec<_>>()
        };
        self.image.topics.iter().flat_map(of_topic).collect()
    }

    fn apply_partition(
        &mut self,
        key: PartitionKey,
        topic: &str,
        state: &image::Partition,
        unassigned: &mut Vec<(PartitionKey, Uuid)>,
        now: Now,
    ) -> Result<(), StorageError> {
        if !self.replicas.all.contains_key(&key) {
            if self.may_be_offline(key, topic, state) {
                self.offline.replicas.insert(key);
                return Ok(());
            }
            self.open_replica(key, topic, state, now)?;
            self.offline.replicas.remove(&key);
        }
        let local = self.config.node_id;
        let replica = self.replicas.all.get_mut(&key).expect("opened above");
        let dir_id = self.log_dirs.get(replica.dir).map_or(Uuid::ZERO, |d| d.id);
        if state.directory_of(local) != Some(dir_id) && self.image.metadata_version().has_directories() {
            unassigned.push((key, dir_id));
        }
        let committed = PartitionState {
            replicas: state.replicas.clone(),
            isr: state.isr.clone(),
            leader: state.has_leader().then_some(state.leader),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
        };
        let before = replica.partition.followed();
        let changed = replica.partition.apply(committed, now)?;
        let followed = replica.partition.followed();
        if changed && followed.is_some() {
            replica.partition.truncate_without_epochs(now)?;
        }
        self.replicas.touched.insert(key);
        if changed {
            self.groups.runtime.on_role_changed(topic, key.1);
            self.transactions.runtime.on_role_changed(topic, key.1);
        }
        if changed || before != followed {
            if let Some(fetcher) = before.and_then(|leader| self.replicas.fetchers.get_mut(&leader)) {
                fetcher.remove(key);
            }
            if let Some(leader) = followed {
                self.replicas.fetchers.entry(leader).or_insert_with(|| Fetcher::new(local)).add(key);
            }
        }
        self.replicas.isr_candidates.insert(key);
        Ok(())
    }

    fn open_replica(
        &mut self,
        key: PartitionKey,
        topic: &str,
        state: &image::Partition,
        now: Now,
    ) -> Result<(), StorageError> {
        let topic_config = settings::topic_config(&self.image, &self.config, topic);
        let log_config = settings::log_config(&topic_config, &self.config);
        let name = (topic.to_owned(), key.1);
        // A log of another topic that had the same name is set aside, never taken over.
        let claimed = match self.replicas.unclaimed.remove(&name) {
            Some(found) if found.log.topic_id().is_none_or(|id| id == key.0) => Some(found),
            Some(other) => {
                self.retire_log(other.log, "stray")?;
                None
            }
            None => None,
        };
        let (log, dir, high_watermark) = match claimed {
            Some(found) => {
                let mut log = found.log;
                if log.topic_id().is_none() {
                    log.set_topic_id(key.0)?;
                }
                log.update_config(log_config);
                if log.cleaned_upto().is_some() {
                    self.cleaner.on_loaded(key);
                }
                (log, found.dir, found.high_watermark)
            }
            None => {
                let dir = self.choose_dir(state);
                let path = self.log_dirs[dir].path.join(storage::partition_dir(topic, key.1));
                (Log::create(self.disk.clone(), &path, Some(key.0), log_config, now)?, dir, 0)
            }
        };
        let settings = self.partition_settings(&topic_config);
        let partition = Partition::new(key, topic.to_owned(), self.config.node_id, log, high_watermark, settings);
        let mut replica = Replica::new(partition, dir, topic_config);
        replica.throttled = Throttled::of(&self.image, &self.config, topic, key.1);
        self.replicas.all.insert(key, replica);
        Ok(())
    }

    /// The directory that the controller assigned, or else the one with the fewest replicas.
    fn choose_dir(&self, state: &image::Partition) -> usize {
        let assigned = state.directory_of(self.config.node_id);
        let known = assigned.and_then(|id| self.online_dirs().find(|index| self.log_dirs[*index].id == id));
        let count = |index: &usize| self.replicas.all.values().filter(|r| r.dir == *index).count();
        known.or_else(|| self.online_dirs().min_by_key(count)).unwrap_or(0)
    }

    fn partition_settings(&self, topic: &metadata::config::TopicConfig) -> Settings {
        Settings {
            min_insync_replicas: topic.min_insync_replicas,
            lag_time_max_ms: self.config.replica_lag_time_max_ms,
            mutations: self.mutations.replication,
        }
    }

    fn remove_replica(&mut self, key: PartitionKey, now: Now) -> Result<(), StorageError> {
        self.offline.replicas.remove(&key);
        let Some(replica) = self.detach_replica(key) else { return Ok(()) };
        let delay_ms = replica.topic_config.file_delete_delay_ms;
        tracing::info!(topic = %replica.partition.topic, partition = key.1, "replica is removed");
        let path = self.retire_log(replica.partition.into_log(), "delete")?;
        self.replicas.doomed.push((now.mono_ms + delay_ms, path));
        Ok(())
    }

    /// From here on nobody serves the replica; its log stays where it is.
    pub(crate) fn detach_replica(&mut self, key: PartitionKey) -> Option<Replica> {
        let replica = self.replicas.all.remove(&key)?;
        for fetcher in self.replicas.fetchers.values_mut() {
            fetcher.remove(key);
        }
        self.replicas.touched.insert(key);
        self.groups.runtime.on_role_changed(&replica.partition.topic, key.1);
        self.transactions.runtime.on_role_changed(&replica.partition.topic, key.1);
        Some(replica)
    }

    fn retire_log(&mut self, log: Log, suffix: &str) -> Result<std::path::PathBuf, StorageError> {
        let id = Node::random_uuid(&mut self.rng);
        log.retire(suffix, id)
    }

    /// Logs that the caught-up image does not know. Kept on disk, out of the way, as Kafka does: the operator may know
    /// better than the metadata.
    fn set_strays_aside(&mut self) {
        for ((topic, partition), unclaimed) in std::mem::take(&mut self.replicas.unclaimed) {
            tracing::warn!(topic, partition, "this log is not in the metadata; it is renamed to -stray and kept");
            if let Err(error) = self.retire_log(unclaimed.log, "stray") {
                tracing::error!(topic, partition, %error, "a stray log cannot be renamed");
            }
        }
    }

    fn apply_configs(&mut self, delta: &MetadataDelta) {
        let of_brokers = [ConfigResource::all_brokers(), settings::own_resource(&self.config)];
        let all = delta.everything || of_brokers.iter().any(|resource| delta.configs.contains(resource));
        let named: BTreeSet<&str> = delta
            .configs
            .iter()
            .filter(|resource| resource.kind == ConfigResource::TOPIC)
            .map(|resource| resource.name.as_str())
            .collect();
        if !all && named.is_empty() {
            return;
        }
        if all {
            self.throttles.update(&self.image, &self.config);
            let dynamic = settings::dynamic_configs(&self.image, &self.config);
            self.config = Arc::new(self.file_config.with_dynamic(dynamic));
            self.cleaner.on_config(&self.config);
        }
        let keys: Vec<PartitionKey> = self
            .replicas
            .all
            .iter()
            .filter(|(_, r)| all || named.contains(r.partition.topic.as_str()))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            let Some(topic) = self.replicas.get(key).map(|p| p.topic.clone()) else { continue };
            let config = settings::topic_config(&self.image, &self.config, &topic);
            let log_config = settings::log_config(&config, &self.config);
            let partition_settings = self.partition_settings(&config);
            let throttled = Throttled::of(&self.image, &self.config, &topic, key.1);
            let Some(replica) = self.replicas.all.get_mut(&key) else { continue };
            replica.partition.set_settings(partition_settings);
            replica.partition.log_mut().update_config(log_config);
            replica.topic_config = config;
            replica.throttled = throttled;
        }
    }

    /// A broker came, went or moved: its partitions' leaders may change their ISR, and fetchers find it again.
    fn apply_brokers(&mut self, delta: &MetadataDelta) {
        if delta.brokers.is_empty() && !delta.everything {
            return;
        }
        for id in &delta.brokers {
            if let Some(fetcher) = self.replicas.fetchers.get_mut(id) {
                fetcher.hurry();
            }
        }
        // Whoever shuts down may go when every broker has said that it has seen this.
        let is_leaving = |id: &i32| self.image.brokers.get(id).is_some_and(|b| b.in_controlled_shutdown && !b.fenced);
        let mut others = delta.brokers.iter().filter(|id| **id != self.config.node_id);
        if let Some(lifecycle) = self.lifecycle.as_mut().filter(|_| others.any(is_leaving)) {
            lifecycle.hurry();
        }
        let leaders = self.replicas.all.iter().filter(|(_, r)| r.partition.is_leader());
        let keys: Vec<PartitionKey> = leaders
            .filter(|(_, r)| delta.brokers.iter().any(|id| r.partition.is_replica(*id)))
            .map(|(key, _)| *key)
            .collect();
        self.replicas.isr_candidates.extend(keys);
        // A broker that no longer serves does not hold up the deletion of records.
        self.replicas.touched.extend(self.replicas.deletes.keys());
    }

    /// KIP-858: with several directories the controller does not know which one was chosen.
    pub(crate) fn assign_directories(&mut self, unassigned: Vec<(PartitionKey, Uuid)>, now: Now) {
        if unassigned.is_empty() {
            return;
        }
        let mut directories: Vec<assign::DirectoryData> = Vec::new();
        for (key, dir) in unassigned {
            let index = directories.iter().position(|d| d.id == dir).unwrap_or_else(|| {
                directories.push(assign::DirectoryData { id: dir, ..Default::default() });
                directories.len() - 1
            });
            let partition = assign::PartitionData { partition_index: key.1, ..Default::default() };
            let topics = &mut directories[index].topics;
            match topics.iter_mut().find(|t| t.topic_id == key.0) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(assign::TopicData {
                    topic_id: key.0,
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        let request = AssignReplicasToDirsRequest {
            broker_id: self.config.node_id,
            broker_epoch: self.broker_epoch(),
            directories,
            ..Default::default()
        };
        self.ask_controller(ControlOp::AssignDirectories, ApiKey::AssignReplicasToDirs, request, now);
    }
}

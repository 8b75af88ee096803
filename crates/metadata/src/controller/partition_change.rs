//! One change of one partition, from what is wanted to the record that says it (`PartitionChangeBuilder`): completes
//! reassignments, elects a leader, keeps the eligible leader replicas (KIP-966) and says only what differs.

use protocol::messages::PartitionChangeRecord;
use protocol::wire::Uuid;

use crate::features::MetadataVersion;
use crate::image::{MetadataImage, NO_LEADER, Partition};

/// `Leader` of a change that keeps the leader.
const LEADER_UNCHANGED: i32 = -2;

/// Replicas whose directory is not known (`DirectoryId.MIGRATING`, `UNASSIGNED`, `LOST`).
pub(super) const DIRECTORY_MIGRATING: Uuid = Uuid::reserved(0);
pub(super) const DIRECTORY_UNASSIGNED: Uuid = Uuid::reserved(1);
pub(super) const DIRECTORY_LOST: Uuid = Uuid::reserved(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Election {
    /// The first replica if it may lead, else as `Online`.
    Preferred,
    /// The leader stays if it may; else the first of the ISR that is alive, then of the ELR.
    Online,
    /// As `Online`, and if nobody qualifies any replica that is alive, at the price of records.
    Unclean,
}

/// What a partition is to become. Fields begin as the partition is.
pub(super) struct PartitionChange<'a> {
    image: &'a MetadataImage,
    partition: &'a Partition,
    topic: Uuid,
    number: i32,
    min_isr: usize,
    is_elr_on: bool,
    level: MetadataVersion,
    pub election: Election,
    pub isr: Vec<i32>,
    pub elr: Vec<i32>,
    pub replicas: Vec<i32>,
    pub removing: Vec<i32>,
    pub adding: Vec<i32>,
    pub is_recovering: bool,
    /// A replica that is put into a directory by this change.
    pub directory: Option<(i32, Uuid)>,
    /// May lead and stay in the ISR although the image still shows it fenced.
    pub unfenced: Option<i32>,
    /// May not lead although the image still shows it active.
    pub fenced: Option<i32>,
    /// Stopped without writing down that it was clean: what it has cannot be trusted.
    pub unclean: Option<i32>,
}

impl<'a> PartitionChange<'a> {
    pub fn new(
        image: &'a MetadataImage,
        topic: Uuid,
        number: i32,
        partition: &'a Partition,
        min_isr: usize,
    ) -> PartitionChange<'a> {
        PartitionChange {
            image,
            partition,
            topic,
            number,
            min_isr,
            is_elr_on: image.elr_is_on(),
            level: image.metadata_version(),
            election: Election::Online,
            isr: partition.isr.clone(),
            elr: partition.elr.clone(),
            replicas: partition.replicas.clone(),
            removing: partition.removing.clone(),
            adding: partition.adding.clone(),
            is_recovering: partition.is_recovering,
            directory: None,
            unfenced: None,
            fenced: None,
            unclean: None,
        }
    }

    /// The record, if anything changes.
    pub fn build(mut self) -> Option<PartitionChangeRecord> {
        let mut record =
            PartitionChangeRecord { topic_id: self.topic, partition_id: self.number, ..Default::default() };
        self.complete_reassignment();
        self.update_elr();
        let is_unclean = self.elect(&mut record);
        let old = self.partition;
        if record.leader == LEADER_UNCHANGED && old.replicas.iter().any(|r| !self.replicas.contains(r)) {
            // Naming the leader bumps its epoch: replicas that were removed must not go on fetching.
            record.leader = old.leader;
        }
        if is_unclean || !self.is_elr_on {
            self.elr.clear();
        }
        if self.elr != old.elr {
            record.eligible_leader_replicas = Some(self.elr.clone());
        }
        if record.isr.is_none() && (!self.isr.is_empty() || self.is_elr_on) && self.isr != old.isr {
            record.isr = Some(self.isr.clone());
        }
        if self.level.bumps_epoch_on_shrink() && record.leader == LEADER_UNCHANGED {
            // KAFKA-15021: brokers of such clusters notice a shrunk ISR only by a new leader epoch.
            if record.isr.as_ref().is_some_and(|isr| old.isr.iter().any(|r| !isr.contains(r))) {
                record.leader = old.leader;
            }
        }
        self.update_last_known_leader(&mut record);
        self.update_assignment(&mut record);
        if record.leader_recovery_state < 0 && self.is_recovering != old.is_recovering {
            record.leader_recovery_state = i8::from(self.is_recovering);
        }
        let nothing = PartitionChangeRecord { topic_id: self.topic, partition_id: self.number, ..Default::default() };
        (record != nothing).then_some(record)
    }

    /// KIP-455: once every replica that is being added is in sync, those being removed go
    /// (`PartitionReassignmentReplicas.maybeCompleteReassignment`).
    fn complete_reassignment(&mut self) {
        if self.removing.is_empty() && self.adding.is_empty() {
            return;
        }
        let stays = |r: &&i32| !self.removing.contains(r);
        let isr: Vec<i32> = self.isr.iter().filter(stays).copied().collect();
        let replicas: Vec<i32> = self.replicas.iter().filter(stays).copied().collect();
        if !self.removing.is_empty() && (isr.is_empty() || replicas.is_empty()) {
            return;
        }
        if self.adding.iter().any(|r| !isr.contains(r)) {
            return;
        }
        // With fewer replicas afterwards, all that remain must be in sync first, or the ISR would shrink for nothing.
        if self.adding.len() < self.removing.len() && replicas.iter().any(|r| !isr.contains(r)) {
            return;
        }
        // DIFFERS: Kafka completes a move although fewer than min.insync.replicas would be in sync afterwards, and the
        // replicas that go delete what was acknowledged when there were enough.
        if isr.len() < self.isr.len() && isr.len() < self.min_isr.min(replicas.len()) {
            return;
        }
        self.isr = isr;
        self.replicas = replicas;
        self.removing.clear();
        self.adding.clear();
    }

    /// Below min.insync.replicas whoever leaves the ISR still holds everything up to the high watermark, which cannot
    /// have moved: it may lead again, unless it stopped uncleanly.
    fn update_elr(&mut self) {
        if !self.is_elr_on {
            return;
        }
        if self.isr.len() >= self.min_isr {
            self.elr.clear();
            return;
        }
        let mut candidates: Vec<i32> = self.elr.iter().chain(&self.partition.isr).copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|r| !self.isr.contains(r) && self.unclean != Some(*r));
        // DIFFERS: Kafka keeps replicas that a completed reassignment has removed, and may elect one of them, which has
        // deleted its log by then.
        candidates.retain(|r| self.replicas.contains(r));
        // The order of what stays the same is kept, so that nothing is written for it.
        let is_same = candidates.len() == self.elr.len() && candidates.iter().all(|r| self.elr.contains(r));
        if !is_same {
            self.elr = candidates;
        }
    }

    /// Whether the election was unclean.
    fn elect(&mut self, record: &mut PartitionChangeRecord) -> bool {
        let (node, is_unclean) = self.candidate();
        if node == self.partition.leader {
            return false;
        }
        if self.elr.contains(&node) {
            self.isr = vec![node];
            self.elr.retain(|r| *r != node);
        }
        record.leader = node;
        if is_unclean {
            tracing::warn!(topic = %self.topic, partition = self.number, leader = node, "unclean leader election");
            record.isr = Some(vec![node]);
            if !self.partition.is_recovering {
                record.leader_recovery_state = 1;
                self.is_recovering = true;
            }
        }
        is_unclean
    }

    /// Who is to lead, and whether that may cost records.
    fn candidate(&self) -> (i32, bool) {
        let preferred = self.replicas.first().filter(|r| self.election == Election::Preferred && self.is_eligible(**r));
        if let Some(preferred) = preferred {
            return (*preferred, false);
        }
        if self.is_eligible(self.partition.leader) {
            return (self.partition.leader, false);
        }
        if let Some(online) = self.replicas.iter().find(|r| self.is_eligible(**r)) {
            return (*online, false);
        }
        if let Some(last) = self.last_known_leader() {
            return (last, true);
        }
        let any = self.replicas.iter().find(|r| self.election == Election::Unclean && self.is_acceptable(**r));
        any.map_or((NO_LEADER, false), |any| (*any, true))
    }

    fn is_eligible(&self, replica: i32) -> bool {
        let is_in_sync = self.isr.contains(&replica) || (self.isr.is_empty() && self.elr.contains(&replica));
        is_in_sync && self.is_acceptable(replica)
    }

    /// Alive, and with its directory online (`LeaderAcceptor`).
    fn is_acceptable(&self, replica: i32) -> bool {
        if self.fenced == Some(replica) || self.unclean == Some(replica) {
            return false;
        }
        let Some(broker) = self.image.brokers.get(&replica) else { return false };
        let is_fenced = broker.fenced && self.unfenced != Some(replica);
        if is_fenced || broker.in_controlled_shutdown {
            return false;
        }
        match self.partition.directory_of(replica) {
            None | Some(DIRECTORY_UNASSIGNED) | Some(DIRECTORY_MIGRATING) => true,
            Some(DIRECTORY_LOST) => false,
            Some(directory) => broker.log_dirs.is_empty() || broker.log_dirs.contains(&directory),
        }
    }

    /// With nobody in ISR and ELR the one that led last is the best there is (KIP-966, balanced recovery).
    fn last_known_leader(&self) -> Option<i32> {
        if !self.is_elr_on || !self.isr.is_empty() || !self.elr.is_empty() {
            return None;
        }
        match self.partition.last_known_elr[..] {
            [last] if self.is_acceptable(last) && self.replicas.contains(&last) => Some(last),
            _ => None,
        }
    }

    fn update_last_known_leader(&self, record: &mut PartitionChangeRecord) {
        let old = self.partition;
        if !self.is_elr_on {
            return;
        }
        if record.leader == NO_LEADER && old.last_known_elr.is_empty() && old.has_leader() {
            record.last_known_elr = Some(vec![old.leader]);
        } else if record.leader >= 0 && !old.last_known_elr.is_empty() {
            record.last_known_elr = Some(Vec::new());
        }
    }

    fn update_assignment(&self, record: &mut PartitionChangeRecord) {
        let old = self.partition;
        if self.level.has_directories() {
            let directory = |replica: &i32| match self.directory {
                Some((broker, directory)) if broker == *replica => directory,
                _ => old.directory_of(*replica).unwrap_or_else(|| default_directory(self.image, *replica)),
            };
            let directories: Vec<Uuid> = self.replicas.iter().map(directory).collect();
            if directories != old.directories {
                record.directories = Some(directories);
            }
        }
        if self.replicas != old.replicas {
            record.replicas = Some(self.replicas.clone());
        }
        if self.removing != old.removing {
            record.removing_replicas = Some(self.removing.clone());
        }
        if self.adding != old.adding {
            record.adding_replicas = Some(self.adding.clone());
        }
    }
}

/// Where a new replica goes: into the broker's only directory, else wherever the broker says later
/// (`ClusterControlManager.defaultDir`).
pub(super) fn default_directory(image: &MetadataImage, broker: i32) -> Uuid {
    match image.brokers.get(&broker).map(|b| &b.log_dirs[..]) {
        None => DIRECTORY_UNASSIGNED,
        Some([]) => DIRECTORY_MIGRATING,
        Some([only]) => *only,
        Some(_) => DIRECTORY_UNASSIGNED,
    }
}

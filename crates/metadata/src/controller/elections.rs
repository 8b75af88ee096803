//! Leaders and in-sync replicas that change because brokers come and go, because an operator asks, or by the clock
//! (`ReplicationControlManager.generateLeaderAndIsrUpdates`, `electLeaders`).

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::wire::Uuid;

use super::partition_change::{Election, PartitionChange};
use super::{ApiError, Controller, ControllerResult, RECORDS_MAX_PER_OPERATION, Record, outcome, own, refused};
use crate::image::Partition;

impl Controller {
    fn partitions<'a>(
        &'a self,
        wanted: impl Fn(&Partition) -> bool + 'a,
    ) -> impl Iterator<Item = (Uuid, i32, &'a Partition)> {
        let all = self.image.topics.values().flat_map(|t| t.partitions.iter().map(|(n, p)| (t.id, *n, p)));
        all.filter(move |(_, _, p)| wanted(p))
    }

    /// The change of a partition as it stands, unclean elections allowed if its topic allows them.
    pub(super) fn change<'a>(&'a self, topic: Uuid, number: i32, partition: &'a Partition) -> PartitionChange<'a> {
        let mut change = PartitionChange::new(&self.image, topic, number, partition, self.effective_min_isr(topic));
        let name = self.image.topics.get(&topic).map_or("", |t| t.name.as_str());
        if self.unclean_election_is_enabled(name) {
            change.election = Election::Unclean;
        }
        change
    }

    fn updates<'a>(
        &'a self,
        partitions: impl Iterator<Item = (Uuid, i32, &'a Partition)>,
        adjust: impl Fn(&mut PartitionChange<'a>),
    ) -> Vec<Record> {
        let changes = partitions.filter_map(|(topic, number, partition)| {
            let mut change = self.change(topic, number, partition);
            adjust(&mut change);
            change.build().map(MetadataRecord::PartitionChange)
        });
        changes.collect()
    }

    /// The broker leaves every ISR and every leadership.
    pub(super) fn replicas_fenced(&self, broker: i32) -> Vec<Record> {
        self.updates(self.partitions(|p| p.isr.contains(&broker)), |change| {
            change.isr.retain(|r| *r != broker);
            change.fenced = Some(broker);
        })
    }

    /// Partitions without a leader may have one again.
    pub(super) fn replicas_unfenced(&self, broker: i32) -> Vec<Record> {
        self.updates(self.partitions(|p| !p.has_leader()), |change| change.unfenced = Some(broker))
    }

    /// A new incarnation of the broker registers. If the old one did not stop cleanly it may have lost records that it
    /// had acknowledged: with ELR it leaves the eligible replicas too.
    pub(super) fn replicas_restarted(&self, broker: i32, is_clean: bool) -> Vec<Record> {
        if is_clean || !self.image.elr_is_on() {
            return self.replicas_fenced(broker);
        }
        let holds = self.partitions(|p| p.isr.contains(&broker) || p.elr.contains(&broker));
        self.updates(holds, |change| {
            change.isr.retain(|r| *r != broker);
            change.unclean = Some(broker);
        })
    }

    pub(super) fn replicas_unregistered(&self, broker: i32) -> Vec<Record> {
        self.updates(self.partitions(|p| p.isr.contains(&broker) || p.elr.contains(&broker)), |change| {
            change.isr.retain(|r| *r != broker);
            change.fenced = Some(broker);
        })
    }

    /// The replicas of a broker that were in directories which failed.
    pub(super) fn replicas_offline(&self, broker: i32, directories: &[Uuid]) -> Vec<Record> {
        let is_hit =
            |p: &Partition| p.isr.contains(&broker) && p.directory_of(broker).is_some_and(|d| directories.contains(&d));
        self.updates(self.partitions(is_hit), |change| {
            change.isr.retain(|r| *r != broker);
            change.fenced = Some(broker);
        })
    }

    /// Partitions that another than their first replica leads.
    pub(super) fn preferred_elections(&self, elections_max: usize) -> Vec<Record> {
        let imbalanced = self.partitions(|p| p.replicas.first() != Some(&p.leader));
        let changes = imbalanced.filter_map(|(topic, number, partition)| {
            let mut change = self.change(topic, number, partition);
            change.election = Election::Preferred;
            change.build().map(MetadataRecord::PartitionChange)
        });
        changes.take(elections_max).collect()
    }

    /// Partitions without a leader whose topic prefers any leader to none (KIP-704).
    pub(super) fn unclean_elections(&self, elections_max: usize) -> Vec<Record> {
        let changes = self.partitions(|p| !p.has_leader()).filter_map(|(topic, number, partition)| {
            let change = self.change(topic, number, partition);
            let is_wanted = change.election == Election::Unclean;
            change.build().filter(|_| is_wanted).map(MetadataRecord::PartitionChange)
        });
        changes.take(elections_max).collect()
    }

    pub fn elect_leaders(
        &mut self,
        request: &ElectLeadersRequest<'_>,
    ) -> ControllerResult<ElectLeadersResponse<'static>> {
        let election = match request.election_type {
            0 => Election::Preferred,
            1 => Election::Unclean,
            unknown => return refused(unknown_election(request, unknown)),
        };
        let asked: Vec<(String, Vec<i32>)> = match &request.topic_partitions {
            Some(topics) => topics.iter().map(|t| (t.topic.clone().into_owned(), t.partitions.clone())).collect(),
            None => {
                let all = self.image.topics.values();
                all.map(|t| (t.name.clone(), t.partitions.keys().copied().collect())).collect()
            }
        };
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(asked.len());
        for (topic, partitions) in asked {
            let mut result = elect_leaders_response::ReplicaElectionResult { topic: own(&topic), ..Default::default() };
            for partition_id in partitions {
                let elected = self.elect_leader(&topic, partition_id, election, &mut records);
                // When all are asked for, those that need nothing are not worth a line.
                let is_idle = elected.as_ref().is_err_and(|e| e.error == ErrorCode::ElectionNotNeeded);
                if request.topic_partitions.is_none() && is_idle {
                    continue;
                }
                let (error_code, error_message) = outcome(elected);
                result.partition_result.push(elect_leaders_response::PartitionResult {
                    partition_id,
                    error_code,
                    error_message,
                    ..Default::default()
                });
            }
            results.push(result);
        }
        let records = self.emit(records);
        let response = ElectLeadersResponse { replica_election_results: results, ..Default::default() };
        ControllerResult { records, response }
    }

    fn elect_leader(
        &self,
        topic: &str,
        number: i32,
        election: Election,
        records: &mut Vec<Record>,
    ) -> Result<(), ApiError> {
        let unknown = |what: String| ApiError::new(ErrorCode::UnknownTopicOrPartition, what);
        let found = self.image.topic(topic).ok_or_else(|| unknown(format!("No such topic as {topic}")))?;
        let partition = found.partitions.get(&number);
        let partition = partition.ok_or_else(|| unknown(format!("No such partition as {topic}-{number}")))?;
        let is_needed = match election {
            Election::Preferred => partition.replicas.first() != Some(&partition.leader),
            Election::Unclean | Election::Online => !partition.has_leader(),
        };
        if !is_needed {
            return Err(not_needed());
        }
        if records.len() >= RECORDS_MAX_PER_OPERATION {
            return Err(ApiError::new(ErrorCode::PolicyViolation, "the request asks for too many elections at once"));
        }
        let already = |r: &Record| matches!(r, MetadataRecord::PartitionChange(c) if c.topic_id == found.id && c.partition_id == number);
        if records.iter().any(already) {
            return Err(not_needed());
        }
        let mut change = self.change(found.id, number, partition);
        change.election = election;
        match change.build() {
            Some(record) => records.push(MetadataRecord::PartitionChange(record)),
            None if election == Election::Preferred => return Err(ErrorCode::PreferredLeaderNotAvailable.into()),
            None => return Err(ErrorCode::EligibleLeadersNotAvailable.into()),
        }
        Ok(())
    }
}

fn not_needed() -> ApiError {
    ApiError::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.")
}

/// Every partition that was asked for has the error.
fn unknown_election(request: &ElectLeadersRequest<'_>, election: i8) -> ElectLeadersResponse<'static> {
    let why = format!("Unknown election type {election}");
    let (error_code, error_message) = outcome(Err(ApiError::new(ErrorCode::InvalidRequest, why)));
    let refused = |partition: &i32| elect_leaders_response::PartitionResult {
        partition_id: *partition,
        error_code,
        error_message: error_message.clone(),
        ..Default::default()
    };
    let topics = request.topic_partitions.iter().flatten().map(|topic| elect_leaders_response::ReplicaElectionResult {
        topic: own(&topic.topic),
        partition_result: topic.partitions.iter().map(refused).collect(),
        ..Default::default()
    });
    ElectLeadersResponse {
        error_code: ErrorCode::InvalidRequest as i16,
        replica_election_results: topics.collect(),
        ..Default::default()
    }
}

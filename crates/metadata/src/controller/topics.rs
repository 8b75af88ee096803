//! Topic names, and DeleteTopics (`ControllerApis.deleteTopics`).

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::delete_topics_response::DeletableTopicResult;
use protocol::messages::*;
use protocol::wire::Uuid;

use super::{ApiError, Controller, ControllerResult, MutationQuota, RECORDS_MAX_PER_OPERATION, Record, outcome, own};

pub(super) const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";
/// A name is a directory's name with `-` and the partition's number behind it.
const NAME_BYTES_MAX: usize = 249;

/// `Topic.validate`, in Kafka's words: tools print them.
pub(super) fn validate_topic_name(name: &str) -> Result<(), ApiError> {
    let is_legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let why = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.encode_utf16().count() > NAME_BYTES_MAX {
        format!("the length of '{name}' is longer than the max allowed length {NAME_BYTES_MAX}")
    } else if !name.bytes().all(is_legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(ApiError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {why}")))
}

/// Metric names do not tell `.` from `_`, so two topics may not differ in nothing else.
pub(super) fn has_collision_chars(name: &str) -> bool {
    name.contains(['.', '_'])
}

pub(super) fn unify_collision_chars(name: &str) -> String {
    name.replace('.', "_")
}

/// What a request means by a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Id(Uuid),
    Name(String),
}

impl Controller {
    pub fn delete_topics(
        &mut self,
        request: &DeleteTopicsRequest<'_>,
        version: i16,
        quota: &mut MutationQuota,
    ) -> ControllerResult<DeleteTopicsResponse<'static>> {
        let mut asked: Vec<Named> = request.topic_names.iter().map(|n| Named::Name(n.clone().into_owned())).collect();
        let mut responses = Vec::new();
        let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
        for topic in &request.topics {
            match (&topic.name, topic.topic_id.is_zero()) {
                (None, true) => {
                    responses.push(deleted(None, Uuid::ZERO, invalid("Neither topic name nor id were specified.")));
                }
                (None, false) => asked.push(Named::Id(topic.topic_id)),
                (Some(name), true) => asked.push(Named::Name(name.clone().into_owned())),
                (Some(name), false) => {
                    let why = "You may not specify both topic name and topic id.";
                    responses.push(deleted(Some(name), topic.topic_id, invalid(why)));
                }
            }
        }
        let (asked, repeated) = once(asked);
        for named in repeated {
            responses.push(match named {
                Named::Name(name) => deleted(Some(&name), Uuid::ZERO, invalid("Duplicate topic name.")),
                Named::Id(id) => deleted(None, id, invalid("Duplicate topic id.")),
            });
        }
        let (topics, refusals) = self.deletions(asked);
        responses.extend(refusals);
        let mut records: Vec<Record> = Vec::new();
        for (id, name) in topics {
            let result = if !self.settings.node.delete_topic_enable {
                // Version 3 brought the error code for it.
                let error = if version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
                Err(error.into())
            } else if records.len() >= RECORDS_MAX_PER_OPERATION {
                Err(ApiError::new(ErrorCode::PolicyViolation, "the request deletes too many topics at once"))
            } else {
                let partitions = self.image.topics.get(&id).map_or(0, |topic| topic.partitions.len());
                quota.take(partitions).map(|()| {
                    let record = RemoveTopicRecord { topic_id: id, ..Default::default() };
                    records.push(MetadataRecord::RemoveTopic(record));
                })
            };
            responses.push(deleted(Some(&name), id, result));
        }
        let records = self.emit(records);
        let throttle_time_ms = quota.throttle_ms();
        ControllerResult {
            records,
            response: DeleteTopicsResponse { throttle_time_ms, responses, ..Default::default() },
        }
    }

    /// The topics that are meant, each once, and what is none. A topic that is meant by its name and by its id is not
    /// deleted.
    fn deletions(&self, asked: Vec<Named>) -> (BTreeMap<Uuid, String>, Vec<DeletableTopicResult<'static>>) {
        let mut topics = BTreeMap::new();
        let mut refusals = Vec::new();
        for named in asked {
            match named {
                Named::Id(id) => match self.image.topics.get(&id) {
                    Some(topic) => drop(topics.insert(id, topic.name.clone())),
                    None => {
                        let why = ApiError::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID.");
                        refusals.push(deleted(None, id, Err(why)));
                    }
                },
                Named::Name(name) => match self.image.topic_ids.get(&name) {
                    None => {
                        let why = "This server does not host this topic-partition.";
                        let why = ApiError::new(ErrorCode::UnknownTopicOrPartition, why);
                        refusals.push(deleted(Some(&name), Uuid::ZERO, Err(why)));
                    }
                    Some(id) if topics.contains_key(id) => {
                        topics.remove(id);
                        let why = "The provided topic name maps to an ID that was already supplied.";
                        let why = Err(ApiError::new(ErrorCode::InvalidRequest, why));
                        refusals.push(deleted(Some(&name), *id, why));
                    }
                    Some(id) => drop(topics.insert(*id, name)),
                },
            }
        }
        (topics, refusals)
    }
}

/// What is there once, ids first, and what is there more often.
fn once(mut asked: Vec<Named>) -> (Vec<Named>, Vec<Named>) {
    asked.sort();
    let (mut once, mut repeated) = (Vec::new(), Vec::new());
    for same in asked.chunk_by(|a, b| a == b) {
        match same {
            [one] => once.push(one.clone()),
            [one, ..] => repeated.push(one.clone()),
            [] => {}
        }
    }
    (once, repeated)
}

fn deleted(name: Option<&str>, topic_id: Uuid, result: Result<(), ApiError>) -> DeletableTopicResult<'static> {
    let (error_code, error_message) = outcome(result);
    DeletableTopicResult { name: name.map(own), topic_id, error_code, error_message, ..Default::default() }
}

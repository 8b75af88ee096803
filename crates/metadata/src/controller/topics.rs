//! Topic names, and DeleteTopics (`ControllerApis.deleteTopics`).

use protocol::error::ErrorCode;
use protocol::messages::delete_topics_response::DeletableTopicResult;
use protocol::messages::*;
use protocol::wire::Uuid;

use super::{ApiError, Controller, ControllerResult, RECORDS_MAX_PER_OPERATION, Record, outcome, own};

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
    Name(String),
    Id(Uuid),
}

impl Controller {
    pub fn delete_topics(
        &mut self,
        request: &DeleteTopicsRequest<'_>,
        version: i16,
    ) -> ControllerResult<DeleteTopicsResponse<'static>> {
        let mut asked: Vec<Named> = request.topic_names.iter().map(|n| Named::Name(n.clone().into_owned())).collect();
        let mut responses = Vec::new();
        for topic in &request.topics {
            let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
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
        asked.sort();
        let mut records: Vec<Record> = Vec::new();
        let mut gone: Vec<Uuid> = Vec::new();
        for same in asked.chunk_by(|a, b| a == b) {
            let (name, id, result) = self.deletion(&same[0], same.len(), version, &gone);
            let result = result.and_then(|()| {
                if records.len() >= RECORDS_MAX_PER_OPERATION {
                    return Err(ApiError::new(
                        ErrorCode::PolicyViolation,
                        "the request deletes too many topics at once",
                    ));
                }
                gone.push(id);
                let record = RemoveTopicRecord { topic_id: id, ..Default::default() };
                records.push(MetadataRecord::RemoveTopic(record));
                Ok(())
            });
            responses.push(deleted(name.as_deref(), id, result));
        }
        let records = self.emit(records);
        ControllerResult { records, response: DeleteTopicsResponse { responses, ..Default::default() } }
    }

    /// The topic that is meant, and whether it can be deleted.
    fn deletion(
        &self,
        named: &Named,
        times: usize,
        version: i16,
        gone: &[Uuid],
    ) -> (Option<String>, Uuid, Result<(), ApiError>) {
        let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
        let (name, id) = match named {
            Named::Name(name) => (Some(name.clone()), self.image.topic_ids.get(name).copied()),
            Named::Id(id) => {
                let topic = self.image.topics.get(id);
                (topic.map(|t| t.name.clone()), Some(*id).filter(|_| topic.is_some()))
            }
        };
        let shown = match named {
            Named::Name(_) => id.unwrap_or(Uuid::ZERO),
            Named::Id(id) => *id,
        };
        let result = if !self.settings.node.delete_topic_enable {
            // Version 3 brought the error code for it.
            let error = if version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
            Err(error.into())
        } else if times > 1 {
            match named {
                Named::Name(_) => invalid("Duplicate topic name."),
                Named::Id(_) => invalid("Duplicate topic id."),
            }
        } else if id.is_none() {
            match named {
                Named::Name(_) => Err(ErrorCode::UnknownTopicOrPartition.into()),
                Named::Id(_) => Err(ErrorCode::UnknownTopicId.into()),
            }
        } else if id.is_some_and(|id| gone.contains(&id)) {
            invalid("The provided topic name maps to an ID that was already supplied.")
        } else {
            Ok(())
        };
        (name, shown, result)
    }
}

fn deleted(name: Option<&str>, topic_id: Uuid, result: Result<(), ApiError>) -> DeletableTopicResult<'static> {
    let (error_code, error_message) = outcome(result);
    DeletableTopicResult { name: name.map(own), topic_id, error_code, error_message, ..Default::default() }
}

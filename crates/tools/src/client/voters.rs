//! Changes of the quorum's voters.

use protocol::error::ErrorCode;
use protocol::messages::{AddRaftVoterRequest, RemoveRaftVoterRequest, add_raft_voter_request};
use protocol::wire::Uuid;

use super::admin::{REQUEST_TIMEOUT_MS, outcome};
use super::{Client, ClientError, Target};

#[derive(Clone, Debug)]
pub struct VoterListener {
    pub name: String,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub struct NewVoter {
    pub id: i32,
    pub directory_id: Uuid,
    pub listeners: Vec<VoterListener>,
}

impl Client {
    pub fn add_raft_voter(&mut self, voter: &NewVoter) -> Result<(), ClientError> {
        let listener = |listener: &VoterListener| add_raft_voter_request::Listener {
            name: listener.name.clone().into(),
            host: listener.host.clone().into(),
            port: listener.port,
            ..Default::default()
        };
        let build = |_: i16| AddRaftVoterRequest {
            cluster_id: None,
            timeout_ms: REQUEST_TIMEOUT_MS,
            voter_id: voter.id,
            voter_directory_id: voter.directory_id,
            listeners: voter.listeners.iter().map(listener).collect(),
            ack_when_committed: true,
            ..Default::default()
        };
        let answer =
            self.call("addRaftVoter", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())
    }

    pub fn remove_raft_voter(&mut self, id: i32, directory_id: Uuid) -> Result<(), ClientError> {
        let build = |_: i16| RemoveRaftVoterRequest {
            cluster_id: None,
            voter_id: id,
            voter_directory_id: directory_id,
            ..Default::default()
        };
        let answer =
            self.call("removeRaftVoter", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())
    }
}

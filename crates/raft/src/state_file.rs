//! The file `quorum-state`: one line of JSON, replaced atomically, in the two versions that Kafka writes.

use std::io;
use std::path::{Path, PathBuf};

use protocol::wire::Uuid;
use storage::DiskRef;

use crate::election::ElectionState;
use crate::types::ReplicaKey;
use crate::voters::VoterSet;

pub const FILE_NAME: &str = "quorum-state";

#[derive(Clone)]
pub struct StateFile {
    disk: DiskRef,
    path: PathBuf,
}

impl StateFile {
    pub fn new(disk: DiskRef, metadata_dir: &Path) -> Self {
        Self { disk, path: metadata_dir.join(FILE_NAME) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read(&self) -> io::Result<Option<ElectionState>> {
        if !self.disk.exists(&self.path) {
            return Ok(None);
        }
        let bytes = self.disk.read(&self.path)?;
        parse(&bytes)
            .map(Some)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", self.path.display())))
    }

    /// Durable when it returns: file and directory are synced.
    pub fn write(&self, state: &ElectionState, voters: &VoterSet, kraft_version: i16) -> io::Result<()> {
        self.disk.write_atomically(&self.path, render(state, voters, kraft_version).as_bytes())
    }
}

/// Version 0 (kraft.version 0) lists the voters and cannot hold a directory id; version 1 is the other way round.
pub fn render(state: &ElectionState, voters: &VoterSet, kraft_version: i16) -> String {
    let leader = state.leader.unwrap_or(-1);
    let epoch = state.epoch;
    let voted = state.voted.map_or(-1, |key| key.id);
    if kraft_version == 0 {
        let voters: Vec<String> = voters.ids().map(|id| format!("{{\"voterId\":{id}}}")).collect();
        let voters = voters.join(",");
        format!(
            "{{\"clusterId\":\"\",\"leaderId\":{leader},\"leaderEpoch\":{epoch},\"votedId\":{voted},\
             \"appliedOffset\":0,\"currentVoters\":[{voters}],\"data_version\":0}}"
        )
    } else {
        let directory = state.voted.map_or(Uuid::ZERO, |key| key.directory_or_zero());
        format!(
            "{{\"leaderId\":{leader},\"leaderEpoch\":{epoch},\"votedId\":{voted},\
             \"votedDirectoryId\":\"{directory}\",\"data_version\":1}}"
        )
    }
}

pub fn parse(bytes: &[u8]) -> Result<ElectionState, String> {
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
    let number = |key: &str| json.get(key).and_then(serde_json::Value::as_i64);
    let id = |key: &str| -> Result<i32, String> {
        let value = number(key).ok_or_else(|| format!("no number {key}"))?;
        i32::try_from(value).map_err(|_| format!("{key} {value} is out of range"))
    };
    let version = number("data_version").ok_or("no number data_version")?;
    if !(0..=1).contains(&version) {
        return Err(format!("data_version {version} is not 0 or 1"));
    }
    let epoch = id("leaderEpoch")?;
    if epoch < 0 {
        return Err(format!("leaderEpoch {epoch} is negative"));
    }
    let voted = match id("votedId")? {
        -1 => None,
        voted if version == 0 => Some(ReplicaKey { id: voted, directory_id: None }),
        voted => {
            let text = json.get("votedDirectoryId").and_then(serde_json::Value::as_str).unwrap_or_default();
            let directory = Uuid::parse(text).ok_or_else(|| format!("votedDirectoryId {text:?} is no id"))?;
            Some(ReplicaKey::new(voted, directory))
        }
    };
    let leader = Some(id("leaderId")?).filter(|&leader| leader != -1);
    Ok(ElectionState { epoch, leader, voted })
}

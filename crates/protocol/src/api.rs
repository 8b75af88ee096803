//! The APIs of Kafka 4.3: their versions, headers and listeners.

use std::ops::RangeInclusive;

pub use crate::messages::api_key::ApiKey;

/// One row of the table that the schema becomes.
#[derive(Debug)]
pub(crate) struct Api {
    pub name: &'static str,
    pub min: i16,
    /// Highest version that may be advertised.
    pub stable: i16,
    pub max: i16,
    pub flexible_from: i16,
    pub broker: bool,
    pub controller: bool,
    pub forwardable: bool,
    pub cluster_action: bool,
    /// First version whose answer begins with its throttle time; `i16::MAX` if there is none.
    pub throttle_from: i16,
}

impl ApiKey {
    pub fn name(self) -> &'static str {
        self.api().name
    }

    /// The stable versions, those that Kafka 4.3.1 advertises.
    pub fn versions(self) -> RangeInclusive<i16> {
        self.api().min..=self.api().stable
    }

    /// What ApiVersions answers as lowest version. Of Produce it is 0 although 0 to 2 are refused: librdkafka takes
    /// the lowest version for a sign of what else the broker can do (KAFKA-18659).
    pub fn advertised_min(self) -> i16 {
        if self == ApiKey::Produce { 0 } else { self.api().min }
    }

    /// Highest version of the codec, which may still change in Kafka and is never advertised if it is not stable.
    pub fn latest_unstable(self) -> i16 {
        self.api().max
    }

    pub fn flexible_from(self) -> i16 {
        self.api().flexible_from
    }

    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.flexible_from()
    }

    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// An ApiVersions response always has the old header: a client that does not know the version must still find the
    /// error in it (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != ApiKey::ApiVersions && self.is_flexible(version))
    }

    /// Where in the frame of an answer, its length included, the throttle time stands, if the answer begins with it.
    pub fn throttle_at(self, version: i16) -> Option<usize> {
        let header = 4 + usize::from(self.response_header_version(version) >= 1);
        (version >= self.api().throttle_from).then_some(4 + header)
    }

    pub fn on_broker(self) -> bool {
        self.api().broker
    }

    pub fn on_controller(self) -> bool {
        self.api().controller
    }

    /// A broker hands such a request of a client to the active controller in an Envelope (KIP-590).
    pub fn is_forwardable(self) -> bool {
        self.api().forwardable
    }

    /// Needs the operation CLUSTER_ACTION: nodes only, no clients.
    pub fn is_cluster_action(self) -> bool {
        self.api().cluster_action
    }
}

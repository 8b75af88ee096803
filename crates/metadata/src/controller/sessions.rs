//! Which brokers are alive as far as the controller heard (`BrokerHeartbeatManager`, `BrokerHeartbeatTracker`).
//!
//! Sessions are not in the metadata log: they end with the controller, and its successor starts new ones.

use std::collections::BTreeMap;

use protocol::time::Now;

use crate::image::MetadataImage;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The registration that the session belongs to.
    pub epoch: i64,
    /// Where the registration's record is in the log; a broker is caught up when it has applied that.
    pub register_offset: i64,
    /// When the broker was last heard of; `None` if its session ended or never began.
    pub contact_ms: Option<i64>,
    /// Heard by this controller, and not only taken to be alive because its predecessor had not fenced it.
    pub is_heard: bool,
    /// The last metadata offset that the broker said it applied.
    pub metadata_offset: i64,
    /// The log's end when the broker was granted a controlled shutdown.
    pub controlled_shutdown_offset: Option<i64>,
}

pub(super) struct Sessions {
    brokers: BTreeMap<i32, Session>,
    timeout_ms: i64,
}

impl Sessions {
    /// Every unfenced broker of the image gets a whole session to report to the new controller.
    pub fn activate(image: &MetadataImage, timeout_ms: i64, now: Now) -> Self {
        let mut brokers = BTreeMap::new();
        for broker in image.brokers.values() {
            let mut session = Session::new(broker.epoch, broker.epoch);
            session.contact_ms = (!broker.fenced).then_some(now.mono_ms);
            brokers.insert(broker.id, session);
        }
        Self { brokers, timeout_ms }
    }

    pub fn get(&self, broker: i32) -> Option<&Session> {
        self.brokers.get(&broker)
    }

    pub fn get_mut(&mut self, broker: i32) -> Option<&mut Session> {
        self.brokers.get_mut(&broker)
    }

    /// A new incarnation: whatever was known of the old one is forgotten.
    pub fn replace(&mut self, broker: i32, epoch: i64, register_offset: i64) {
        self.brokers.insert(broker, Session::new(epoch, register_offset));
    }

    pub fn remove(&mut self, broker: i32) {
        self.brokers.remove(&broker);
    }

    /// Another incarnation may not take over while this is true.
    ///
    /// DIFFERS: Kafka also refuses it while the session is merely inherited from the controller before, which makes a
    /// whole cluster that was killed and restarted wait for `broker.session.timeout.ms`. A broker that lives reports
    /// within one heartbeat interval; one that registers anew has said itself that its old incarnation is gone.
    pub fn is_valid(&self, broker: i32, now: Now) -> bool {
        let session = self.brokers.get(&broker).filter(|s| s.is_heard);
        session.and_then(|s| s.contact_ms).is_some_and(|contact| contact + self.timeout_ms > now.mono_ms)
    }

    pub fn heard(&mut self, broker: i32, now: Now) {
        if let Some(session) = self.brokers.get_mut(&broker) {
            session.contact_ms = Some(now.mono_ms);
            session.is_heard = true;
        }
    }

    /// The session is over, by time or because the process is known to be gone.
    pub fn end(&mut self, broker: i32) {
        if let Some(session) = self.brokers.get_mut(&broker) {
            session.contact_ms = None;
            session.controlled_shutdown_offset = None;
        }
    }

    pub fn expired(&self, now: Now) -> Vec<i32> {
        let is_expired = |s: &Session| s.contact_ms.is_some_and(|contact| contact + self.timeout_ms <= now.mono_ms);
        self.brokers.iter().filter(|(_, s)| is_expired(s)).map(|(id, _)| *id).collect()
    }

    pub fn next_expiry(&self) -> Option<i64> {
        self.brokers.values().filter_map(|s| s.contact_ms).min().map(|contact| contact + self.timeout_ms)
    }

    /// What every broker that serves has applied; `i64::MAX` if none serves.
    pub fn lowest_active_offset(&self, image: &MetadataImage) -> i64 {
        let is_unfenced = |id: &i32| image.brokers.get(id).is_some_and(|b| !b.fenced);
        let active = self.brokers.iter().filter(|(id, s)| is_unfenced(id) && s.controlled_shutdown_offset.is_none());
        active.map(|(_, s)| s.metadata_offset).min().unwrap_or(i64::MAX)
    }

    pub fn is_shutting_down(&self, broker: i32) -> bool {
        self.get(broker).is_some_and(|s| s.controlled_shutdown_offset.is_some())
    }

    pub fn check(&self, image: &MetadataImage) {
        assert!(self.brokers.keys().eq(image.brokers.keys()), "a session per registered broker and no other");
        for (id, session) in &self.brokers {
            let broker = &image.brokers[id];
            assert_eq!(session.epoch, broker.epoch, "broker {id}: the session is of another registration");
            assert!(broker.fenced || session.contact_ms.is_some(), "broker {id} is unfenced without a session");
            assert!(
                !broker.fenced || session.controlled_shutdown_offset.is_none(),
                "broker {id} is fenced in shutdown"
            );
        }
    }
}

impl Session {
    fn new(epoch: i64, register_offset: i64) -> Self {
        Self {
            epoch,
            register_offset,
            contact_ms: None,
            is_heard: false,
            metadata_offset: -1,
            controlled_shutdown_offset: None,
        }
    }
}

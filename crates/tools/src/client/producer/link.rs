//! A connection that is written here and read by a thread of its own.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use protocol::api::ApiKey;
use protocol::header::encode_request;
use protocol::messages::ProduceRequest;

use crate::client::{Address, ClientError, Connection, Versions, read_frame};

/// What the reading threads report.
pub enum Event {
    Frame { node: i32, serial: u64, frame: Vec<u8> },
    Closed { node: i32, serial: u64, reason: String },
}

/// A request without its answer yet.
pub struct InFlight {
    pub version: i16,
    pub sent_at: Instant,
    pub batches: Vec<((String, i32), u64)>,
}

pub struct Link {
    /// Tells events of this connection from those of an earlier one to the same broker.
    pub serial: u64,
    pub versions: Versions,
    pub in_flight: VecDeque<InFlight>,
    stream: TcpStream,
    correlation_id: i32,
    client_id: String,
}

impl Link {
    pub fn open(
        node: i32,
        address: &Address,
        client_id: &str,
        timeout: Duration,
        serial: u64,
        events: Sender<Event>,
    ) -> Result<Link, ClientError> {
        let (stream, versions) = Connection::open(address, client_id, timeout)?.into_parts();
        let lost = |error: std::io::Error| ClientError::Network(error.to_string());
        stream.set_read_timeout(None).map_err(lost)?;
        let mut reader = stream.try_clone().map_err(lost)?;
        std::thread::spawn(move || {
            loop {
                let event = match read_frame(&mut reader) {
                    Ok(frame) => Event::Frame { node, serial, frame },
                    Err(error) => Event::Closed { node, serial, reason: error.to_string() },
                };
                let last = matches!(event, Event::Closed { .. });
                if events.send(event).is_err() || last {
                    return;
                }
            }
        });
        let client_id = client_id.to_owned();
        Ok(Link { serial, versions, in_flight: VecDeque::new(), stream, correlation_id: 0, client_id })
    }

    pub fn send(&mut self, version: i16, request: &ProduceRequest<'_>) -> Result<(), ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        let frame = encode_request(ApiKey::Produce, version, self.correlation_id, Some(&self.client_id), request)
            .map_err(|error| ClientError::Encode(error.to_string()))?;
        self.stream.write_all(&frame).map_err(|error| ClientError::Network(error.to_string()))
    }

    /// Requests are answered in order, so the oldest is the first to be late.
    pub fn is_late(&self, timeout: Duration, now: Instant) -> bool {
        self.in_flight.front().is_some_and(|oldest| oldest.sent_at + timeout <= now)
    }
}

impl Drop for Link {
    /// Wakes the reading thread, which ends.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

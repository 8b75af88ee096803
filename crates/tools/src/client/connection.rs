//! One connection: negotiated versions, requests out, answers in, in order.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use protocol::api::ApiKey;
use protocol::codec::Request;
use protocol::error::ErrorCode;
use protocol::header::{decode_response, encode_request};
use protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::ClientError;

/// The longest answer that is taken: a fetch of 50 MiB and one batch more, with room.
pub const ANSWER_BYTES_MAX: u32 = 256 << 20;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An address as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// `host:port`, `[v6]:port`; Kafka also drops a leading `PROTOCOL://`.
    pub fn parse(text: &str) -> Option<Address> {
        let text = text.trim();
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| Address { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An answer, kept as bytes so that what is read from it can borrow.
pub struct Answer<R> {
    frame: Vec<u8>,
    version: i16,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Answer<R> {
    pub fn new(frame: Vec<u8>, version: i16) -> Result<Self, ClientError> {
        let answer = Answer { frame, version, request: PhantomData };
        answer.get()?;
        Ok(answer)
    }

    pub fn get(&self) -> Result<R::Response<'_>, ClientError> {
        let (_, response) = decode_response::<R>(&self.frame, self.version).map_err(|error| {
            ClientError::Malformed(format!("the answer to {} v{} is broken: {error}", R::KEY.name(), self.version))
        })?;
        Ok(response)
    }
}

/// What the broker said it can do.
#[derive(Clone, Debug, Default)]
pub struct Versions(BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// The highest version that both sides know.
    pub fn common(&self, key: ApiKey) -> Result<i16, ClientError> {
        let ours = key.versions();
        let Some(&(min, max)) = self.0.get(&(key as i16)) else {
            return Err(ClientError::Unsupported(format!("The node does not support {}", key.name())));
        };
        let newest = match key {
            // From version 10 on these two name topics by id only; the tools know them by name.
            ApiKey::OffsetCommit | ApiKey::OffsetFetch => 9,
            // Beyond are the versions between brokers, and those of KIP-890, whose producers do not ask.
            ApiKey::AddPartitionsToTxn => 3,
            ApiKey::EndTxn => 4,
            _ => *ours.end(),
        };
        let version = max.min(newest);
        if version < min || version < *ours.start() {
            return Err(ClientError::Unsupported(format!(
                "The node supports {} {min} to {max}, this client {} to {}",
                key.name(),
                ours.start(),
                ours.end()
            )));
        }
        Ok(version)
    }

    /// Keys and ranges as the broker listed them.
    pub fn iter(&self) -> impl Iterator<Item = (i16, (i16, i16))> {
        self.0.iter().map(|(key, range)| (*key, *range))
    }
}

pub struct Connection {
    stream: TcpStream,
    client_id: String,
    correlation_id: i32,
    pub versions: Versions,
}

impl Connection {
    /// Connects and learns the broker's versions.
    pub fn open(address: &Address, client_id: &str, timeout: Duration) -> Result<Connection, ClientError> {
        let lost = |error: std::io::Error| ClientError::Network(format!("{address}: {error}"));
        let deadline = Instant::now() + timeout;
        let mut last = None;
        let mut stream = None;
        for socket in (address.host.as_str(), address.port).to_socket_addrs().map_err(lost)? {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&socket, left.min(CONNECT_TIMEOUT)) {
                Ok(connected) => {
                    stream = Some(connected);
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        let Some(stream) = stream else {
            return Err(last.map_or_else(|| ClientError::Network(format!("{address} has no address")), lost));
        };
        stream.set_nodelay(true).map_err(lost)?;
        let mut connection =
            Connection { stream, client_id: client_id.to_owned(), correlation_id: 0, versions: Versions::default() };
        connection.negotiate(deadline)?;
        Ok(connection)
    }

    /// KIP-511: a broker that does not know our version says so in a version 0 answer that lists its own.
    fn negotiate(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let request = |version: i16| ApiVersionsRequest {
            client_software_name: if version >= 3 { "zwirn".into() } else { "".into() },
            client_software_version: if version >= 3 { env!("CARGO_PKG_VERSION").into() } else { "".into() },
            ..Default::default()
        };
        let mut version = *ApiKey::ApiVersions.versions().end();
        loop {
            self.send(version, &request(version))?;
            let frame = self.receive(deadline)?;
            let decoded = decode_response::<ApiVersionsRequest>(&frame, version)
                .or_else(|_| decode_response::<ApiVersionsRequest>(&frame, 0));
            let (_, response): (_, ApiVersionsResponse<'_>) = decoded
                .map_err(|error| ClientError::Malformed(format!("the answer to ApiVersions is broken: {error}")))?;
            let keys = response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
            self.versions = Versions(keys);
            match ErrorCode::from_i16(response.error_code) {
                ErrorCode::None => return Ok(()),
                ErrorCode::UnsupportedVersion if version > 0 => {
                    version = self.versions.common(ApiKey::ApiVersions).unwrap_or(0).min(version - 1);
                }
                code => return Err(ClientError::server(code, None)),
            }
        }
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<i32, ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        let frame = encode_request(R::KEY, version, self.correlation_id, Some(&self.client_id), request)
            .map_err(|error| ClientError::Encode(format!("{} v{version}: {error}", R::KEY.name())))?;
        self.stream.write_all(&frame).map_err(|error| ClientError::Network(error.to_string()))?;
        Ok(self.correlation_id)
    }

    /// The next frame without its length. Bytes are taken as they come, however long the frame says it is.
    pub fn receive(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).map_err(|error| ClientError::Network(error.to_string()))?;
        read_frame(&mut self.stream).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                ClientError::Network("no answer in time".to_owned())
            }
            _ => ClientError::Network(error.to_string()),
        })
    }

    /// Whether an answer has begun to arrive; waits for it no longer than `wait`.
    pub fn readable(&mut self, wait: Duration) -> Result<bool, ClientError> {
        let lost = |error: std::io::Error| ClientError::Network(error.to_string());
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).map_err(lost)?;
        match self.stream.peek(&mut [0]) {
            Ok(0) => Err(ClientError::Network("the broker closed the connection".to_owned())),
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted => {
                    Ok(false)
                }
                _ => Err(lost(error)),
            },
        }
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16, timeout: Duration) -> Result<Answer<R>, ClientError> {
        self.send(version, request)?;
        let frame = self.receive(Instant::now() + timeout)?;
        Answer::new(frame, version)
    }

    /// The bare socket, for those who read in a thread of their own.
    pub fn into_parts(self) -> (TcpStream, Versions) {
        (self.stream, self.versions)
    }
}

pub fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    if len > ANSWER_BYTES_MAX {
        return Err(std::io::Error::other(format!("a frame of {len} bytes is no answer of a Kafka broker")));
    }
    let mut frame = Vec::new();
    stream.take(u64::from(len)).read_to_end(&mut frame)?;
    if frame.len() < len as usize {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses() {
        let parsed = |text| Address::parse(text).map(|a| a.to_string());
        assert_eq!(parsed("localhost:9092").as_deref(), Some("localhost:9092"));
        assert_eq!(parsed(" PLAINTEXT://h:1").as_deref(), Some("h:1"));
        assert_eq!(parsed("[::1]:9092").as_deref(), Some("[::1]:9092"));
        assert_eq!(parsed("localhost"), None);
        assert_eq!(parsed(":9092"), None);
        assert_eq!(parsed("h:99999"), None);
    }
}

//! A small blocking Kafka client over `std::net`, shared by all tools, the demo and `dev`.
//!
//! [`Client`] keeps one connection per broker, knows the cluster as its last Metadata answer showed it, and repeats a
//! call over other brokers until its time is up, as Kafka's admin client does. [`producer`] and [`consumer`] are built
//! on it.

mod admin;
mod admin_more;
mod connection;
pub mod consumer;
mod error;
pub mod groups;
pub mod member;
pub mod membership;
mod metadata;
mod new_member;
pub mod producer;
pub mod quotas;
mod range;
pub mod reader;
mod reassign;
pub mod transactions;
mod voters;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::api::ApiKey;
use protocol::codec::Request;
use protocol::error::ErrorCode;

pub use admin::{
    Cluster, ClusterNode, ConfigEntry, Moves, NewTopic, PartitionDescription, Quorum, QuorumMember, SOURCE_DEFAULT,
    TopicDescription,
};
pub use admin_more::{
    ConfigDescription, Election, ElectionResult, FeatureLevels, FeatureUpdate, LogDir, Resource, Upgrade,
};
pub use connection::{ANSWER_BYTES_MAX, Address, Answer, Connection, Versions, read_frame};
pub use error::{ClientError, exception_class};
pub use metadata::{Broker, Metadata, Partition, Topic, Topics};
pub use voters::{NewVoter, VoterListener};

use crate::props::Props;
use crate::terminal::timestamp;

/// Waits between attempts to connect: twice as long each time.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Settings {
    pub bootstrap: Vec<Address>,
    /// The addresses are those of controllers (`--bootstrap-controller`).
    pub controllers: bool,
    pub client_id: String,
    /// How Kafka's log lines call the client, for warnings on stderr; `None` to be silent.
    pub warn_as: Option<String>,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    /// How long a call may take with all its attempts.
    pub api_timeout: Duration,
    pub retry_backoff: Duration,
}

impl Settings {
    pub fn new(bootstrap: &str, client_id: &str) -> Result<Settings, ClientError> {
        Ok(Settings {
            bootstrap: parse_bootstrap(bootstrap)?,
            controllers: false,
            client_id: client_id.to_owned(),
            warn_as: None,
            connect_timeout: connection_timeout(),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(100),
        })
    }

    /// An admin client of a tool, with what its `--command-config` says.
    pub fn admin(bootstrap: &str, props: &Props) -> Result<Settings, ClientError> {
        let bad = ClientError::Bootstrap;
        props.check_supported().map_err(bad)?;
        let client_id = props.get("client.id").unwrap_or("adminclient-1");
        let mut settings = Settings::new(bootstrap, client_id)?;
        settings.warn_as = Some(format!("AdminClient clientId={client_id}"));
        settings.apply(props)?;
        Ok(settings)
    }

    pub fn apply(&mut self, props: &Props) -> Result<(), ClientError> {
        let ms = |key: &str| {
            props.number::<u64>(key, "INT").map(|ms| ms.map(Duration::from_millis)).map_err(ClientError::Bootstrap)
        };
        for (key, field) in [
            ("request.timeout.ms", &mut self.request_timeout),
            ("default.api.timeout.ms", &mut self.api_timeout),
            ("retry.backoff.ms", &mut self.retry_backoff),
            ("socket.connection.setup.timeout.ms", &mut self.connect_timeout),
        ] {
            if let Some(value) = ms(key)? {
                *field = value;
            }
        }
        Ok(())
    }
}

fn connection_timeout() -> Duration {
    connection::CONNECT_TIMEOUT
}

pub fn parse_bootstrap(text: &str) -> Result<Vec<Address>, ClientError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let mut out = Vec::new();
    for part in parts {
        let address = Address::parse(part);
        out.push(address.ok_or_else(|| {
            ClientError::Bootstrap(format!("Invalid url in bootstrap.servers: {part} (expected host:port)"))
        })?);
    }
    if out.is_empty() {
        return Err(ClientError::Bootstrap("No resolvable bootstrap urls given in bootstrap.servers".to_owned()));
    }
    Ok(out)
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever answers; a broker forwards what the controller must do.
    Any,
    Broker(i32),
}

pub struct Client {
    pub settings: Settings,
    pub metadata: Metadata,
    /// By node id; bootstrap addresses have −1, −2, … until Metadata gives them their names, as in Kafka.
    connections: BTreeMap<i32, Connection>,
    /// Which of the bootstrap addresses to try next.
    next: usize,
}

impl Client {
    pub fn new(settings: Settings) -> Client {
        Client { settings, metadata: Metadata::default(), connections: BTreeMap::new(), next: 0 }
    }

    pub fn connect(bootstrap: &str) -> Result<Client, ClientError> {
        Ok(Client::new(Settings::new(bootstrap, "zwirn")?))
    }

    /// Repeats the call until an answer comes that `verdict` does not find transient, or the time is up.
    /// `name` is what Kafka's admin client calls it in messages.
    pub fn call<R: Request>(
        &mut self,
        name: &str,
        target: Target,
        build: impl Fn(i16) -> R,
        verdict: impl Fn(&R::Response<'_>) -> ErrorCode,
    ) -> Result<Answer<R>, ClientError> {
        let deadline = Instant::now() + self.settings.api_timeout;
        let mut backoff = BACKOFF_MIN;
        let mut reached = false;
        loop {
            let attempt = self.attempt(target, &build, deadline);
            match attempt {
                Ok(answer) => {
                    reached = true;
                    let code = verdict(&answer.get()?);
                    let again = code.is_retriable() && Instant::now() < deadline;
                    if !again {
                        return Ok(answer);
                    }
                    // Another node may know better, for example the new controller.
                    self.rotate();
                    std::thread::sleep(self.settings.retry_backoff);
                }
                Err(error @ ClientError::Network(_)) => {
                    if let Target::Broker(id) = target {
                        self.connections.remove(&id);
                    }
                    if Instant::now() + backoff >= deadline {
                        return Err(self.timed_out(name, reached, &error));
                    }
                    std::thread::sleep(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn timed_out(&self, name: &str, reached: bool, last: &ClientError) -> ClientError {
        if reached || !self.connections.is_empty() {
            return ClientError::Timeout(format!("Timed out waiting to send the call. Call: {name} ({last})"));
        }
        ClientError::Timeout(format!("Timed out waiting for a node assignment. Call: {name}"))
    }

    fn attempt<R: Request>(
        &mut self,
        target: Target,
        build: &impl Fn(i16) -> R,
        deadline: Instant,
    ) -> Result<Answer<R>, ClientError> {
        let timeout = self.settings.request_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let id = match target {
            Target::Any => self.any()?,
            Target::Broker(id) => id,
        };
        let connection = self.connection(id)?;
        let version = connection.versions.common(R::KEY)?;
        let result = connection.call(&build(version), version, timeout);
        if matches!(result, Err(ClientError::Network(_) | ClientError::Malformed(_))) {
            self.connections.remove(&id);
            self.next = (self.next + 1) % self.settings.bootstrap.len().max(1);
        }
        result
    }

    /// One attempt, no second.
    pub fn once<R: Request>(&mut self, target: Target, build: impl Fn(i16) -> R) -> Result<Answer<R>, ClientError> {
        self.attempt(target, &build, Instant::now() + self.settings.request_timeout)
    }

    /// A node with a connection, made if there is none yet.
    fn any(&mut self) -> Result<i32, ClientError> {
        if let Some(id) = self.connections.keys().next() {
            return Ok(*id);
        }
        let known: Vec<i32> =
            if self.settings.controllers { vec![] } else { self.metadata.brokers.keys().copied().collect() };
        let bootstrap = self.settings.bootstrap.len();
        let mut last = ClientError::Network("no address to connect to".to_owned());
        for step in 0..bootstrap + known.len() {
            let id = match step.checked_sub(bootstrap) {
                None => -1 - ((self.next + step) % bootstrap) as i32,
                Some(i) => known[i],
            };
            match self.connection(id) {
                Ok(_) => return Ok(id),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Lets the next call for anyone go elsewhere.
    fn rotate(&mut self) {
        self.connections.clear();
        self.next = (self.next + 1) % self.settings.bootstrap.len().max(1);
    }

    fn address(&self, id: i32) -> Option<Address> {
        if id < 0 {
            return self.settings.bootstrap.get((-1 - id) as usize).cloned();
        }
        self.metadata.brokers.get(&id).map(|broker| broker.address.clone())
    }

    /// The connection to a node, opened if need be.
    pub fn connection(&mut self, id: i32) -> Result<&mut Connection, ClientError> {
        if !self.connections.contains_key(&id) {
            let address =
                self.address(id).ok_or_else(|| ClientError::Network(format!("broker {id} is not in the cluster")))?;
            match Connection::open(&address, &self.settings.client_id, self.settings.connect_timeout) {
                Ok(connection) => {
                    self.connections.insert(id, connection);
                }
                Err(error) => {
                    self.warn(&unreachable(id, &address));
                    return Err(error);
                }
            }
        }
        Ok(self.connections.get_mut(&id).expect("inserted above"))
    }

    pub fn drop_connection(&mut self, id: i32) {
        self.connections.remove(&id);
    }

    /// The versions of a node, for those who ask what it can do.
    pub fn versions(&mut self, id: i32) -> Result<Versions, ClientError> {
        Ok(self.connection(id)?.versions.clone())
    }

    /// Whether the cluster's brokers know an API; asks one of them.
    pub fn supports(&mut self, key: ApiKey) -> Result<bool, ClientError> {
        let id = self.any()?;
        Ok(self.connection(id)?.versions.common(key).is_ok())
    }

    pub fn warn(&self, message: &str) {
        self.log("WARN", message, "org.apache.kafka.clients.NetworkClient");
    }

    /// A line as Kafka's clients log it, unless this one is silent.
    pub fn log(&self, level: &str, message: &str, class: &str) {
        if let Some(name) = &self.settings.warn_as {
            let date = timestamp(crate::terminal::wall_ms());
            eprintln!("[{date}] {level} [{name}] {message} ({class})");
        }
    }
}

/// Java writes an address as `name/ip:port`, with nothing before the slash if it was given as a number.
fn unreachable(id: i32, address: &Address) -> String {
    use std::net::ToSocketAddrs;
    let numeric = address.host.parse::<std::net::IpAddr>().is_ok();
    let name = if numeric { "" } else { &address.host };
    let ip = (address.host.as_str(), address.port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let shown = ip.map_or_else(|| format!("{name}/<unresolved>:{}", address.port), |ip| format!("{name}/{ip}"));
    format!("Connection to node {id} ({shown}) could not be established. Node may not be available.")
}

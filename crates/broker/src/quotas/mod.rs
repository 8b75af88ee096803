//! Client quotas (KIP-13, KIP-55, KIP-124, KIP-219, KIP-599, KIP-612): what clients have used, what they may use, and
//! how long the connection of one that used too much is not read.
//!
//! An answer never waits: it leaves with its throttle time, and the connection rests for that long. Without quotas in
//! the metadata none of this costs more than a look at a flag.

mod limits;
mod rate;
pub(crate) mod replication;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use metadata::MetadataImage;
use metadata::config::NodeConfig;
use metadata::controller::{Bucket, MutationQuota};
use metadata::quotas::*;
use protocol::api::ApiKey;
use protocol::time::Now;

use crate::effect::ConnId;
use crate::node::Node;
use crate::quotas::limits::{Limits, Scope};
use crate::quotas::rate::{Rate, Window};
use crate::reply::Destination;
use crate::request::Context;

/// Whoever comes without authentication.
const ANONYMOUS: &str = "ANONYMOUS";

/// Rates of one kind that are remembered, beyond those in use by nobody. Who is over this shares one rate with all
/// others that are, so that inventing client ids buys nothing.
const SENSORS_MAX: usize = 10_000;

/// The longest that request time, or too many connections, make a client wait at once (`quota.window.size.seconds`
/// bounds it as well).
const WAIT_MAX_MS: i64 = i32::MAX as i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Produce,
    Fetch,
    Request,
}

/// What is limited by one key, and how much of it was used.
struct Meter<K> {
    limits: Limits,
    rates: BTreeMap<K, Rate>,
}

impl<K> Default for Meter<K> {
    fn default() -> Self {
        Self { limits: Limits::default(), rates: BTreeMap::new() }
    }
}

/// The rate of `key`, made if there is none; `shared` if there are too many.
fn rate_of<K: Ord>(rates: &mut BTreeMap<K, Rate>, key: K, shared: K, window: Window, now_ms: i64) -> &mut Rate {
    if rates.len() >= SENSORS_MAX && !rates.contains_key(&key) {
        rates.retain(|_, rate| !rate.is_quiet(now_ms));
        if rates.len() >= SENSORS_MAX {
            return rates.entry(shared).or_insert_with(|| Rate::new(window));
        }
    }
    rates.entry(key).or_insert_with(|| Rate::new(window))
}

pub(crate) struct Quotas {
    window: Window,
    mutation_window: Window,
    produce: Meter<Scope>,
    fetch: Meter<Scope>,
    request: Meter<Scope>,
    mutation_limits: Limits,
    mutations: BTreeMap<Scope, Bucket>,
    connection_limits: BTreeMap<Option<IpAddr>, f64>,
    connections: BTreeMap<IpAddr, Rate>,
    /// Any quota of users and clients.
    is_on: bool,
}

impl Quotas {
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            window: Window::new(config.quota_window_num, config.quota_window_size_seconds),
            mutation_window: Window::new(
                config.controller_quota_window_num,
                config.controller_quota_window_size_seconds,
            ),
            produce: Meter::default(),
            fetch: Meter::default(),
            request: Meter::default(),
            mutation_limits: Limits::default(),
            mutations: BTreeMap::new(),
            connection_limits: BTreeMap::new(),
            connections: BTreeMap::new(),
            is_on: false,
        }
    }

    /// The metadata has other quotas than before.
    pub fn update(&mut self, image: &MetadataImage) {
        self.produce.limits = Limits::of_key(&image.quotas, PRODUCER_BYTE_RATE);
        self.fetch.limits = Limits::of_key(&image.quotas, CONSUMER_BYTE_RATE);
        self.request.limits = Limits::of_key(&image.quotas, REQUEST_PERCENTAGE);
        self.mutation_limits = Limits::of_key(&image.quotas, CONTROLLER_MUTATION_RATE);
        for meter in [&mut self.produce, &mut self.fetch, &mut self.request] {
            if meter.limits.is_empty() {
                meter.rates.clear();
            }
        }
        // A bucket's size belongs to its rate.
        self.mutations.retain(|_, _| !self.mutation_limits.is_empty());
        let of_ip = |(kind, name): &(String, Option<String>)| {
            (kind == IP).then(|| name.as_deref().map(str::parse).transpose().ok()).flatten()
        };
        let limits = image.quotas.iter().filter_map(|(entity, values)| {
            let [part] = entity.as_slice() else { return None };
            Some((of_ip(part)?, *values.get(CONNECTION_CREATION_RATE)?))
        });
        self.connection_limits = limits.collect();
        if self.connection_limits.is_empty() {
            self.connections.clear();
        }
        let users = [&self.produce.limits, &self.fetch.limits, &self.request.limits, &self.mutation_limits];
        self.is_on = users.iter().any(|limits| !limits.is_empty());
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    pub fn limits_requests(&self) -> bool {
        !self.request.limits.is_empty()
    }

    fn meter(&mut self, kind: Kind) -> &mut Meter<Scope> {
        match kind {
            Kind::Produce => &mut self.produce,
            Kind::Fetch => &mut self.fetch,
            Kind::Request => &mut self.request,
        }
    }

    /// Counts `value` for the client and says how long it must wait for it.
    fn record(&mut self, kind: Kind, client: &str, value: f64, now: Now) -> i64 {
        let window = self.window;
        let meter = self.meter(kind);
        let Some((limit, scope)) = meter.limits.resolve(ANONYMOUS, client) else { return 0 };
        let rate = rate_of(&mut meter.rates, scope, Scope::default(), window, now.mono_ms);
        if value > 0.0 {
            rate.record(value, now.mono_ms);
        }
        let wait_ms = rate.wait_ms(limit, now.mono_ms);
        // A client that used too much time may ask again soon; one that sent too many bytes waits for all of them.
        let wait_max_ms = if kind == Kind::Request { window.size_ms } else { WAIT_MAX_MS };
        wait_ms.min(wait_max_ms)
    }

    /// What a consumer may get at once, so that it gets anything at all under its quota.
    pub fn fetch_bytes_max(&self, client: Option<&str>) -> u64 {
        let limit = client.and_then(|client| self.fetch.limits.resolve(ANONYMOUS, client));
        limit.map_or(u64::MAX, |(limit, _)| (limit * self.window.whole_seconds()) as u64)
    }

    /// What the sender of a request may still change in the cluster; to be given back after the operation.
    pub fn lend_mutations(&self, cx: &Context, now: Now) -> MutationQuota {
        let strict_from = match cx.reply.key {
            ApiKey::CreateTopics => 6,
            ApiKey::DeleteTopics => 5,
            ApiKey::CreatePartitions => 3,
            _ => return MutationQuota::unlimited(),
        };
        let found = cx.client.as_deref().and_then(|client| self.mutation_limits.resolve(ANONYMOUS, client));
        let Some((rate, scope)) = found else { return MutationQuota::unlimited() };
        let burst = self.mutation_window.samples as f64 * self.mutation_window.size_ms as f64 / 1000.0 * rate;
        let fresh = Bucket::full(rate, burst, now.mono_ms);
        let bucket = self.mutations.get(&scope).map_or(fresh, |kept| Bucket { rate, burst, ..*kept });
        MutationQuota::limited(bucket, cx.reply.version >= strict_from, now.mono_ms)
    }

    pub fn give_back(&mut self, cx: &Context, quota: &MutationQuota) {
        let Some(bucket) = quota.bucket() else { return };
        let found = cx.client.as_deref().and_then(|client| self.mutation_limits.resolve(ANONYMOUS, client));
        let Some((_, scope)) = found else { return };
        if self.mutations.len() >= SENSORS_MAX && !self.mutations.contains_key(&scope) {
            let now_ms = bucket.updated_ms;
            self.mutations.retain(|_, kept| {
                kept.refill(now_ms);
                kept.tokens < kept.burst
            });
        }
        let key = if self.mutations.len() >= SENSORS_MAX { Scope::default() } else { scope };
        self.mutations.insert(key, bucket);
    }

    /// Counts a new connection and says for how long it is one too many.
    fn connected(&mut self, peer: IpAddr, now: Now) -> i64 {
        let limits = &self.connection_limits;
        let Some(limit) = limits.get(&Some(peer)).or_else(|| limits.get(&None)).copied() else { return 0 };
        let shared = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let rate = rate_of(&mut self.connections, peer, shared, self.window, now.mono_ms);
        rate.record(1.0, now.mono_ms);
        let wait_ms = rate.wait_ms(limit, now.mono_ms).min(self.window.size_ms);
        if wait_ms > 0 {
            // It does not come in, so it does not count.
            rate.record(-1.0, now.mono_ms);
        }
        wait_ms
    }
}

impl Node {
    /// Whether the driver is to measure how long requests take, and say so by [`Node::request_took`].
    pub fn wants_request_times(&self) -> bool {
        self.quotas.limits_requests()
    }

    /// The request that came last by this connection kept a thread busy for so long.
    ///
    /// DIFFERS: Kafka measures a request before it answers it; here the time is known afterwards and counts for the
    /// client's next request.
    pub fn request_took(&mut self, conn: ConnId, nanos: u64, now: Now) {
        let Some(connection) = self.connections.get(conn).filter(|c| !c.is_internal) else { return };
        let Some(client) = connection.client.clone() else { return };
        // Percent of one thread's second.
        let share = nanos as f64 * 100.0 / 1e9;
        self.quotas.record(Kind::Request, &client, share, now);
    }

    /// Who sends this request, if that is of interest to a quota.
    pub(crate) fn quota_client(&self, frame: &[u8]) -> Option<Arc<str>> {
        self.quotas.is_on().then(|| crate::request::client_id(frame).into())
    }

    /// For how long a client has to wait because of the time that its requests took; its connection rests.
    pub(crate) fn throttle_request(&mut self, conn: ConnId, client: &Arc<str>, now: Now) -> i32 {
        let Some(connection) = self.connections.get_mut(conn) else { return 0 };
        connection.client = Some(client.clone());
        if connection.is_internal || !self.quotas.limits_requests() {
            return 0;
        }
        let wait_ms = self.quotas.record(Kind::Request, client, 0.0, now);
        self.mute(conn, wait_ms, now)
    }

    /// Counts what a client sent or gets; its connection rests if that was too much.
    pub(crate) fn throttle_bytes(&mut self, kind: Kind, to: Destination, client: &str, bytes: u64, now: Now) -> i32 {
        let wait_ms = self.quotas.record(kind, client, bytes as f64, now);
        to.conn().map_or(0, |conn| self.mute(conn, wait_ms, now))
    }

    /// Lets a connection rest: nothing is read from it for so long. Returns the time as clients are told it.
    pub(crate) fn mute(&mut self, conn: ConnId, wait_ms: i64, now: Now) -> i32 {
        if wait_ms > 0 {
            self.connections.mute(conn, now.mono_ms.saturating_add(wait_ms));
        }
        i32::try_from(wait_ms).unwrap_or(i32::MAX)
    }

    /// A connection from an address that opens too many: it is heard of no more, and closed after a while, so that
    /// the other side does not try again at once.
    pub(crate) fn throttle_connection(&mut self, conn: ConnId, peer: IpAddr, now: Now) {
        let wait_ms = self.quotas.connected(peer, now);
        if wait_ms > 0 {
            tracing::debug!(%peer, wait_ms, "too many new connections from this address");
            self.connections.doom(conn, now.mono_ms + wait_ms);
        }
    }

    /// Connections that have rested long enough are read again; those that were one too many are closed.
    pub(crate) fn end_throttles(&mut self, now: Now) {
        while let Some(conn) = self.connections.unmute(now.mono_ms) {
            self.close_connection(conn, "connection_creation_rate is exceeded".to_owned());
        }
    }
}

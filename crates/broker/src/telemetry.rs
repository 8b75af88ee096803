//! Metrics of clients (KIP-714): which clients are to push what and how often, and the numbers that they push.
//!
//! Off unless `zwirn.client.telemetry.enable` is set, as with Apache Kafka without a plugin. What is pushed is kept, the
//! last value of each series, for the page that Prometheus reads. Nothing is kept of a client that has been silent for
//! three of its intervals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use metadata::{ConfigResource, MetadataImage};
use protocol::error::ErrorCode;
use protocol::time::Now;
use protocol::wire::Uuid;
use regex_lite::Regex;

use crate::otlp::{self, Point};

/// Clients remembered; who comes beyond is told to wait.
const CLIENTS_MAX: usize = 10_000;
/// Series of all clients together; new ones beyond it are not kept.
const SERIES_MAX: usize = 20_000;
const INTERVAL_DEFAULT_MS: i64 = 300_000;
/// A client is not forgotten sooner, however often it is to push.
const FORGOTTEN_AFTER_MS: i64 = 60_000;
const ALL: &str = "*";

/// What is known of a client when it asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientInfo {
    pub instance: Uuid,
    pub client_id: String,
    pub software_name: String,
    pub software_version: String,
    pub address: Option<IpAddr>,
}

impl ClientInfo {
    fn value(&self, param: &str) -> String {
        match param {
            "client_instance_id" => self.instance.to_string(),
            "client_id" => self.client_id.clone(),
            "client_software_name" => self.software_name.clone(),
            "client_software_version" => self.software_version.clone(),
            "client_source_address" => self.address.map(|ip| ip.to_string()).unwrap_or_default(),
            _ => String::new(),
        }
    }
}

/// A CLIENT_METRICS resource.
struct Subscription {
    metrics: Vec<String>,
    interval_ms: i64,
    /// All must match; `None` is a pattern that this node cannot read, which nobody matches.
    patterns: Vec<(String, Option<Regex>)>,
}

impl Subscription {
    fn new(configs: &BTreeMap<String, String>) -> Self {
        let items = |key: &str| -> Vec<String> {
            let value = configs.get(key).map(String::as_str).unwrap_or_default();
            value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        let pattern = |item: &String| {
            let (param, pattern) = item.split_once('=')?;
            // The whole of the value must match.
            let regex = Regex::new(&format!("^(?:{})$", pattern.trim())).ok();
            Some((param.trim().to_owned(), regex))
        };
        let interval = configs.get("interval.ms").and_then(|value| value.trim().parse().ok());
        Self {
            metrics: items("metrics"),
            interval_ms: interval.unwrap_or(INTERVAL_DEFAULT_MS),
            patterns: items("match").iter().filter_map(pattern).collect(),
        }
    }

    fn matches(&self, client: &ClientInfo) -> bool {
        let fits = |(param, regex): &(String, Option<Regex>)| {
            regex.as_ref().is_some_and(|regex| regex.is_match(&client.value(param)))
        };
        self.patterns.iter().all(fits)
    }
}

/// What a client is to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub id: i32,
    pub metrics: Vec<String>,
    pub interval_ms: i64,
}

struct Client {
    wanted: Wanted,
    /// The state of the subscriptions that `wanted` follows from.
    version: u64,
    asked_ms: Option<i64>,
    pushed_ms: Option<i64>,
    seen_ms: i64,
    is_terminating: bool,
    /// Of its last push; some allow it to ask again at once.
    last_error: ErrorCode,
    client_id: String,
}

type SeriesKey = (Uuid, String, Vec<(String, String)>);

/// Invariant: each series belongs to a known client.
#[derive(Default)]
pub(crate) struct Telemetry {
    pub is_on: bool,
    bytes_max: usize,
    subscriptions: BTreeMap<String, Subscription>,
    version: u64,
    clients: BTreeMap<Uuid, Client>,
    series: BTreeMap<SeriesKey, f64>,
}

impl Telemetry {
    pub fn new(is_on: bool, bytes_max: i32) -> Self {
        Self { is_on, bytes_max: bytes_max.max(1) as usize, ..Self::default() }
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The subscriptions are others than before.
    pub fn update(&mut self, image: &MetadataImage) {
        let of_clients = image.configs.iter().filter(|(resource, _)| resource.kind == ConfigResource::CLIENT_METRICS);
        self.subscriptions =
            of_clients.map(|(resource, configs)| (resource.name.clone(), Subscription::new(configs))).collect();
        self.version += 1;
    }

    fn wanted_of(&self, info: &ClientInfo) -> Wanted {
        let mut metrics: Vec<String> = Vec::new();
        let mut interval_ms = INTERVAL_DEFAULT_MS;
        for subscription in self.subscriptions.values().filter(|s| s.matches(info)) {
            metrics.extend(subscription.metrics.iter().cloned());
            interval_ms = interval_ms.min(subscription.interval_ms);
        }
        metrics.sort_unstable();
        metrics.dedup();
        if metrics.iter().any(|metric| metric == ALL) {
            metrics = vec![ALL.to_owned()];
        }
        let text = format!("{metrics:?}{interval_ms}");
        let of_client = info.instance.0.chunks(4).fold(0u32, |all, part| {
            let word = part.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
            all ^ word
        });
        let id = protocol::records::crc32c(text.as_bytes()) ^ of_client;
        Wanted { id: id as i32, metrics, interval_ms }
    }

    /// The client, made known if it is not, with what it is to push as of now.
    fn client(&mut self, info: &ClientInfo, now: Now) -> Result<&mut Client, ErrorCode> {
        self.forget_silent(now);
        let is_current = self.clients.get(&info.instance).is_some_and(|client| client.version == self.version);
        if !is_current {
            if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&info.instance) {
                return Err(ErrorCode::ThrottlingQuotaExceeded);
            }
            let client = Client {
                wanted: self.wanted_of(info),
                version: self.version,
                asked_ms: None,
                pushed_ms: None,
                seen_ms: now.mono_ms,
                is_terminating: false,
                last_error: ErrorCode::None,
                client_id: info.client_id.clone(),
            };
            self.clients.insert(info.instance, client);
        }
        let client = self.clients.get_mut(&info.instance).expect("inserted above if it was not there");
        client.seen_ms = now.mono_ms;
        Ok(client)
    }

    fn forget_silent(&mut self, now: Now) {
        let is_silent = |c: &Client| now.mono_ms - c.seen_ms > (c.wanted.interval_ms * 3).max(FORGOTTEN_AFTER_MS);
        let silent: Vec<Uuid> = self.clients.iter().filter(|(_, c)| is_silent(c)).map(|(id, _)| *id).collect();
        for id in silent {
            self.clients.remove(&id);
            self.series.retain(|(instance, ..), _| *instance != id);
        }
    }

    /// GetTelemetrySubscriptions.
    pub fn ask(&mut self, info: &ClientInfo, now: Now) -> Result<Wanted, ErrorCode> {
        let client = self.client(info, now)?;
        let may_ask =
            matches!(client.last_error, ErrorCode::UnknownSubscriptionId | ErrorCode::UnsupportedCompressionType);
        if !is_due(client.asked_ms.max(client.pushed_ms), client.wanted.interval_ms, now) && !may_ask {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        client.asked_ms = Some(now.mono_ms);
        client.last_error = ErrorCode::None;
        Ok(client.wanted.clone())
    }

    /// PushTelemetry, up to where its bytes are looked at. `len` is their number.
    pub fn check_push(
        &mut self,
        info: &ClientInfo,
        subscription: i32,
        is_terminating: bool,
        (compression, len): (i8, usize),
        now: Now,
    ) -> Result<(), ErrorCode> {
        if info.instance.is_reserved() || info.instance.is_zero() {
            return Err(ErrorCode::InvalidRequest);
        }
        let bytes_max = self.bytes_max;
        let client = self.client(info, now)?;
        let was_terminating = std::mem::replace(&mut client.is_terminating, is_terminating);
        // Whoever has just asked may push what it was told at once.
        let is_due = client.asked_ms > client.pushed_ms || is_due(client.pushed_ms, client.wanted.interval_ms, now);
        let error = if was_terminating {
            ErrorCode::InvalidRequest
        } else if !is_due && !is_terminating {
            ErrorCode::ThrottlingQuotaExceeded
        } else if subscription != client.wanted.id {
            ErrorCode::UnknownSubscriptionId
        } else if !(0..=4).contains(&compression) {
            ErrorCode::UnsupportedCompressionType
        } else if len > bytes_max {
            ErrorCode::TelemetryTooLarge
        } else {
            ErrorCode::None
        };
        if is_due {
            client.pushed_ms = Some(now.mono_ms);
        }
        client.last_error = error;
        if error == ErrorCode::None { Ok(()) } else { Err(error) }
    }

    /// The bytes of a push that was found good; `None` if they could not be decompressed.
    pub fn take(&mut self, instance: Uuid, bytes: Option<&[u8]>) -> Result<(), ErrorCode> {
        let points = bytes.and_then(|bytes| otlp::points(bytes).ok());
        let Some(client) = self.clients.get_mut(&instance) else { return Ok(()) };
        let Some(points) = points else {
            client.last_error = ErrorCode::InvalidRecord;
            return Err(ErrorCode::InvalidRecord);
        };
        for Point { name, labels, value, is_delta } in points {
            let is_full = self.series.len() >= SERIES_MAX;
            match self.series.entry((instance, name, labels)) {
                std::collections::btree_map::Entry::Vacant(_) if is_full => {}
                entry => {
                    let kept = entry.or_insert(0.0);
                    *kept = if is_delta { *kept + value } else { value };
                }
            }
        }
        Ok(())
    }

    /// Every series, with its client: for the page of metrics.
    pub fn series(&self) -> impl Iterator<Item = ClientSeries<'_>> {
        self.series.iter().map(|((instance, name, labels), value)| ClientSeries {
            instance: *instance,
            client_id: self.clients.get(instance).map_or("", |client| &client.client_id),
            name,
            labels,
            value: *value,
        })
    }
}

/// The last value of one metric of one client.
pub struct ClientSeries<'a> {
    pub instance: Uuid,
    pub client_id: &'a str,
    pub name: &'a str,
    pub labels: &'a [(String, String)],
    pub value: f64,
}

fn is_due(last_ms: Option<i64>, interval_ms: i64, now: Now) -> bool {
    last_ms.is_none_or(|last| now.mono_ms - last >= interval_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Now {
        Now { mono_ms: ms, wall_ms: ms }
    }

    fn telemetry(subscriptions: &[(&str, &[(&str, &str)])]) -> Telemetry {
        let mut image = MetadataImage::default();
        for (name, configs) in subscriptions {
            let resource = ConfigResource { kind: ConfigResource::CLIENT_METRICS, name: (*name).to_owned() };
            let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            image.configs.insert(resource, configs);
        }
        let mut telemetry = Telemetry::new(true, 100);
        telemetry.update(&image);
        telemetry
    }

    fn client(id: u8, client_id: &str) -> ClientInfo {
        ClientInfo { instance: Uuid([id; 16]), client_id: client_id.to_owned(), ..ClientInfo::default() }
    }

    #[test]
    fn what_matches_is_wanted_at_the_shortest_interval() {
        let mut telemetry = telemetry(&[
            ("a", &[("metrics", "org.a."), ("interval.ms", "10000"), ("match", "client_id=app-.*")]),
            ("b", &[("metrics", "org.b.,org.a."), ("interval.ms", "20000")]),
            ("c", &[("metrics", "*"), ("match", "client_id=all")]),
        ]);
        let wanted = telemetry.ask(&client(1, "app-1"), at(0)).expect("it may ask");
        assert_eq!((wanted.interval_ms, wanted.metrics), (10_000, vec!["org.a.".to_owned(), "org.b.".to_owned()]));
        let wanted = telemetry.ask(&client(2, "my-app-1"), at(0)).expect("it may ask");
        assert_eq!((wanted.interval_ms, wanted.metrics.len()), (20_000, 2), "only the whole id counts");
        let wanted = telemetry.ask(&client(3, "all"), at(0)).expect("it may ask");
        assert_eq!(wanted.metrics, ["*"]);
    }

    #[test]
    fn pushes_are_checked_in_order() {
        let mut telemetry = telemetry(&[("a", &[("metrics", "*"), ("interval.ms", "1000")])]);
        let info = client(1, "app");
        let id = telemetry.ask(&info, at(0)).expect("it may ask").id;
        assert_eq!(telemetry.ask(&info, at(500)), Err(ErrorCode::ThrottlingQuotaExceeded));
        let mut push =
            |id: i32, last: bool, of: (i8, usize), ms: i64| telemetry.check_push(&info, id, last, of, at(ms));
        assert_eq!(push(id, false, (0, 10), 600), Ok(()));
        assert_eq!(push(id, false, (0, 10), 900), Err(ErrorCode::ThrottlingQuotaExceeded));
        assert_eq!(push(id + 1, false, (0, 10), 1_700), Err(ErrorCode::UnknownSubscriptionId));
        assert_eq!(push(id, false, (9, 10), 2_800), Err(ErrorCode::UnsupportedCompressionType));
        assert_eq!(push(id, false, (0, 101), 3_900), Err(ErrorCode::TelemetryTooLarge));
        assert_eq!(push(id, true, (0, 10), 4_000), Ok(()), "the last one need not wait");
        assert_eq!(push(id, false, (0, 10), 9_000), Err(ErrorCode::InvalidRequest), "after its last one");
        let nobody = ClientInfo::default();
        assert_eq!(telemetry.check_push(&nobody, 0, false, (0, 0), at(0)), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn silent_clients_are_forgotten_with_their_series() {
        let mut telemetry = telemetry(&[]);
        let info = client(1, "app");
        telemetry.ask(&info, at(0)).expect("it may ask");
        telemetry.series.insert((info.instance, "m".to_owned(), vec![]), 1.0);
        assert_eq!(telemetry.series().count(), 1);
        telemetry.ask(&client(2, "other"), at(INTERVAL_DEFAULT_MS * 3 + 1)).expect("it may ask");
        assert_eq!(telemetry.series().count(), 0);
        assert_eq!(telemetry.take(Uuid([2; 16]), Some(&[0xff; 20])), Err(ErrorCode::InvalidRecord));
    }
}

//! Listeners: where this node listens, what it tells others to dial, and which of them speak to whom.

use std::collections::BTreeMap;

use crate::image::Endpoint;

use super::node::{Problems, Roles};
use super::validate::list;

/// The discriminants are those of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum SecurityProtocol {
    Plaintext = 0,
    Ssl = 1,
    SaslPlaintext = 2,
    SaslSsl = 3,
}

impl SecurityProtocol {
    fn from_name(name: &str) -> Option<SecurityProtocol> {
        match name {
            "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
            "SSL" => Some(SecurityProtocol::Ssl),
            "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
            "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// In capitals, whatever the file says.
    pub name: String,
    /// `None` listens on every interface.
    pub host: Option<String>,
    pub port: u16,
    pub security_protocol: SecurityProtocol,
    pub kind_is_controller: bool,
}

/// Everything the listener keys say together.
pub(super) struct Network {
    pub(super) listeners: Vec<Listener>,
    pub(super) advertised_listeners: Vec<Endpoint>,
    pub(super) controller_advertised: Vec<Endpoint>,
    pub(super) controller_listener_names: Vec<String>,
    pub(super) inter_broker_listener_name: String,
}

/// An address without a host gets this one until the server fills in the machine's name.
pub(super) const UNKNOWN_HOST: &str = "localhost";

type Protocols = BTreeMap<String, SecurityProtocol>;

/// `values` are the file's, `roles` and `voter` (this node's own address among the static voters) were read before.
pub(super) fn read(
    values: &BTreeMap<&str, &str>,
    roles: Roles,
    voter: Option<(&str, u16)>,
    problems: &mut Problems<'_>,
) -> Network {
    let get = |key: &str| values.get(key).copied().map(str::trim);
    let controller_names: Vec<String> =
        list(get("controller.listener.names").unwrap_or("")).into_iter().map(str::to_uppercase).collect();
    if controller_names.is_empty() {
        let what = "name the listener that controllers use, for example controller.listener.names=CONTROLLER";
        problems.error("controller.listener.names", what);
    }
    let protocols = protocols(get("listener.security.protocol.map"), &controller_names, problems);
    let text = get("listeners").unwrap_or("PLAINTEXT://:9092");
    let listeners: Vec<Listener> = addresses("listeners", text, &protocols, problems)
        .into_iter()
        .map(|(name, host, port, security_protocol)| {
            let kind_is_controller = controller_names.contains(&name);
            Listener { name, host, port, security_protocol, kind_is_controller }
        })
        .collect();
    check_listeners(&listeners, problems);
    let advertised =
        get("advertised.listeners").map(|text| addresses("advertised.listeners", text, &protocols, problems));
    if let Some((name, ..)) = advertised.iter().flatten().find(|(_, host, ..)| host.as_deref() == Some("0.0.0.0")) {
        let what = format!("{name} is advertised as 0.0.0.0, which nobody can dial; use an address that clients reach");
        problems.error("advertised.listeners", &what);
    }
    let mut network = Network {
        advertised_listeners: broker_endpoints(&listeners, advertised.as_deref(), &controller_names),
        controller_advertised: controller_endpoints(&listeners, advertised.as_deref(), &controller_names, voter),
        listeners,
        controller_listener_names: controller_names,
        inter_broker_listener_name: String::new(),
    };
    network.inter_broker_listener_name = inter_broker_listener_name(values, &network, roles, problems);
    check_roles(&network, roles, problems);
    network
}

/// Names without a word about them in the map are refused where they are used, except for controller listeners while
/// the map is not set: those speak plain text (KIP-1069's default).
fn protocols(map: Option<&str>, controller_names: &[String], problems: &mut Problems<'_>) -> Protocols {
    let builtin = "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL";
    let mut protocols = Protocols::new();
    for entry in list(map.unwrap_or(builtin)) {
        let read = entry.split_once(':').and_then(|(name, protocol)| {
            Some((name.trim().to_uppercase(), SecurityProtocol::from_name(&protocol.trim().to_uppercase())?))
        });
        match read {
            Some((name, protocol)) => drop(protocols.insert(name, protocol)),
            None => {
                let what = format!("{entry} is not NAME:PROTOCOL with one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
                problems.error("listener.security.protocol.map", &what);
            }
        }
    }
    if map.is_none() {
        for name in controller_names {
            protocols.entry(name.clone()).or_insert(SecurityProtocol::Plaintext);
        }
    }
    protocols
}

type Address = (String, Option<String>, u16, SecurityProtocol);

fn addresses(key: &'static str, text: &str, protocols: &Protocols, problems: &mut Problems<'_>) -> Vec<Address> {
    let mut read = Vec::new();
    for entry in list(text) {
        let Some((name, host, port)) = parse_address(entry) else {
            problems.error(key, &format!("{entry} is not NAME://host:port (the host may be left out)"));
            continue;
        };
        if read.iter().any(|(other, ..): &Address| *other == name) {
            problems.error(key, &format!("the name {name} is there twice; each listener needs its own"));
            continue;
        }
        match protocols.get(&name) {
            None => {
                let what = format!(
                    "the listener {name} has no security protocol; add {name}:PLAINTEXT to listener.security.protocol.map"
                );
                problems.error(key, &what);
            }
            Some(SecurityProtocol::Plaintext) => read.push((name, host, port, SecurityProtocol::Plaintext)),
            Some(_) => {
                let what = format!(
                    "the listener {name} asks for TLS or SASL, which this version does not offer; use PLAINTEXT"
                );
                problems.error(key, &what);
            }
        }
    }
    read
}

fn parse_address(entry: &str) -> Option<(String, Option<String>, u16)> {
    let (name, address) = entry.split_once("://")?;
    let (host, port) = split_host_port(address)?;
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| (name.to_uppercase(), (!host.is_empty()).then(|| host.to_owned()), port))
}

/// `host:port`, `[v6]:port`, and, as Kafka allows it, `v6:port` without brackets.
pub(super) fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_host = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-%._:".contains(&b));
    is_host.then_some((host, port.parse().ok()?))
}

fn check_listeners(listeners: &[Listener], problems: &mut Problems<'_>) {
    for (at, one) in listeners.iter().enumerate() {
        // The same port twice makes sense only for an IPv4 and an IPv6 address. 0 means any free port.
        let is_v6 = |listener: &Listener| listener.host.as_deref().is_some_and(|host| host.contains(':'));
        let is_v4 = |listener: &Listener| {
            listener.host.as_deref().is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok())
        };
        let clash = listeners[..at].iter().find(|other| {
            let apart = (is_v4(one) && is_v6(other)) || (is_v6(one) && is_v4(other));
            one.port != 0 && one.port == other.port && !apart
        });
        if let Some(other) = clash {
            let what = format!("{} and {} both want port {}; give each its own", other.name, one.name, one.port);
            problems.error("listeners", &what);
        }
    }
}

fn endpoint(name: &str, host: Option<&str>, port: u16, security_protocol: SecurityProtocol) -> Endpoint {
    let host = host.unwrap_or(UNKNOWN_HOST).to_owned();
    Endpoint { name: name.to_owned(), host, port, security_protocol: security_protocol as i16 }
}

fn broker_endpoints(listeners: &[Listener], advertised: Option<&[Address]>, controllers: &[String]) -> Vec<Endpoint> {
    match advertised {
        Some(addresses) => addresses
            .iter()
            .filter(|(name, ..)| !controllers.contains(name))
            .map(|(name, host, port, protocol)| endpoint(name, host.as_deref(), *port, *protocol))
            .collect(),
        None => listeners
            .iter()
            .filter(|listener| !listener.kind_is_controller)
            .map(|l| endpoint(&l.name, l.host.as_deref(), l.port, l.security_protocol))
            .collect(),
    }
}

/// KafkaConfig.effectiveAdvertisedControllerListeners: what is advertised, else the listener's own address; the first
/// controller listener, if it names no host, is what the static voters say of this node.
fn controller_endpoints(
    listeners: &[Listener],
    advertised: Option<&[Address]>,
    controllers: &[String],
    voter: Option<(&str, u16)>,
) -> Vec<Endpoint> {
    let of = |(at, name): (usize, &String)| {
        if let Some((_, host, port, protocol)) = advertised.into_iter().flatten().find(|(other, ..)| other == name) {
            return Some(endpoint(name, host.as_deref(), *port, *protocol));
        }
        let listener = listeners.iter().find(|listener| listener.name == *name)?;
        let host = listener.host.as_deref().filter(|host| *host != "0.0.0.0");
        match voter {
            Some((host_of_voter, port)) if at == 0 && host.is_none() => {
                Some(endpoint(name, Some(host_of_voter), port, listener.security_protocol))
            }
            _ => Some(endpoint(name, host, listener.port, listener.security_protocol)),
        }
    };
    controllers.iter().enumerate().filter_map(of).collect()
}

fn inter_broker_listener_name(
    values: &BTreeMap<&str, &str>,
    network: &Network,
    roles: Roles,
    problems: &mut Problems<'_>,
) -> String {
    let named = values.get("inter.broker.listener.name").map(|name| name.trim().to_uppercase());
    let protocol = values.get("security.inter.broker.protocol").map(|name| name.trim());
    if named.is_some() && protocol.is_some() {
        let what =
            "only one of inter.broker.listener.name and security.inter.broker.protocol may be set; keep the name";
        problems.error("security.inter.broker.protocol", what);
    }
    let key = if named.is_some() { "inter.broker.listener.name" } else { "security.inter.broker.protocol" };
    let name = named.unwrap_or_else(|| protocol.unwrap_or("PLAINTEXT").to_owned());
    if roles.broker && !network.advertised_listeners.iter().any(|endpoint| endpoint.name == name) {
        let names: Vec<&str> = network.advertised_listeners.iter().map(|endpoint| endpoint.name.as_str()).collect();
        let what = format!(
            "brokers reach each other through the listener {name}, which is not advertised; \
             set inter.broker.listener.name to one of: {}",
            names.join(", ")
        );
        problems.error(key, &what);
    }
    name
}

fn check_roles(network: &Network, roles: Roles, problems: &mut Problems<'_>) {
    let Network { listeners, advertised_listeners, controller_listener_names: controllers, .. } = network;
    let listens = |name: &String| listeners.iter().any(|listener| listener.name == *name);
    if roles.controller {
        for name in controllers.iter().filter(|name| !listens(name)) {
            let what =
                format!("a controller listens on {name}, but listeners has no such name; add {name}://:9093 to it");
            problems.error("listeners", &what);
        }
        if !roles.broker && listeners.iter().any(|listener| !listener.kind_is_controller) {
            let what = "a node that is only a controller has only listeners that controller.listener.names names";
            problems.error("listeners", what);
        }
    } else if let Some(listener) = listeners.iter().find(|listener| listener.kind_is_controller) {
        let what = format!(
            "{} is named by controller.listener.names, so a node that is only a broker must not listen on it",
            listener.name
        );
        problems.error("listeners", &what);
    }
    if roles.broker {
        if advertised_listeners.is_empty() {
            let what = "no listener is left for clients and brokers; are all of them in controller.listener.names?";
            problems.error("listeners", what);
        }
        for endpoint in advertised_listeners.iter().filter(|endpoint| !listens(&endpoint.name)) {
            let what = format!("{} is advertised, but listeners has no such name", endpoint.name);
            problems.error("advertised.listeners", &what);
        }
        // With `inter.broker.listener.name` unset, a broker whose only listener has another name is refused above.
    }
}

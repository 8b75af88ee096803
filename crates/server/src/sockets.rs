//! Listening sockets, and what the process may use of the system.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use metadata::config::{Listener, NodeConfig};
use mio::net::{TcpListener, TcpStream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Binds every listener of the configuration. The message is for the operator.
pub fn bind_listeners(config: &mut NodeConfig) -> Result<Vec<TcpListener>, String> {
    let mut bound = Vec::new();
    for at in 0..config.listeners.len() {
        let listener = &config.listeners[at];
        let opened = open_listener(listener, config.socket_listen_backlog_size).map_err(|error| {
            let Listener { name, host, port, .. } = listener;
            let host = host.as_deref().unwrap_or("");
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => "; stop the other process, or change the port in listeners",
                io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
                _ => "",
            };
            format!("listener {name}://{host}:{port} cannot listen: {error}{remedy}")
        })?;
        let port = opened.local_addr().map_err(|error| error.to_string())?.port();
        config.set_bound_port(at, port);
        bound.push(opened);
    }
    Ok(bound)
}

fn open_listener(listener: &Listener, backlog: i32) -> io::Result<TcpListener> {
    let Some(host) = &listener.host else {
        // Both families through one socket, as Java does it; without IPv6 in the kernel, IPv4 alone.
        let any_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), listener.port);
        return match open(any_v6, backlog) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                open(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listener.port), backlog)
            }
            other => other,
        };
    };
    let address = (host.as_str(), listener.port).to_socket_addrs()?.next();
    open(address.ok_or_else(|| io::Error::other("the host has no address"))?, backlog)
}

pub fn open(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // A restarted node must not wait for the old connections' last packets.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    listen(&socket, backlog)?;
    Ok(TcpListener::from_std(std::net::TcpListener::from(socket)))
}

/// What every connection of the broker gets. The buffers follow the keys only if the file sets them:
/// DIFFERS: Kafka's default of 100 KiB turns off the kernel's own sizing, which serves fast and distant peers better.
pub fn configure(stream: &TcpStream, config: &NodeConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer whose machine died says nothing; without this its connection would stay for good where idle ones may.
    sockopt::set_socket_keepalive(stream, true)?;
    let set =
        |key: &str, size: i32| if config.properties.contains_key(key) { usize::try_from(size).ok() } else { None };
    if let Some(size) = set("socket.send.buffer.bytes", config.socket_send_buffer_bytes) {
        sockopt::set_socket_send_buffer_size(stream, size)?;
    }
    if let Some(size) = set("socket.receive.buffer.bytes", config.socket_receive_buffer_bytes) {
        sockopt::set_socket_recv_buffer_size(stream, size)?;
    }
    Ok(())
}

/// Raises the limit of open files to what the system allows; returns it.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// The machine's name, if others can make an address of it; else `localhost`.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let resolves = (name, 0).to_socket_addrs().is_ok_and(|mut addresses| addresses.next().is_some());
    if resolves { name.to_owned() } else { "localhost".to_owned() }
}

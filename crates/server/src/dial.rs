//! Connections that this node opens: from a name to addresses, from an address to a socket, one address after another.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use broker::LinkId;
use mio::net::TcpStream;

/// A link that is not up yet.
struct Dial {
    addresses: VecDeque<SocketAddr>,
    deadline_ms: i64,
    /// So far every address said that nobody listens there.
    all_refused: bool,
}

#[derive(Default)]
pub struct Dials {
    open: HashMap<LinkId, Dial>,
}

/// What to do next for a link.
pub enum Next {
    /// Wait for the socket to become writable.
    Connecting(TcpStream),
    /// Ask the resolver.
    Resolve,
    Failed {
        refused: bool,
    },
    /// Nobody waits for this link any more.
    Nothing,
}

impl Dials {
    /// `host` as the node knows it: an address, or a name that is looked up again at each dial, because names move.
    pub fn begin(&mut self, link: LinkId, host: &str, port: u16, deadline_ms: i64) -> Next {
        let addresses: VecDeque<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => VecDeque::from([SocketAddr::new(ip, port)]),
            Err(_) if host == "localhost" => VecDeque::from([
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
            ]),
            Err(_) => VecDeque::new(),
        };
        let is_known = !addresses.is_empty();
        self.open.insert(link, Dial { addresses, deadline_ms, all_refused: true });
        if is_known { self.next(link) } else { Next::Resolve }
    }

    pub fn resolved(&mut self, link: LinkId, addresses: io::Result<Vec<SocketAddr>>) -> Next {
        let Some(dial) = self.open.get_mut(&link) else { return Next::Nothing };
        match addresses {
            Ok(addresses) if !addresses.is_empty() => {
                dial.addresses = addresses.into();
                self.next(link)
            }
            _ => {
                self.open.remove(&link);
                Next::Failed { refused: false }
            }
        }
    }

    /// One address failed; the next may not.
    pub fn failed(&mut self, link: LinkId, error: &io::Error) -> Next {
        let Some(dial) = self.open.get_mut(&link) else { return Next::Nothing };
        dial.all_refused &= error.kind() == ErrorKind::ConnectionRefused;
        self.next(link)
    }

    fn next(&mut self, link: LinkId) -> Next {
        let Some(dial) = self.open.get_mut(&link) else { return Next::Nothing };
        while let Some(address) = dial.addresses.pop_front() {
            match TcpStream::connect(address) {
                Ok(stream) => return Next::Connecting(stream),
                Err(error) => dial.all_refused &= error.kind() == ErrorKind::ConnectionRefused,
            }
        }
        let refused = dial.all_refused;
        self.open.remove(&link);
        Next::Failed { refused }
    }

    /// The link is up, or nobody wants it any more.
    pub fn end(&mut self, link: LinkId) {
        self.open.remove(&link);
    }

    pub fn overdue(&self, now_ms: i64) -> Vec<LinkId> {
        self.open.iter().filter(|(_, dial)| dial.deadline_ms <= now_ms).map(|(link, _)| *link).collect()
    }
}

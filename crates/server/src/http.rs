//! Health and metrics over HTTP/1.1: GET without a body, one request per connection, a bounded number of them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::output::{Output, Progress};
use crate::sockets;

const CONNECTIONS_MAX: usize = 64;
/// Request line and headers.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A peer that neither asks nor reads is let go after this.
const IDLE_MS: i64 = 10_000;

pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

impl Reply {
    pub fn text(status: u16, body: impl Into<String>) -> Reply {
        Reply { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

struct Client {
    stream: TcpStream,
    head: Vec<u8>,
    output: Output,
    since_ms: i64,
}

pub struct Http {
    listener: TcpListener,
    clients: HashMap<Token, Client>,
}

impl Http {
    pub fn open(address: SocketAddr) -> Result<Http, String> {
        let failed = |error| format!("--http-listen {address} cannot listen: {error}; choose another port");
        Ok(Http { listener: sockets::open(address, 16).map_err(failed)?, clients: HashMap::new() })
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> std::io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    pub fn has(&self, token: Token) -> bool {
        self.clients.contains_key(&token)
    }

    pub fn accept(&mut self, registry: &Registry, now_ms: i64, mut token: impl FnMut() -> Token) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let token = token();
            // Beyond the limit the peer sees a close, which monitoring reports as down: it is.
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.clients.len() < CONNECTIONS_MAX && registry.register(&mut stream, token, both).is_ok() {
                let client = Client { stream, head: Vec::new(), output: Output::default(), since_ms: now_ms };
                self.clients.insert(token, client);
            }
        }
    }

    /// Something happened on a connection; `answer` makes the page of a path.
    pub fn on_event(&mut self, token: Token, answer: impl FnOnce(&str) -> Reply) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if !client.drive(answer) {
            self.clients.remove(&token);
        }
    }

    pub fn close_idle(&mut self, now_ms: i64) {
        self.clients.retain(|_, client| now_ms - client.since_ms < IDLE_MS);
    }
}

impl Client {
    /// Whether the connection goes on.
    fn drive(&mut self, answer: impl FnOnce(&str) -> Reply) -> bool {
        if self.output.is_empty() {
            match self.read_head() {
                Some(Head::Partial) => return true,
                Some(Head::Get { path, with_body }) => {
                    let reply = answer(&path);
                    self.output.push_bytes(render(&reply, with_body));
                }
                Some(Head::Bad(status)) => self.output.push_bytes(render(&Reply::text(status, "GET only\n"), true)),
                None => return false,
            }
        }
        loop {
            match self.output.write(&self.stream) {
                Ok((_, Progress::More)) => {}
                Ok((_, Progress::Blocked)) => return true,
                Ok((_, Progress::Empty)) | Err(_) => return false,
            }
        }
    }

    /// `None` when the peer is gone.
    fn read_head(&mut self) -> Option<Head> {
        let mut buffer = [0; 1024];
        loop {
            if let Some(head) = parse(&self.head) {
                return Some(head);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.head.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Head::Partial),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    Partial,
    Get { path: String, with_body: bool },
    Bad(u16),
}

/// `None` until the head is complete.
fn parse(head: &[u8]) -> Option<Head> {
    let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return (head.len() > HEAD_BYTES_MAX).then_some(Head::Bad(431));
    };
    let line = head[..end].split(|&b| b == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return Some(Head::Bad(400)) };
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return Some(Head::Bad(400)) };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Some(Head::Bad(400));
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    match method {
        "GET" => Some(Head::Get { path, with_body: true }),
        "HEAD" => Some(Head::Get { path, with_body: false }),
        _ => Some(Head::Bad(405)),
    }
}

fn render(reply: &Reply, with_body: bool) -> Vec<u8> {
    let reason = match reply.status {
        200 => "OK",
        204 => "No Content",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let Reply { status, content_type, body } = reply;
    let length = body.len();
    let mut bytes = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    if with_body {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let get = |path: &str, with_body| Some(Head::Get { path: path.to_owned(), with_body });
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get("/metrics", true));
        assert_eq!(parse(b"HEAD /readyz?verbose HTTP/1.0\r\n\r\n"), get("/readyz", false));
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(Head::Bad(405)));
        assert_eq!(parse(b"\x16\x03\x01 \r\n\r\n"), Some(Head::Bad(400)));
        assert_eq!(parse(&[b'a'; HEAD_BYTES_MAX + 1]), Some(Head::Bad(431)));
    }
}

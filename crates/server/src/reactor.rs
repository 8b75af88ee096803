//! The loop: one thread waits for sockets, signals, workers and time, hands everything to the node, and carries out
//! what the node asks for.
//!
//! One turn: take what happened (reads go into the node at once), let the node finish its turn, carry out its effects
//! until there are none, write what waits. A request is answered within the turn that read it unless it has to wait for
//! others. Sockets are edge-triggered with both interests from the start, which costs no further system calls.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use broker::{ConnId, Effect, Frame, LinkId, Node};
use metadata::config::NodeConfig;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use protocol::time::Now;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::channel::{Channel, Purpose, ReadContext, ReadEnd, connect_result};
use crate::clock;
use crate::creations::Creations;
use crate::dial::{Dials, Next};
use crate::frame::Budget;
use crate::http::{Http, Reply};
use crate::metrics::{self, LoopState, Metrics};
use crate::output::Progress;
use crate::sockets;
use crate::workers::{Done, Job, Workers};

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const HTTP: Token = Token(2);
/// Listeners follow, then connections, whose tokens are never used twice.
const LISTENERS: usize = 3;

const SCRATCH_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
/// One listener's share of a turn.
const ACCEPTS_MAX: usize = 128;
/// Receive memory without `queued.max.request.bytes`, if `socket.request.max.bytes` is not more.
const RECEIVE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A frame for which others wait, because memory is used up, must go on within this time.
const STALLED_MS: i64 = 10_000;
const HOUSEKEEPING_MS: i64 = 500;
/// Until the node is ready, its status is looked at this often.
const START_POLL_MS: i64 = 10;

pub struct Reactor {
    poll: Poll,
    node: Node,
    config: Arc<NodeConfig>,
    /// With whether connections may be waiting (edge-triggered).
    listeners: Vec<(TcpListener, bool)>,
    http: Option<Http>,
    signals: mio::net::UnixStream,
    workers: Workers,
    dials: Dials,
    channels: HashMap<Token, Channel>,
    links: HashMap<LinkId, Token>,
    per_ip: HashMap<IpAddr, i32>,
    per_ip_max: HashMap<IpAddr, i32>,
    creations: Creations,
    token_next: usize,
    scratch: Vec<u8>,
    budget: Budget,
    /// The one frame that may exceed the budget, so that somebody gets on.
    over_budget: Option<Token>,
    /// Waiting for memory: what their frames miss, and what they need now.
    starved: BTreeMap<Token, (usize, usize)>,
    /// The node or their own output holds them back.
    paused: HashSet<Token>,
    /// Used up their share of a turn.
    ready: VecDeque<Token>,
    /// Have bytes to write.
    dirty: Vec<Token>,
    metrics: Metrics,
    started_ms: i64,
    housekeeping_ms: i64,
    said_started: bool,
    status_at_ms: i64,
    shutting_down: bool,
    /// The node heard of something after its turn, and needs another.
    touched: bool,
    exit: Option<ExitCode>,
}

impl Reactor {
    pub fn new(
        node: Node,
        config: Arc<NodeConfig>,
        listeners: Vec<TcpListener>,
        mut http: Option<Http>,
        now: Now,
    ) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let mut signals = signal_pipe()?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let workers = Workers::start(Waker::new(poll.registry(), WAKER)?, config.log_cleaner_threads.max(0) as usize)?;
        let mut listeners: Vec<(TcpListener, bool)> = listeners.into_iter().map(|l| (l, true)).collect();
        for (at, (listener, _)) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS + at), Interest::READABLE)?;
        }
        if let Some(http) = &mut http {
            http.register(poll.registry(), HTTP)?;
        }
        let request_max = config.socket_request_max_bytes.max(0) as usize;
        let receive_max = usize::try_from(config.queued_max_request_bytes).ok().filter(|&bytes| bytes > 0);
        Ok(Reactor {
            poll,
            node,
            token_next: LISTENERS + listeners.len(),
            listeners,
            http,
            signals,
            workers,
            dials: Dials::default(),
            channels: HashMap::new(),
            links: HashMap::new(),
            per_ip: HashMap::new(),
            per_ip_max: per_ip_max(&config.max_connections_per_ip_overrides),
            creations: Creations::new(config.max_connection_creation_rate, now.mono_ms),
            scratch: vec![0; SCRATCH_BYTES],
            budget: Budget::new(receive_max.unwrap_or(RECEIVE_BYTES_MAX.max(request_max))),
            over_budget: None,
            starved: BTreeMap::new(),
            paused: HashSet::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            metrics: Metrics::default(),
            started_ms: now.mono_ms,
            housekeeping_ms: now.mono_ms + HOUSEKEEPING_MS,
            said_started: false,
            status_at_ms: now.mono_ms,
            shutting_down: false,
            touched: false,
            exit: None,
            config,
        })
    }

    pub fn run(mut self) -> ExitCode {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            self.finish_turn();
            if let Some(code) = self.exit {
                return code;
            }
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "waiting for events failed");
                return ExitCode::FAILURE;
            }
            for event in &events {
                self.on_event(event);
            }
            self.accept_all();
            // Only those of before: who becomes ready now has its turn next time.
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.on_ready(token);
                }
            }
            self.keep_house();
        }
    }

    fn timeout(&self) -> Duration {
        if self.touched || !self.ready.is_empty() || self.listeners.iter().any(|(_, waiting)| *waiting) {
            return Duration::ZERO;
        }
        let mut at = self.node.next_deadline().min(self.housekeeping_ms);
        if !self.said_started {
            at = at.min(self.status_at_ms);
        }
        let now_ms = clock::now().mono_ms;
        Duration::from_millis(at.saturating_sub(now_ms).clamp(0, HOUSEKEEPING_MS) as u64)
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        let token = event.token();
        match token {
            WAKER => self.on_workers(),
            SIGNALS => self.on_signal(),
            HTTP => self.accept_http(),
            Token(at) if at < LISTENERS + self.listeners.len() => {
                self.listeners[at - LISTENERS].1 = true;
            }
            _ if self.http.as_ref().is_some_and(|http| http.has(token)) => self.on_http(token),
            _ => self.on_socket(token, event),
        }
    }

    fn on_socket(&mut self, token: Token, event: &mio::event::Event) {
        let Some(channel) = self.channels.get_mut(&token) else { return };
        if let Purpose::Link { id, connected: false } = channel.purpose {
            match connect_result(&channel.stream) {
                None => return,
                Some(Ok(())) => self.on_connected(token, id),
                Some(Err(error)) => {
                    self.forget(token);
                    let next = self.dials.failed(id, &error);
                    return self.dial(id, next);
                }
            }
        }
        let Some(channel) = self.channels.get_mut(&token) else { return };
        channel.hung_up |= event.is_read_closed() || event.is_error();
        if event.is_writable() && channel.write_blocked {
            channel.write_blocked = false;
            self.dirty.push(token);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            if let Some(channel) = self.channels.get_mut(&token) {
                channel.readable = true;
            }
            self.read(token);
        }
        // Whatever was still readable has been read; a paused connection must not hide that its peer died.
        if event.is_error() {
            self.on_closed(token, clock::now());
        }
    }

    fn on_ready(&mut self, token: Token) {
        let Some(channel) = self.channels.get(&token) else { return };
        if !channel.output.is_empty() && !channel.write_blocked {
            self.dirty.push(token);
        }
        if channel.readable && !self.paused.contains(&token) && !self.starved.contains_key(&token) {
            self.read(token);
        }
    }

    fn read(&mut self, token: Token) {
        let Some(channel) = self.channels.get_mut(&token) else { return };
        let now = clock::now();
        let mut context = ReadContext {
            node: &mut self.node,
            scratch: &mut self.scratch,
            budget: &mut self.budget,
            metrics: &mut self.metrics,
            now_ms: now.mono_ms,
            over_budget: self.over_budget == Some(token),
        };
        let end = channel.read(&mut context);
        if self.over_budget == Some(token) && channel.reader.kept() == 0 {
            self.over_budget = None;
        }
        match end {
            ReadEnd::Drained => channel.readable = false,
            ReadEnd::More => self.ready.push_back(token),
            ReadEnd::Paused => drop(self.paused.insert(token)),
            ReadEnd::Exhausted { missing, growth } => drop(self.starved.insert(token, (missing, growth))),
            ReadEnd::Closed => self.on_closed(token, now),
            ReadEnd::Broken(error) => {
                tracing::debug!(%error, "a connection broke while reading");
                self.on_closed(token, now);
            }
            ReadEnd::Refused(error) => {
                match channel.purpose {
                    Purpose::Conn { peer, listener, .. } => {
                        let listener = &self.config.listeners[listener].name;
                        tracing::warn!(%peer, listener, %error, "connection closed");
                    }
                    Purpose::Link { .. } => tracing::warn!(%error, "connection to another node closed"),
                }
                self.on_closed(token, now);
            }
        }
    }

    /// The other side is gone, or has to go.
    fn on_closed(&mut self, token: Token, now: Now) {
        let Some(purpose) = self.forget(token) else { return };
        self.touched = true;
        match purpose {
            Purpose::Conn { id, .. } => self.node.closed(id, now),
            Purpose::Link { id, .. } => {
                self.links.remove(&id);
                self.dials.end(id);
                self.node.link_down(id, false, now);
            }
        }
    }

    /// Drops the socket and everything the loop knows of it.
    fn forget(&mut self, token: Token) -> Option<Purpose> {
        let mut channel = self.channels.remove(&token)?;
        channel.reader.discard(&mut self.budget);
        self.paused.remove(&token);
        self.starved.remove(&token);
        if self.over_budget == Some(token) {
            self.over_budget = None;
        }
        if let Purpose::Conn { peer, .. } = channel.purpose {
            self.metrics.closed += 1;
            if let Some(count) = self.per_ip.get_mut(&peer) {
                *count -= 1;
                if *count == 0 {
                    self.per_ip.remove(&peer);
                }
            }
        }
        Some(channel.purpose)
    }

    fn accept_all(&mut self) {
        for at in 0..self.listeners.len() {
            let mut taken = 0;
            let is_internal = self.is_internal(at);
            while self.listeners[at].1 && taken < ACCEPTS_MAX {
                if !is_internal && !self.creations.may(clock::now().mono_ms) {
                    break;
                }
                taken += 1;
                match self.listeners[at].0.accept() {
                    Ok((stream, address)) => {
                        if !is_internal {
                            self.creations.made();
                        }
                        self.accept(at, stream, address.ip().to_canonical());
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.listeners[at].1 = false,
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        // Most likely no file descriptor is left. The rest waits in the kernel until housekeeping.
                        tracing::warn!(%error, listener = self.config.listeners[at].name, "cannot take a connection");
                        self.listeners[at].1 = false;
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: usize, mut stream: TcpStream, peer: IpAddr) {
        if let Some(limit) = self.limit_reached(listener, peer) {
            self.metrics.refused += 1;
            return tracing::debug!(%peer, limit, "connection refused");
        }
        let token = self.new_token();
        let both = Interest::READABLE | Interest::WRITABLE;
        let prepared = sockets::configure(&stream, &self.config)
            .and_then(|()| self.poll.registry().register(&mut stream, token, both));
        if let Err(error) = prepared {
            return tracing::debug!(%peer, %error, "connection lost at once");
        }
        let id = ConnId(token.0 as u64);
        let purpose = Purpose::Conn { id, listener, peer };
        let frame_max = self.config.socket_request_max_bytes.max(0) as usize;
        let channel = Channel::new(stream, purpose, frame_max, clock::now().mono_ms);
        self.channels.insert(token, channel);
        *self.per_ip.entry(peer).or_default() += 1;
        self.metrics.accepted += 1;
        self.node.accepted(id, listener, peer, clock::now());
    }

    /// Brokers and controllers are let in beyond `max.connections`: a crowd of clients must not split the cluster.
    fn limit_reached(&self, listener: usize, peer: IpAddr) -> Option<&'static str> {
        let from_peer = self.per_ip.get(&peer).copied().unwrap_or(0);
        if from_peer >= self.per_ip_max.get(&peer).copied().unwrap_or(self.config.max_connections_per_ip) {
            return Some("max.connections.per.ip");
        }
        let is_internal = self.is_internal(listener);
        let open = self.channels.len() - self.links.len().min(self.channels.len());
        let is_full = open >= self.config.max_connections.max(0) as usize;
        (is_full && !is_internal).then_some("max.connections")
    }

    /// Of the cluster itself.
    fn is_internal(&self, listener: usize) -> bool {
        let listener = &self.config.listeners[listener];
        listener.kind_is_controller || listener.name == self.config.inter_broker_listener_name
    }

    /// What operators have set meanwhile.
    fn follow_config(&mut self) {
        if Arc::ptr_eq(&self.config, self.node.config()) {
            return;
        }
        self.config = self.node.config().clone();
        self.per_ip_max = per_ip_max(&self.config.max_connections_per_ip_overrides);
        self.creations.set_rate(self.config.max_connection_creation_rate);
        if let Err(error) = self.workers.want_cleaners(self.config.log_cleaner_threads.max(0) as usize) {
            tracing::error!(%error, "log.cleaner.threads: a thread cannot be started");
        }
    }

    fn new_token(&mut self) -> Token {
        self.token_next += 1;
        Token(self.token_next - 1)
    }

    /// Effects until there are none, then the bytes they made.
    fn finish_turn(&mut self) {
        self.touched = false;
        self.node.turn(clock::now());
        loop {
            let effects = self.node.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
        self.follow_config();
        self.say_started();
        for token in std::mem::take(&mut self.dirty) {
            self.write(token);
        }
        self.resume();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Respond { conn, frame } => {
                let token = Token(conn.0 as usize);
                self.send(token, frame);
            }
            Effect::Send { link, frame } => {
                if let Some(token) = self.links.get(&link).copied() {
                    self.send(token, frame);
                }
            }
            Effect::Close { conn, reason } => {
                let token = Token(conn.0 as usize);
                if let Some(Purpose::Conn { peer, .. }) = self.channels.get(&token).map(|channel| channel.purpose) {
                    tracing::info!(%peer, reason, "connection closed");
                    // Answers to what came before the cause still go out if the socket takes them.
                    self.write(token);
                    self.on_closed(token, clock::now());
                }
            }
            Effect::Connect { link, host, port } => {
                let deadline_ms = clock::now().mono_ms + self.config.socket_connection_setup_timeout_ms;
                match self.dials.begin(link, &host, port, deadline_ms) {
                    Next::Resolve => self.workers.submit(Job::Resolve { link, host, port }),
                    next => self.dial(link, next),
                }
            }
            Effect::Disconnect { link } => {
                self.dials.end(link);
                if let Some(token) = self.links.remove(&link) {
                    self.forget(token);
                }
            }
            Effect::Flush { id, work } => self.workers.submit(Job::Flush { id, work }),
            Effect::Clean { id, work, bytes_per_second } => {
                self.workers.submit(Job::Clean { id, work, bytes_per_second });
            }
            Effect::Stopped => self.stop(),
            Effect::Fatal { message } => {
                tracing::error!("{message}");
                eprintln!("zwirn server: {message}");
                // Nothing more may be answered, and nothing may look like an orderly end.
                std::process::exit(1);
            }
        }
    }

    fn send(&mut self, token: Token, frame: Frame) {
        let Some(channel) = self.channels.get_mut(&token) else { return };
        // With bytes waiting, it is on a list already, or its socket is full.
        if channel.output.is_empty() {
            self.dirty.push(token);
        }
        channel.output.push(frame);
    }

    fn dial(&mut self, link: LinkId, next: Next) {
        match next {
            Next::Connecting(mut stream) => {
                let token = self.new_token();
                let both = Interest::READABLE | Interest::WRITABLE;
                if let Err(error) = self.poll.registry().register(&mut stream, token, both) {
                    let next = self.dials.failed(link, &error);
                    return self.dial(link, next);
                }
                let purpose = Purpose::Link { id: link, connected: false };
                let frame_max = self.config.socket_request_max_bytes.max(0) as usize;
                self.channels.insert(token, Channel::new(stream, purpose, frame_max, clock::now().mono_ms));
                self.links.insert(link, token);
            }
            Next::Failed { refused } => {
                self.links.remove(&link);
                self.touched = true;
                self.node.link_down(link, refused, clock::now());
            }
            Next::Resolve | Next::Nothing => {}
        }
    }

    fn on_connected(&mut self, token: Token, link: LinkId) {
        let Some(channel) = self.channels.get_mut(&token) else { return };
        // A socket without these still works.
        let _ = sockets::configure(&channel.stream, &self.config);
        channel.purpose = Purpose::Link { id: link, connected: true };
        self.dirty.push(token);
        self.dials.end(link);
        self.node.link_up(link, clock::now());
    }

    fn write(&mut self, token: Token) {
        let Some(channel) = self.channels.get_mut(&token) else { return };
        if channel.write_blocked || matches!(channel.purpose, Purpose::Link { connected: false, .. }) {
            return;
        }
        match channel.output.write(&channel.stream) {
            Ok((n, progress)) => {
                self.metrics.bytes_out += n as u64;
                if n > 0 {
                    channel.last_active_ms = clock::now().mono_ms;
                }
                match progress {
                    Progress::Empty => {}
                    Progress::Blocked => channel.write_blocked = true,
                    Progress::More => self.ready.push_back(token),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection broke while writing");
                self.on_closed(token, clock::now());
            }
        }
    }

    /// Those whose hindrance may be gone try again next turn; a try that fails puts them back.
    fn resume(&mut self) {
        let Reactor { paused, channels, node, ready, .. } = self;
        paused.retain(|token| {
            let is_held = channels.get(token).is_some_and(|channel| channel.is_held_back(node));
            if !is_held {
                ready.push_back(*token);
            }
            is_held
        });
        // Memory may have come free; if not, the frame that misses least goes on above the budget.
        if self.starved.is_empty() {
            return;
        }
        if self.over_budget.is_none() {
            self.over_budget = self.starved.iter().min_by_key(|(_, (missing, _))| *missing).map(|(token, _)| *token);
        }
        let (pass, budget, ready) = (self.over_budget, &self.budget, &mut self.ready);
        self.starved.retain(|token, (_, growth)| {
            let goes_on = budget.allows(*growth) || pass == Some(*token);
            if goes_on {
                ready.push_back(*token);
            }
            !goes_on
        });
    }

    fn on_workers(&mut self) {
        for done in self.workers.take_done() {
            match done {
                Done::Flushed { id, result } => self.node.flushed(id, result, clock::now()),
                Done::Cleaned { id, work, result } => self.node.cleaned(id, work, result, clock::now()),
                Done::Resolved { link, addresses } => {
                    if let Err(error) = &addresses {
                        tracing::debug!(%error, "a name has no address");
                    }
                    let next = self.dials.resolved(link, addresses);
                    self.dial(link, next);
                }
            }
        }
    }

    fn on_signal(&mut self) {
        let mut bytes = [0; 16];
        while let Ok(n) = self.signals.read(&mut bytes) {
            if n == 0 {
                return;
            }
            if self.shutting_down || n > 1 {
                tracing::warn!("second signal: stopping at once");
                std::process::exit(1);
            }
            self.shutting_down = true;
            tracing::info!("signal received: controlled shutdown; a second signal stops at once");
            self.node.shutdown(clock::now());
        }
    }

    /// The node has said its last word; give its last answers a moment.
    fn stop(&mut self) {
        let tokens: Vec<Token> = self.channels.keys().copied().collect();
        for token in tokens {
            self.write(token);
        }
        tracing::info!("stopped");
        self.exit = Some(ExitCode::SUCCESS);
    }

    fn say_started(&mut self) {
        let now_ms = clock::now().mono_ms;
        if self.said_started || now_ms < self.status_at_ms {
            return;
        }
        self.status_at_ms = now_ms + START_POLL_MS;
        if self.node.status().is_ready() {
            self.said_started = true;
            let ms = now_ms - self.started_ms;
            tracing::info!(target: "kafka.server.KafkaRaftServer", ms, "Kafka Server started");
        }
    }

    fn keep_house(&mut self) {
        let now = clock::now();
        if now.mono_ms < self.housekeeping_ms {
            return;
        }
        self.housekeeping_ms = now.mono_ms + HOUSEKEEPING_MS;
        for listener in &mut self.listeners {
            listener.1 = true;
        }
        if let Some(http) = &mut self.http {
            http.close_idle(now.mono_ms);
        }
        for link in self.dials.overdue(now.mono_ms) {
            self.dials.end(link);
            if let Some(token) = self.links.remove(&link) {
                self.forget(token);
            }
            self.node.link_down(link, false, now);
        }
        for token in self.idle(now.mono_ms) {
            self.on_closed(token, now);
        }
        // The frame above the budget holds up the others: it must not stand still.
        if let Some(token) = self.over_budget.filter(|_| !self.starved.is_empty())
            && self.channels.get(&token).is_none_or(|c| now.mono_ms - c.last_read_ms > STALLED_MS)
        {
            tracing::warn!("receive memory is used up and a frame stands still: its connection is closed");
            self.over_budget = None;
            self.on_closed(token, now);
        }
    }

    fn idle(&self, now_ms: i64) -> Vec<Token> {
        let limit_ms = self.config.connections_max_idle_ms;
        if limit_ms < 0 {
            return Vec::new();
        }
        let is_idle = |channel: &Channel| {
            matches!(channel.purpose, Purpose::Conn { .. }) && now_ms - channel.last_active_ms > limit_ms
        };
        self.channels.iter().filter(|(_, channel)| is_idle(channel)).map(|(token, _)| *token).collect()
    }

    fn accept_http(&mut self) {
        let Reactor { http, poll, token_next, .. } = self;
        if let Some(http) = http {
            http.accept(poll.registry(), clock::now().mono_ms, || {
                *token_next += 1;
                Token(*token_next - 1)
            });
        }
    }

    fn on_http(&mut self, token: Token) {
        let Reactor { http, node, metrics, channels, links, budget, started_ms, shutting_down, .. } = self;
        let Some(http) = http else { return };
        http.on_event(token, |path| match path {
            "/healthz" => Reply::text(200, "ok\n"),
            "/readyz" | "/v1/ready" | "/v1/ready/" => {
                let status = node.status();
                match &status.broker {
                    _ if *shutting_down => Reply::text(503, "shutting down\n"),
                    // Strimzi's probe wants 204, Kubernetes takes any 2xx.
                    _ if status.is_ready() && path.starts_with("/v1") => Reply::text(204, ""),
                    _ if status.is_ready() => Reply::text(200, "ready\n"),
                    Some(broker) => Reply::text(503, format!("the broker is {:?}\n", broker.state)),
                    None => Reply::text(503, "the metadata quorum has no leader yet\n"),
                }
            }
            "/metrics" => {
                let state = LoopState {
                    connections: channels.len().saturating_sub(links.len()),
                    links: links.len(),
                    receive_bytes: budget.used(),
                    uptime_ms: clock::now().mono_ms - *started_ms,
                };
                let body = metrics::page(metrics, &node.status(), &state) + &metrics::clients(node.client_series());
                Reply { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            _ => Reply::text(404, "try /healthz, /readyz or /metrics\n"),
        });
    }
}

/// A byte for each SIGTERM and SIGINT.
fn signal_pipe() -> io::Result<mio::net::UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    ours.set_nonblocking(true)?;
    Ok(mio::net::UnixStream::from_std(ours))
}

/// `address:count,…`; what is no address is left out, with a warning.
fn per_ip_max(overrides: &str) -> HashMap<IpAddr, i32> {
    let entries = overrides.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .filter_map(|entry| {
            let (address, count) = entry.rsplit_once(':')?;
            let read = address.trim_matches(['[', ']']).parse().ok().zip(count.trim().parse().ok());
            if read.is_none() {
                tracing::warn!(entry, "max.connections.per.ip.overrides: not an IP address and a number, ignored");
            }
            read
        })
        .collect()
}

//! Three nodes as three processes, with ordinary server.properties files.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wire::{self, Metadata};
use super::{Env, expect, wait_until};

pub struct Cluster {
    pub dir: PathBuf,
    binary: PathBuf,
    pub nodes: Vec<Node>,
    is_told: bool,
}

pub struct Node {
    pub id: i32,
    pub port: u16,
    pub properties: PathBuf,
    pub log_dir: PathBuf,
    /// Has a listener for clients.
    pub is_broker: bool,
    child: Option<Child>,
    starts: u32,
}

/// Any sixteen bytes will do.
pub const CLUSTER_ID: &str = "Zndpcm4tc3Rvcmllcy0tLQ";

/// One node of a cluster that is being laid out.
pub struct Plan {
    pub id: usize,
    /// Three for clients, three for controllers.
    ports: Vec<u16>,
    pub log_dir: PathBuf,
}

impl Plan {
    pub fn client_port(&self) -> u16 {
        self.ports[self.id - 1]
    }

    pub fn controller_port(&self, id: usize) -> u16 {
        self.ports[id + 2]
    }

    /// The first nodes are voters.
    pub fn static_voters(&self, count: usize) -> String {
        let voters: Vec<String> =
            (1..=count).map(|id| format!("{id}@127.0.0.1:{}", self.controller_port(id))).collect();
        format!("controller.quorum.voters={}\n", voters.join(","))
    }

    pub fn combined_listeners(&self) -> String {
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}\ninter.broker.listener.name=PLAINTEXT\n",
            self.client_port(),
            self.controller_port(self.id)
        )
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|e| format!("no free port: {e}"))?;
    listeners.iter().map(|l| l.local_addr().map(|a| a.port()).map_err(|e| e.to_string())).collect()
}

impl Cluster {
    /// Three combined nodes with their properties files written, nothing formatted.
    pub fn prepare(env: &Env, name: &str, extra: &str) -> Result<Cluster, String> {
        Cluster::prepare_as(env, name, &|plan| {
            format!("process.roles=broker,controller\n{}{}{}", plan.static_voters(3), plan.combined_listeners(), extra)
        })
    }

    /// Three nodes; `properties` says what each is, beyond its id, its directory and what all have in common.
    pub fn prepare_as(env: &Env, name: &str, properties: &dyn Fn(&Plan) -> String) -> Result<Cluster, String> {
        let dir = env.stories.join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let ports = free_ports(6)?;
        let mut nodes = Vec::new();
        for id in 1..=3usize {
            let log_dir = dir.join(format!("node-{id}"));
            let plan = Plan { id, ports: ports.clone(), log_dir: log_dir.clone() };
            let path = dir.join(format!("server-{id}.properties"));
            let text = format!(
                "node.id={id}\nlog.dirs={}\ncontroller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 num.partitions=1\noffsets.topic.replication.factor=3\n\
                 transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n{}\n",
                log_dir.display(),
                properties(&plan),
            );
            // The last of a key counts in a properties file, so that a story may say otherwise.
            let is_broker = text.contains("listeners=PLAINTEXT");
            fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            let port = ports[id - 1];
            nodes.push(Node { id: id as i32, port, properties: path, log_dir, is_broker, child: None, starts: 0 });
        }
        Ok(Cluster { dir, binary: env.binary.clone(), nodes, is_told: false })
    }

    /// Formatted, started, and all three brokers in the metadata.
    pub fn start(env: &Env, name: &str, extra: &str) -> Result<Cluster, String> {
        let mut cluster = Cluster::prepare(env, name, extra)?;
        for id in 1..=3 {
            cluster.format(env, id, &[])?;
        }
        for id in 1..=3 {
            cluster.start_node(id)?;
        }
        cluster.wait_for_brokers(3)?;
        Ok(cluster)
    }

    pub fn format(&self, env: &Env, id: i32, flags: &[&str]) -> Result<(), String> {
        let config = self.node(id).properties.to_string_lossy().into_owned();
        let args = [&["storage", "format", "-t", CLUSTER_ID, "-c", &config][..], flags].concat();
        env.zwirn(&args)?.good().map(drop)
    }

    /// A topic with this many partitions, each with three replicas.
    pub fn create_topic(&self, env: &Env, name: &str, partitions: u32, flags: &[&str]) -> Result<(), String> {
        let (servers, count) = (self.bootstrap(), partitions.to_string());
        let args = ["topics", "--bootstrap-server", &servers, "--create", "--topic", name, "--partitions", &count];
        env.zwirn(&[&args[..], &["--replication-factor", "3"], flags].concat())?.good()?;
        self.wait_for_isr(name, 3, Duration::from_secs(20)).map(drop)
    }

    pub fn node(&self, id: i32) -> &Node {
        &self.nodes[(id - 1) as usize]
    }

    pub fn start_node(&mut self, id: i32) -> Result<(), String> {
        let mut command = Command::new(&self.binary);
        command.arg("server");
        self.start_command(id, command)
    }

    /// Starts a broker whose command line ends with the properties file, Zwirn or another.
    pub fn start_command(&mut self, id: i32, mut command: Command) -> Result<(), String> {
        let node = &mut self.nodes[(id - 1) as usize];
        node.starts += 1;
        let log = self.dir.join(format!("node-{id}-{}.log", node.starts));
        let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| e.to_string())?;
        command.arg(&node.properties).current_dir(&self.dir);
        let spawned = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        node.child = Some(spawned.map_err(|e| format!("node {id}: {e}"))?);
        Ok(())
    }

    /// What the node has written to its terminal since its last start.
    pub fn output_of(&self, id: i32) -> String {
        let log = self.dir.join(format!("node-{id}-{}.log", self.node(id).starts));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// As `kill -9`.
    pub fn kill(&mut self, id: i32) -> Result<(), String> {
        let child = self.nodes[(id - 1) as usize].child.take();
        let mut child = child.ok_or_else(|| format!("node {id} does not run"))?;
        child.kill().and_then(|()| child.wait()).map_err(|e| format!("node {id}: {e}")).map(|_| ())
    }

    /// SIGTERM, and the node must come to its end by itself, with exit code 0.
    pub fn stop(&mut self, id: i32, limit: Duration) -> Result<Duration, String> {
        // A process that has just begun does not know the signal yet.
        if self.node(id).is_broker {
            let port = self.node(id).port;
            wait_until(Duration::from_secs(10), "a node to listen", || wire::connect(port).map(drop))?;
        }
        self.terminate(id)?;
        self.wait_for_end(id, limit)
    }

    /// SIGTERM to all at once.
    pub fn stop_all(&mut self, limit: Duration) -> Result<Duration, String> {
        let started = Instant::now();
        let running = self.running();
        for id in &running {
            self.terminate(*id)?;
        }
        for id in &running {
            self.wait_for_end(*id, limit)?;
        }
        Ok(started.elapsed())
    }

    fn terminate(&self, id: i32) -> Result<(), String> {
        self.signal(id, "-TERM")
    }

    /// SIGSTOP and SIGCONT: the node hears nothing and says nothing, but its sockets stay open.
    pub fn freeze(&self, id: i32, frozen: bool) -> Result<(), String> {
        self.signal(id, if frozen { "-STOP" } else { "-CONT" })
    }

    fn signal(&self, id: i32, signal: &str) -> Result<(), String> {
        let child = self.node(id).child.as_ref().ok_or_else(|| format!("node {id} does not run"))?;
        let sent = Command::new("kill").arg(signal).arg(child.id().to_string()).status();
        expect(sent.is_ok_and(|s| s.success()), || format!("node {id}: no signal {signal}"))
    }

    fn wait_for_end(&mut self, id: i32, limit: Duration) -> Result<Duration, String> {
        let child = self.nodes[(id - 1) as usize].child.take();
        let mut child = child.ok_or_else(|| format!("node {id} does not run"))?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                // A JVM ends with 143 after SIGTERM whatever it did before.
                let is_clean = status.success() || status.code() == Some(143);
                expect(is_clean, || format!("node {id} ended with {status} after SIGTERM"))?;
                return Ok(started.elapsed());
            }
            if started.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("node {id} did not stop within {limit:?} of SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn running(&mut self) -> Vec<i32> {
        let is_running = |node: &mut Node| node.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)));
        self.nodes.iter_mut().filter_map(|node| is_running(node).then_some(node.id)).collect()
    }

    /// Resident memory of a node in MB.
    pub fn resident_mb(&self, id: i32) -> Option<u64> {
        let pid = self.node(id).child.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
    }

    /// Processor time of a node so far, in seconds.
    pub fn cpu_seconds(&self, id: i32) -> Option<f64> {
        let pid = self.node(id).child.as_ref()?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
        // The unit of these fields is 10 ms on every Linux that matters.
        Some((user + system) / 100.0)
    }

    /// Of the nodes that run; of all, if none does.
    pub fn bootstrap(&self) -> String {
        let is_up = |n: &&Node| n.is_broker && (n.child.is_some() || self.nodes.iter().all(|n| n.child.is_none()));
        let servers: Vec<String> = self.nodes.iter().filter(is_up).map(|n| format!("127.0.0.1:{}", n.port)).collect();
        servers.join(",")
    }

    /// What the first node that answers knows.
    pub fn metadata(&self, topic: &str) -> Result<Metadata, String> {
        let mut why = "no node runs".to_owned();
        for node in self.nodes.iter().filter(|n| n.is_broker && n.child.is_some()) {
            match wire::metadata(node.port, topic) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Every running node sees this many brokers.
    pub fn wait_for_brokers(&mut self, count: usize) -> Result<Duration, String> {
        let mut running = self.running();
        running.retain(|id| self.node(*id).is_broker);
        wait_until(Duration::from_secs(40), &format!("{count} brokers in the metadata of every node"), || {
            for id in &running {
                let seen = wire::metadata(self.node(*id).port, "no-such-topic")?.brokers;
                expect(seen.len() == count, || format!("node {id} sees {seen:?}"))?;
            }
            Ok(())
        })
    }

    pub fn leader(&self, topic: &str) -> Result<i32, String> {
        let metadata = self.metadata(topic)?;
        let leader = metadata.partitions.first().map_or(-1, |p| p.leader);
        expect(leader > 0, || format!("{topic}-0 has no leader")).map(|()| leader)
    }

    pub fn wait_for_isr(&self, topic: &str, size: usize, limit: Duration) -> Result<Duration, String> {
        wait_until(limit, &format!("an ISR of {size} for every partition of {topic}"), || {
            let metadata = self.metadata(topic)?;
            expect(!metadata.partitions.is_empty(), || format!("{topic} is unknown"))?;
            let bad = metadata.partitions.iter().find(|p| p.isr.len() != size || p.leader < 0);
            expect(bad.is_none(), || {
                bad.map(|p| format!("{}: leader {}, replicas {:?}, ISR {:?}", p.index, p.leader, p.replicas, p.isr))
                    .unwrap_or_default()
            })
        })
    }

    /// The replicas of a partition hold the same bytes. Retried: followers may be a fetch behind.
    pub fn replicas_are_equal(&self, partition: &str, segment: &str) -> Result<usize, String> {
        let holders: Vec<&Node> = self.nodes.iter().filter(|n| n.is_broker).collect();
        let mut size = 0;
        wait_until(Duration::from_secs(10), &format!("equal replicas of {partition}"), || {
            let read = |node: &Node| {
                let path = node.log_dir.join(partition).join(segment);
                fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
            };
            let first = read(holders[0])?;
            for node in &holders[1..] {
                let other = read(node)?;
                let (a, b) = (first.len(), other.len());
                expect(first == other, || {
                    format!("nodes {} and {} differ: {a} and {b} bytes", holders[0].id, node.id)
                })?;
            }
            size = first.len();
            Ok(())
        })?;
        Ok(size)
    }

    /// The story went well: nothing of it is kept, unless `ZWIRN_STORIES_KEEP` is set.
    pub fn done(mut self) {
        self.is_told = std::env::var_os("ZWIRN_STORIES_KEEP").is_none();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|n| n.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.is_told {
            let _ = fs::remove_dir_all(&self.dir);
        } else {
            println!("    kept: {}", self.dir.display());
        }
    }
}

/// Files under a directory whose name ends like this.
pub fn files_under(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

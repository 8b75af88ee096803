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
    child: Option<Child>,
    starts: u32,
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
        let dir = env.stories.join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let ports = free_ports(6)?;
        let voters: Vec<String> = (1..=3).map(|id| format!("{id}@127.0.0.1:{}", ports[id + 2])).collect();
        let mut nodes = Vec::new();
        for id in 1..=3usize {
            let log_dir = dir.join(format!("node-{id}"));
            let properties = dir.join(format!("server-{id}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={id}\n\
                 controller.quorum.voters={}\n\
                 listeners=PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}\n\
                 inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}\nnum.partitions=1\noffsets.topic.replication.factor=3\n\
                 transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n{extra}\n",
                voters.join(","),
                ports[id - 1],
                ports[id + 2],
                log_dir.display(),
            );
            fs::write(&properties, text).map_err(|e| format!("{}: {e}", properties.display()))?;
            nodes.push(Node { id: id as i32, port: ports[id - 1], properties, log_dir, child: None, starts: 0 });
        }
        Ok(Cluster { dir, binary: env.binary.clone(), nodes, is_told: false })
    }

    /// Formatted, started, and all three brokers in the metadata.
    pub fn start(env: &Env, name: &str, extra: &str) -> Result<Cluster, String> {
        let mut cluster = Cluster::prepare(env, name, extra)?;
        for node in &cluster.nodes {
            let config = node.properties.to_string_lossy().into_owned();
            env.zwirn(&["storage", "format", "-t", "Zndpcm4tc3Rvcmllcy0tLQ", "-c", &config])?.good()?;
        }
        for id in 1..=3 {
            cluster.start_node(id)?;
        }
        cluster.wait_for_brokers(3)?;
        Ok(cluster)
    }

    pub fn node(&self, id: i32) -> &Node {
        &self.nodes[(id - 1) as usize]
    }

    pub fn start_node(&mut self, id: i32) -> Result<(), String> {
        let (dir, binary) = (self.dir.clone(), self.binary.clone());
        let node = &mut self.nodes[(id - 1) as usize];
        node.starts += 1;
        let log = dir.join(format!("node-{id}-{}.log", node.starts));
        let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(binary);
        command.arg("server").arg(&node.properties);
        let spawned = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        node.child = Some(spawned.map_err(|e| format!("node {id}: {e}"))?);
        Ok(())
    }

    /// As `kill -9`.
    pub fn kill(&mut self, id: i32) -> Result<(), String> {
        let child = self.nodes[(id - 1) as usize].child.take();
        let mut child = child.ok_or_else(|| format!("node {id} does not run"))?;
        child.kill().and_then(|()| child.wait()).map_err(|e| format!("node {id}: {e}")).map(|_| ())
    }

    /// SIGTERM, and the node must come to its end by itself, with exit code 0.
    pub fn stop(&mut self, id: i32, limit: Duration) -> Result<Duration, String> {
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

    pub fn bootstrap(&self) -> String {
        let servers: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        servers.join(",")
    }

    /// What the first node that answers knows.
    pub fn metadata(&self, topic: &str) -> Result<Metadata, String> {
        let mut why = "no node runs".to_owned();
        for node in self.nodes.iter().filter(|n| n.child.is_some()) {
            match wire::metadata(node.port, topic) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Every running node sees this many brokers.
    pub fn wait_for_brokers(&mut self, count: usize) -> Result<Duration, String> {
        let running = self.running();
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
        let mut size = 0;
        wait_until(Duration::from_secs(10), &format!("equal replicas of {partition}"), || {
            let read = |node: &Node| {
                let path = node.log_dir.join(partition).join(segment);
                fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
            };
            let first = read(&self.nodes[0])?;
            for node in &self.nodes[1..] {
                let other = read(node)?;
                let (a, b) = (first.len(), other.len());
                expect(first == other, || format!("nodes 1 and {} differ: {a} and {b} bytes", node.id))?;
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

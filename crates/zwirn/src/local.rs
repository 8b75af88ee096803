//! A cluster of processes on this machine: configuration files, formatted directories, and one child process per
//! node, each running this very program as `zwirn server`. The demo and `dev` are built on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tools::client::{Client, Topics};
use tools::storage::format_new;

/// Set for children that must not outlive the process that started them.
const DIE_WITH_PARENT: &str = "ZWIRN_DIE_WITH_PARENT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    pub id: i32,
    pub client_port: u16,
    pub controller_port: u16,
}

pub struct LocalCluster {
    /// Configuration, data and logs of all nodes.
    pub dir: PathBuf,
    pub cluster_id: String,
    pub nodes: Vec<NodeSpec>,
    /// The nodes go down with this process, however it ends.
    pub die_with_parent: bool,
    children: BTreeMap<i32, Child>,
}

impl LocalCluster {
    pub fn new(dir: PathBuf, cluster_id: String, nodes: Vec<NodeSpec>) -> LocalCluster {
        LocalCluster { dir, cluster_id, nodes, die_with_parent: true, children: BTreeMap::new() }
    }

    pub fn bootstrap(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(|node| format!("localhost:{}", node.client_port)).collect();
        all.join(",")
    }

    pub fn config_path(&self, id: i32) -> PathBuf {
        self.dir.join(format!("server-{id}.properties"))
    }

    pub fn data_dir(&self, id: i32) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    pub fn log_path(&self, id: i32) -> PathBuf {
        self.dir.join(format!("node-{id}.log"))
    }

    pub fn pid(&self, id: i32) -> Option<u32> {
        self.children.get(&id).map(Child::id)
    }

    /// An ordinary server.properties, so that every step can be repeated by hand.
    fn properties(&self, node: &NodeSpec) -> String {
        let voters: Vec<String> =
            self.nodes.iter().map(|node| format!("{}@localhost:{}", node.id, node.controller_port)).collect();
        let copies = self.nodes.len().min(3);
        format!(
            "process.roles=broker,controller\n\
             node.id={}\n\
             listeners=PLAINTEXT://localhost:{},CONTROLLER://localhost:{}\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.voters={}\n\
             log.dirs={}\n\
             offsets.topic.replication.factor={copies}\n\
             transaction.state.log.replication.factor={copies}\n\
             transaction.state.log.min.isr={}\n",
            node.id,
            node.client_port,
            node.controller_port,
            voters.join(","),
            self.data_dir(node.id).display(),
            copies.min(2),
        )
    }

    /// Writes the configuration files and formats what is not formatted yet.
    pub fn prepare(&self) -> Result<(), String> {
        let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&self.dir).map_err(|error| failed(&self.dir, error))?;
        for node in &self.nodes {
            let path = self.config_path(node.id);
            let text = self.properties(node);
            fs::write(&path, &text).map_err(|error| failed(&path, error))?;
            format_new(&text, &path.display().to_string(), &self.cluster_id)?;
        }
        Ok(())
    }

    pub fn start(&mut self, id: i32) -> Result<(), String> {
        let exe = std::env::current_exe().map_err(|error| format!("cannot find this program's own file: {error}"))?;
        let path = self.log_path(id);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let log_too = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(exe);
        command.arg("server").arg(self.config_path(id)).stdin(Stdio::null()).stdout(log).stderr(log_too);
        // Ctrl-C in the terminal is for this process, which then stops the nodes in good order.
        command.process_group(0);
        if self.die_with_parent {
            command.env(DIE_WITH_PARENT, std::process::id().to_string());
        }
        let child = command.spawn().map_err(|error| format!("cannot start node {id}: {error}"))?;
        self.children.insert(id, child);
        Ok(())
    }

    pub fn start_all(&mut self) -> Result<(), String> {
        let ids: Vec<i32> = self.nodes.iter().map(|node| node.id).collect();
        ids.into_iter().try_for_each(|id| self.start(id))
    }

    /// Until every node is a member that serves; a node that ends meanwhile is an error with its last words.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        let mut client = Client::connect(&self.bootstrap()).map_err(|error| error.to_string())?;
        client.settings.connect_timeout = Duration::from_millis(500);
        client.settings.request_timeout = Duration::from_secs(1);
        loop {
            let known = client.refresh_once(Topics::None, false).map(|()| client.metadata.brokers.len());
            if known.as_ref().is_ok_and(|count| *count >= self.nodes.len()) {
                return Ok(());
            }
            if let Some(id) = self.ended().into_iter().next() {
                return Err(format!("node {id} ended at once. {}", self.last_words(id)));
            }
            if Instant::now() >= deadline {
                let seconds = timeout.as_secs();
                return Err(match known {
                    Ok(count) => format!("only {count} of {} nodes serve after {seconds} s", self.nodes.len()),
                    Err(error) => format!("no node answers after {seconds} s ({error})"),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Nodes whose process has ended by itself or by a signal from elsewhere.
    pub fn ended(&mut self) -> Vec<i32> {
        self.children.iter_mut().filter_map(|(id, child)| child.try_wait().ok().flatten().map(|_| *id)).collect()
    }

    /// The last lines of a node's log, for a message.
    pub fn last_words(&self, id: i32) -> String {
        let path = self.log_path(id);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("Its log ({}) ends with:\n      {}", path.display(), lines.join("\n      "))
    }

    pub fn signal(&self, id: i32, signal: Signal) -> Result<(), String> {
        let pid = self.pid(id).ok_or_else(|| format!("node {id} is not running"))?;
        send(pid, signal).map_err(|error| format!("node {id} (pid {pid}): {error}"))
    }

    /// kill -9, and the wait for the process to be gone.
    pub fn kill(&mut self, id: i32) -> Result<(), String> {
        self.signal(id, Signal::KILL)?;
        if let Some(mut child) = self.children.remove(&id) {
            child.wait().map_err(|error| format!("node {id}: {error}"))?;
        }
        Ok(())
    }

    /// `None` if the process did not end in time.
    pub fn wait_exit(&mut self, id: i32, deadline: Instant) -> Option<ExitStatus> {
        let child = self.children.get_mut(&id)?;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                self.children.remove(&id);
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM to all, and their exits. Who does not end in time is killed, and named in the error.
    pub fn stop_all(&mut self, timeout: Duration) -> Result<(), String> {
        let ids: Vec<i32> = self.children.keys().copied().collect();
        for id in &ids {
            // A frozen process would never see the request to end.
            let _ = self.signal(*id, Signal::CONT);
            let _ = self.signal(*id, Signal::TERM);
        }
        let deadline = Instant::now() + timeout;
        let mut problems = Vec::new();
        for id in ids {
            match self.wait_exit(id, deadline) {
                Some(status) if status.success() => {}
                Some(status) => problems.push(format!("node {id} ended with {status}. {}", self.last_words(id))),
                None => {
                    let _ = self.kill(id);
                    problems.push(format!("node {id} did not stop within {} s and was killed", timeout.as_secs()));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

pub fn send(pid: u32, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no valid process id")?;
    kill_process(pid, signal).map_err(|error| error.to_string())
}

/// Called first in a server process: if its parent wishes so, it is told to stop when the parent is gone.
pub fn follow_parent() {
    #[cfg(target_os = "linux")]
    if let Some(parent) = std::env::var(DIE_WITH_PARENT).ok().and_then(|pid| pid.parse::<i32>().ok()) {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        // The parent may have ended before this took effect.
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if now != Some(parent) {
            std::process::exit(1);
        }
    }
}

/// Ports that nobody listens on. All are held at once, so that no two are the same.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0)).and_then(|held| held.local_addr().map(|at| (held, at.port())));
    let held: Result<Vec<_>, _> = (0..count).map(bind).collect();
    let held = held.map_err(|error| format!("no free port on this machine: {error}"))?;
    Ok(held.iter().map(|(_, port)| *port).collect())
}

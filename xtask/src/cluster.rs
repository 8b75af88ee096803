//! Three combined nodes as real processes, of Zwirn or of Apache Kafka, started from the same `server.properties`.
//! They are killed by their process ids when the value is dropped.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::jars::Kafka;
use crate::stages;

pub const NODES: usize = 3;
/// Any sixteen bytes will do.
pub const CLUSTER_ID: &str = "ZwirnTestClusterId0AAA";
/// A JVM on a busy machine takes a while.
const READY_MAX: Duration = Duration::from_secs(60);

/// Whose broker runs.
#[derive(Clone, Copy)]
pub enum Broker<'a> {
    /// The release binary.
    Zwirn(&'a Path),
    /// With a heap of 1 GiB, as the figures for comparison are measured.
    Kafka(&'a Kafka),
}

impl Broker<'_> {
    pub fn name(&self) -> &'static str {
        match self {
            Broker::Zwirn(_) => "zwirn",
            Broker::Kafka(_) => "kafka",
        }
    }

    pub fn format(&self, config: &Path) -> Command {
        let mut command = match self {
            Broker::Zwirn(binary) => {
                let mut command = Command::new(binary);
                command.arg("storage");
                command
            }
            Broker::Kafka(kafka) => kafka.tool("kafka.tools.StorageTool"),
        };
        command.args(["format", "-t", CLUSTER_ID, "-c"]).arg(config);
        command
    }

    pub fn server(&self, config: &Path) -> Command {
        let mut command = match self {
            Broker::Zwirn(binary) => {
                let mut command = Command::new(binary);
                command.arg("server");
                command
            }
            Broker::Kafka(kafka) => kafka.java("kafka.Kafka", &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"]),
        };
        command.arg(config);
        command
    }
}

pub struct Cluster {
    dir: PathBuf,
    nodes: Vec<Child>,
    /// `host:port` of each node's client listener.
    pub listeners: Vec<String>,
}

impl Cluster {
    /// Formats and starts the nodes in a directory that is emptied first, and waits until all of them listen.
    /// `settings` are lines that every node's `server.properties` gets besides the necessary ones.
    pub fn start(broker: Broker<'_>, dir: &Path, settings: &str) -> Result<Cluster, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(failed)?;
        }
        fs::create_dir_all(dir).map_err(failed)?;
        let ports = free_ports(2 * NODES).map_err(failed)?;
        let (client, controller) = ports.split_at(NODES);
        let voters: Vec<String> = (1..).zip(controller).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let listeners = client.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut cluster = Cluster { dir: dir.to_owned(), nodes: Vec::new(), listeners };
        for (i, (client, controller)) in client.iter().zip(controller).enumerate() {
            let id = i + 1;
            let config = dir.join(format!("server-{id}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={}\n\
                 listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={}\n{settings}",
                voters.join(","),
                dir.join(format!("data-{id}")).display(),
            );
            fs::write(&config, text).map_err(failed)?;
            stages::output(broker.format(&config))?;
        }
        for id in 1..=NODES {
            let out = File::create(dir.join(format!("server-{id}.log"))).map_err(failed)?;
            let mut command = broker.server(&dir.join(format!("server-{id}.properties")));
            // Kafka writes its garbage collector's log and the like where it stands.
            command.current_dir(dir).stdin(Stdio::null()).stdout(out.try_clone().map_err(failed)?).stderr(out);
            cluster.nodes.push(command.spawn().map_err(failed)?);
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        for i in 0..NODES {
            while TcpStream::connect(&self.listeners[i]).is_err() {
                if let Ok(Some(status)) = self.nodes[i].try_wait() {
                    return Err(format!("node {} ended with {status}: see {}", i + 1, self.log(i + 1).display()));
                }
                if start.elapsed() > READY_MAX {
                    return Err(format!("node {} does not listen: see {}", i + 1, self.log(i + 1).display()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn log(&self, id: usize) -> PathBuf {
        self.dir.join(format!("server-{id}.log"))
    }

    pub fn bootstrap(&self) -> String {
        self.listeners.join(",")
    }

    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Already dead is as good.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Ports of the loopback that were free a moment ago.
pub fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

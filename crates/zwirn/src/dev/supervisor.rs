//! The process in the foreground: starts the nodes, watches them, does what the second terminal asks, and stops them.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::control::{Asked, Door};
use super::place::{Known, Place};
use super::{Args, PORT_STEP};
use crate::local::{LocalCluster, NodeSpec};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often signals, commands and the nodes' processes are looked at.
const TICK: Duration = Duration::from_millis(20);

struct Supervisor {
    cluster: LocalCluster,
    paused: BTreeSet<i32>,
    /// Killed on purpose, or ended by themselves; not started again by themselves.
    down: BTreeSet<i32>,
    begun: Instant,
}

pub fn run(args: &Args, place: Place) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // A second signal ends this process at once; the nodes follow it.
        let caught = signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        caught.map_err(|error| format!("signals cannot be caught: {error}"))?;
    }
    if place.ephemeral && !super::control::is_running(&place) && place.known()?.is_some() {
        place.remove()?;
    }
    let known = place.claim(args.brokers, args.port)?;
    let door = Door::open(&place)?;
    let nodes = specs(&known);
    check_ports(&nodes)?;
    let dir = std::path::absolute(&place.dir).map_err(|error| error.to_string())?;
    let mut cluster = LocalCluster::new(dir, known.cluster_id.clone(), nodes);
    cluster.prepare()?;
    let begun = Instant::now();
    cluster.start_all()?;
    let mut supervisor = Supervisor { cluster, paused: BTreeSet::new(), down: BTreeSet::new(), begun };
    if let Err(message) = supervisor.cluster.wait_ready(READY_TIMEOUT) {
        let _ = supervisor.cluster.stop_all(STOP_TIMEOUT);
        return Err(message);
    }
    welcome(&supervisor.cluster, &place, begun.elapsed());
    let asked = supervisor.watch(&door, &stop);
    println!("Stopping the cluster.");
    let result = supervisor.cluster.stop_all(STOP_TIMEOUT);
    drop(door);
    if place.ephemeral {
        place.remove()?;
    }
    if let Some(asked) = asked {
        asked.answer(&result.clone().map(|()| "The cluster has stopped.".to_owned()));
    }
    result?;
    println!("The cluster has stopped.");
    Ok(())
}

fn specs(known: &Known) -> Vec<NodeSpec> {
    let ports = (0..).map(|i| known.port + PORT_STEP * i);
    let node = |(id, port)| NodeSpec { id, client_port: port, controller_port: port + 1 };
    (1..=known.brokers).zip(ports).map(node).collect()
}

fn check_ports(nodes: &[NodeSpec]) -> Result<(), String> {
    for port in nodes.iter().flat_map(|node| [node.client_port, node.controller_port]) {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            let why = match error.kind() {
                std::io::ErrorKind::AddrInUse => "is in use by another program".to_owned(),
                _ => format!("cannot be used ({error})"),
            };
            return Err(format!("port {port} {why}; free it, or choose other ports with --port"));
        }
    }
    Ok(())
}

fn welcome(cluster: &LocalCluster, place: &Place, took: Duration) {
    println!("A cluster of {} nodes is ready after {} ms.\n", cluster.nodes.len(), took.as_millis());
    for node in &cluster.nodes {
        let pid = cluster.pid(node.id).unwrap_or(0);
        println!(
            "  node {}   localhost:{}   pid {pid}   log {}",
            node.id,
            node.client_port,
            cluster.log_path(node.id).display()
        );
    }
    let first = cluster.nodes.first().map_or(0, |node| node.client_port);
    let copies = cluster.nodes.len().min(3);
    let kept = if place.ephemeral { "removed at the end" } else { "kept for the next time" };
    println!("\nBootstrap servers: {}\nData: {} ({kept})\n", cluster.bootstrap(), place.dir.display());
    println!("To copy:");
    println!(
        "  zwirn topics --bootstrap-server localhost:{first} --create --topic first --partitions 3 --replication-factor {copies}"
    );
    println!("  echo hello | zwirn console-producer --bootstrap-server localhost:{first} --topic first");
    println!("  zwirn console-consumer --bootstrap-server localhost:{first} --topic first --from-beginning");
    println!("From a second terminal, in this directory:");
    println!("  zwirn dev status | kill 2 | pause 2 | resume 2 | restart 2 | stop | purge");
    println!("\nCtrl-C stops the cluster.");
}

impl Supervisor {
    /// Until a signal comes, or someone asks to stop; whoever did is returned and waits for the answer.
    fn watch(&mut self, door: &Door, stop: &AtomicBool) -> Option<Asked> {
        while !stop.load(Ordering::Relaxed) {
            for id in self.cluster.ended() {
                if self.down.insert(id) {
                    let status = self.cluster.wait_exit(id, Instant::now());
                    let how = status.map_or_else(String::new, |status| format!(" ({status})"));
                    println!("Node {id} has ended by itself{how}. {}", self.cluster.last_words(id));
                }
            }
            match door.next() {
                Some(asked) if asked.command == "stop" => return Some(asked),
                Some(asked) => {
                    let result = self.obey(&asked.command);
                    if let Ok(done) = &result
                        && asked.command != "status"
                    {
                        println!("{done}");
                    }
                    asked.answer(&result);
                }
                None => std::thread::sleep(TICK),
            }
        }
        None
    }

    fn obey(&mut self, command: &str) -> Result<String, String> {
        let (verb, id) = command.split_once(' ').unwrap_or((command, ""));
        if verb == "status" {
            return Ok(self.status());
        }
        let id: i32 = id.parse().map_err(|_| format!("'{command}' names no node"))?;
        if !self.cluster.nodes.iter().any(|node| node.id == id) {
            return Err(format!("there is no node {id}; nodes are 1 to {}", self.cluster.nodes.len()));
        }
        let alive = self.cluster.pid(id).is_some();
        match verb {
            "kill" if alive => {
                self.cluster.kill(id)?;
                self.paused.remove(&id);
                self.down.insert(id);
                Ok(format!("Node {id} is killed. zwirn dev restart {id} brings it back."))
            }
            "pause" if alive => {
                self.cluster.signal(id, Signal::STOP)?;
                self.paused.insert(id);
                Ok(format!("Node {id} is frozen. zwirn dev resume {id} lets it go on."))
            }
            "resume" if self.paused.remove(&id) => {
                self.cluster.signal(id, Signal::CONT)?;
                Ok(format!("Node {id} goes on."))
            }
            "resume" => Err(format!("node {id} is not paused")),
            "restart" => self.restart(id),
            "kill" | "pause" => Err(format!("node {id} is not running; zwirn dev restart {id} starts it")),
            _ => Err(format!("unknown command '{command}'")),
        }
    }

    fn restart(&mut self, id: i32) -> Result<String, String> {
        if self.cluster.pid(id).is_some() {
            self.cluster.signal(id, Signal::CONT)?;
            self.cluster.signal(id, Signal::TERM)?;
            if self.cluster.wait_exit(id, Instant::now() + STOP_TIMEOUT).is_none() {
                self.cluster.kill(id)?;
            }
        }
        self.paused.remove(&id);
        self.cluster.start(id)?;
        self.down.remove(&id);
        let pid = self.cluster.pid(id).unwrap_or(0);
        Ok(format!("Node {id} is started, pid {pid}."))
    }

    /// A line with the cluster's id and age, then one per node: id, state, pid, port.
    fn status(&self) -> String {
        let mut out = format!("{} {}", self.cluster.cluster_id, self.begun.elapsed().as_secs());
        for node in &self.cluster.nodes {
            let pid = self.cluster.pid(node.id);
            let state = match pid {
                None => "down",
                Some(_) if self.paused.contains(&node.id) => "paused",
                Some(_) => "running",
            };
            out.push_str(&format!("\n{} {state} {} {}", node.id, pid.unwrap_or(0), node.client_port));
        }
        out
    }
}

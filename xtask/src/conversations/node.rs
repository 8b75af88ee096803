//! One combined node, of Apache Kafka or of Zwirn, with the same settings.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Broker, free_ports};
use crate::stages;

const READY_MAX: Duration = Duration::from_secs(60);

pub struct Node {
    child: Child,
    pub broker_port: u16,
    pub controller_port: u16,
}

impl Node {
    pub fn start(broker: Broker<'_>, dir: &Path) -> Result<Node, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(failed)?;
        }
        fs::create_dir_all(dir).map_err(failed)?;
        let ports = free_ports(2).map_err(failed)?;
        let (broker_port, controller_port) = (ports[0], ports[1]);
        let config = dir.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             listeners=PLAINTEXT://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}\n\
             controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@127.0.0.1:{controller_port}\n\
             log.dirs={}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\noffsets.topic.num.partitions=5\ntransaction.state.log.num.partitions=5\n\
             group.initial.rebalance.delay.ms=100\ngroup.min.session.timeout.ms=1000\n",
            dir.join("data").display(),
        );
        fs::write(&config, text).map_err(failed)?;
        stages::output(broker.format(&config))?;
        let out = File::create(dir.join("server.log")).map_err(failed)?;
        let mut command = broker.server(&config);
        command.current_dir(dir).stdin(Stdio::null()).stdout(out.try_clone().map_err(failed)?).stderr(out);
        let child = command.spawn().map_err(failed)?;
        let mut node = Node { child, broker_port, controller_port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", broker_port)).is_err() {
            let ended = node.child.try_wait().ok().flatten();
            if ended.is_some() || started.elapsed() > READY_MAX {
                return Err(format!("{} does not come up: see {}", broker.name(), dir.join("server.log").display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A configuration file: any text is read, or refused with words.

use std::fmt::Write;

use metadata::config::{NodeConfig, TopicConfig};

use crate::memory::Bound;

/// Every key has its descriptions and its place among the settings, whatever the file says.
const BOUND: Bound = Bound { anyway: 4 << 20, per_byte: 4096 };

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    BOUND.hold(text.len(), || match NodeConfig::from_text(&text, "server.properties", &[]) {
        Ok((config, warnings)) => {
            TopicConfig::effective(None, None, &config);
            show(warnings.iter());
        }
        Err(errors) => show(errors.iter()),
    });
}

fn show<T: std::fmt::Display>(items: impl Iterator<Item = T>) {
    let mut shown = String::new();
    for item in items {
        shown.clear();
        let _ = write!(shown, "{item}");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let node = "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://a:9092,CONTROLLER://:9093\n\
                controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@a:9093\nlog.dirs=/a,/b\n";
    let others = [
        "log.retention.hours=1\nlog.retention.ms=-1\nlog.segment.bytes=1048576\nlog.roll.jitter.hours=1\n",
        "num.partitions = 3\\\n  4\nkey\\:a: b\n! comment\n# comment\nadvertised.listeners=PLAINTEXT://\\u00e4:1\n",
        "listener.security.protocol.map=A:PLAINTEXT,CONTROLLER:PLAINTEXT\nconfig.providers=file\na=${file:/x:y}\n",
        "min.insync.replicas=2\ncleanup.policy=compact\nlog.cleanup.policy=delete,compact\nbroker.rack=r\n",
        "controller.quorum.bootstrap.servers=a:1,[::1]:2\ngroup.max.size=0\nmessage.max.bytes=999999999999\n",
    ];
    let mut out: Vec<Vec<u8>> = others.iter().map(|other| format!("{node}{other}").into_bytes()).collect();
    out.push(node.as_bytes().to_vec());
    out
}

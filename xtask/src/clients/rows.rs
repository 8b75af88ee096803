//! The clients, and how each of them is got and started.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use super::install::{self, Installed};
use crate::stories::Env;

pub struct Row {
    pub name: &'static str,
    /// Under `tests/clients`.
    dir: &'static str,
    how: How,
    /// What it plays of the plot; of [`EVERYTHING`] the programs know themselves what their clients have.
    parts: &'static str,
}

const EVERYTHING: &str = "ledger,consumer,shapes,admin,transactions";

enum How {
    /// Sources of Java, the first with `main`, and jars from Maven Central: `group:artifact:version`. No jars are those of
    /// the distribution of Kafka that is here anyway.
    Java {
        sources: &'static [&'static str],
        jars: &'static [&'static str],
    },
    /// A program of `tests/clients/python`; the file of the same name with `.txt` locks what it needs.
    Python {
        program: &'static str,
    },
    Go,
    Node,
}

pub const ROWS: &[Row] = &[
    Row { name: "java", dir: "java", how: How::Java { sources: &["Ledger.java"], jars: &[] }, parts: EVERYTHING },
    Row {
        name: "java-3.9",
        dir: "java",
        how: How::Java { sources: &["Ledger.java"], jars: &["org.apache.kafka:kafka-clients:3.9.2", install::SLF4J] },
        parts: EVERYTHING,
    },
    Row { name: "librdkafka", dir: "python", how: How::Python { program: "ledger_confluent" }, parts: EVERYTHING },
    Row { name: "franz-go", dir: "franz-go", how: How::Go, parts: EVERYTHING },
    Row { name: "sarama", dir: "sarama", how: How::Go, parts: EVERYTHING },
    Row { name: "kafkajs", dir: "kafkajs", how: How::Node, parts: EVERYTHING },
    Row { name: "kafka-python", dir: "python", how: How::Python { program: "ledger_kafka_python" }, parts: EVERYTHING },
    Row { name: "aiokafka", dir: "python", how: How::Python { program: "ledger_aiokafka" }, parts: EVERYTHING },
    Row {
        name: "streams",
        dir: "java",
        how: How::Java {
            sources: &["Streams.java", "Ledger.java"],
            jars: &["org.apache.kafka:kafka-streams:4.3.1", install::SLF4J],
        },
        parts: "streams",
    },
    Row {
        name: "connect",
        dir: "java",
        how: How::Java {
            sources: &["Connect.java", "Ledger.java"],
            jars: &["org.apache.kafka:connect-runtime:4.3.1", "org.apache.kafka:connect-file:4.3.1", install::SLF4J],
        },
        parts: "connect",
    },
];

impl Row {
    /// Those of the wanted parts that it plays.
    pub fn parts(&self, wanted: &str) -> Result<String, Failure> {
        let is_wanted = |part: &&str| wanted.split(',').any(|wanted| wanted == *part);
        let parts: Vec<&str> = self.parts.split(',').filter(is_wanted).collect();
        if parts.is_empty() {
            return Err(Failure::LeftOut(format!("{} is not among the parts that are played ({wanted})", self.parts)));
        }
        Ok(parts.join(","))
    }

    /// Gets the client unless it is there already; `Err` says why it cannot be had.
    pub fn install(&self, root: &Path, env: &Env) -> Result<Installed, Failure> {
        let source = root.join("tests/clients").join(self.dir);
        let place = crate::stages::target_dir(root).join("clients").join(self.name);
        match &self.how {
            How::Java { sources, jars } => {
                let sources: Vec<PathBuf> = sources.iter().map(|file| source.join(file)).collect();
                if jars.is_empty() {
                    let kafka = env.kafka.as_ref().map_err(|why| Failure::LeftOut(why.clone()))?;
                    return install::java(&sources, kafka.libs(), &place);
                }
                install::jars(&place, jars)?;
                install::java(&sources, &place.join("libs"), &place)
            }
            How::Python { program } => install::python(&source.join(program), &place),
            How::Go => install::go(&source, &place),
            How::Node => install::node(&source, &place),
        }
    }
}

impl Installed {
    /// The program with its arguments, `key=value` each.
    pub fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).args(args).envs(self.envs.iter().map(|(key, value)| (key, value)));
        command
    }
}

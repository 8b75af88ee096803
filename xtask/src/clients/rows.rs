//! The clients, and how each of them is got and started.

use std::path::Path;
use std::process::Command;

use super::Failure;
use super::install::{self, Installed};
use crate::stories::Env;

pub struct Row {
    pub name: &'static str,
    /// Under `tests/clients`.
    dir: &'static str,
    how: How,
}

enum How {
    /// One source file of Java with the jars of the distribution.
    Java {
        source: &'static str,
    },
    /// The same with other jars from Maven Central: `group:artifact:version`.
    JavaWith {
        source: &'static str,
        jars: &'static [&'static str],
    },
    /// A program of `tests/clients/python`; the file of the same name with `.txt` locks what it needs.
    Python { program: &'static str },
    Go,
}

pub const ROWS: &[Row] = &[
    Row { name: "java", dir: "java", how: How::Java { source: "Ledger.java" } },
    Row {
        name: "java-3.9",
        dir: "java",
        how: How::JavaWith { source: "Ledger.java", jars: &["org.apache.kafka:kafka-clients:3.9.2", install::SLF4J] },
    },
    Row { name: "librdkafka", dir: "python", how: How::Python { program: "ledger_confluent" } },
    Row { name: "franz-go", dir: "franz-go", how: How::Go },
    Row { name: "kafka-python", dir: "python", how: How::Python { program: "ledger_kafka_python" } },
    Row { name: "aiokafka", dir: "python", how: How::Python { program: "ledger_aiokafka" } },
];

impl Row {
    /// Gets the client unless it is there already; `Err` says why it cannot be had.
    pub fn install(&self, root: &Path, env: &Env) -> Result<Installed, Failure> {
        let source = root.join("tests/clients").join(self.dir);
        let place = crate::stages::target_dir(root).join("clients").join(self.name);
        match &self.how {
            How::Java { source: file } => {
                let kafka = env.kafka.as_ref().map_err(|why| Failure::LeftOut(why.clone()))?;
                Ok(install::java(&source.join(file), kafka.libs()))
            }
            How::JavaWith { source: file, jars } => {
                install::jars(&place, jars)?;
                Ok(install::java(&source.join(file), &place.join("libs")))
            }
            How::Python { program } => install::python(&source.join(program), &place),
            How::Go => install::go(&source, &place),
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

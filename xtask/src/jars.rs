//! Apache Kafka's jars from Maven Central, for tests that compare with it or use its tools. Kept in `target/kafka`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stages::{self, has_program};

pub const KAFKA_VERSION: &str = "4.3.1";
const LOG4J_VERSION: &str = "2.25.4";

/// A JVM and the jars, ready to run any of Kafka's main classes.
pub struct Kafka {
    libs: PathBuf,
    log_config: PathBuf,
}

/// Why there is none.
pub struct Missing(pub String);

impl Kafka {
    /// The jars that are there, or else those of Maven Central.
    pub fn get(root: &Path) -> Result<Kafka, Missing> {
        if !has_program("java") {
            return Err(Missing("there is no JDK (java is not on the path)".to_owned()));
        }
        let dir = root.join("target/kafka");
        let libs = dir.join("libs");
        if !is_complete(&libs) {
            if !has_program("mvn") {
                return Err(Missing("mvn is not on the path, and the jars of Apache Kafka are not here".to_owned()));
            }
            println!("    fetching Apache Kafka {KAFKA_VERSION} into {}", libs.display());
            fetch(&dir, &libs).map_err(Missing)?;
        }
        let log_config = dir.join("log4j2.xml");
        fs::write(&log_config, LOG4J_CONFIG).map_err(|e| Missing(format!("{}: {e}", log_config.display())))?;
        Ok(Kafka { libs, log_config })
    }

    pub fn libs(&self) -> &Path {
        &self.libs
    }

    /// `java <main class>`, with a heap limit for tools; arguments are added by the caller.
    pub fn tool(&self, class: &str) -> Command {
        self.java(class, &["-Xmx256m"])
    }

    /// Runs a program of one source file, compiled as it starts.
    pub fn java_source(&self, source: &Path, options: &[&str]) -> Command {
        let mut command = self.java(&source.to_string_lossy(), options);
        command.stdin(std::process::Stdio::piped());
        command
    }

    /// A JVM with these options.
    pub fn java(&self, class: &str, options: &[&str]) -> Command {
        let mut command = Command::new("java");
        command.args(options);
        command.arg(format!("-Dlog4j2.configurationFile={}", self.log_config.display()));
        command.arg("-cp").arg(self.libs.join("*")).arg(class);
        command
    }
}

/// Whether a run of maven has come to its end here.
fn is_complete(libs: &Path) -> bool {
    let has = |name: String| libs.join(name).is_file();
    ["kafka_2.13", "kafka-tools", "kafka-shell", "kafka-clients"]
        .iter()
        .all(|a| has(format!("{a}-{KAFKA_VERSION}.jar")))
        && has(format!("log4j-slf4j-impl-{LOG4J_VERSION}.jar"))
}

fn fetch(dir: &Path, libs: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(failed)?;
    let pom = dir.join("pom.xml");
    fs::write(&pom, pom_text()).map_err(failed)?;
    // Into a directory of its own first: what is there under the final name is complete.
    let part = dir.join("libs.part");
    let mut command = Command::new("mvn");
    command.current_dir(dir).args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
    command.arg(format!("-DoutputDirectory={}", part.display()));
    stages::run(command)?;
    if libs.exists() {
        fs::remove_dir_all(libs).map_err(failed)?;
    }
    fs::rename(&part, libs).map_err(failed)
}

fn pom_text() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    let mut dependencies = String::new();
    for artifact in ["kafka_2.13", "kafka-tools", "kafka-shell"] {
        dependencies += &dependency("org.apache.kafka", artifact, KAFKA_VERSION);
    }
    dependencies += &dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION);
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>zwirn</groupId><artifactId>kafka-jars</artifactId><version>1</version>\n  \
         <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

/// Warnings and worse, on standard error: what tools print on standard output is compared.
const LOG4J_CONFIG: &str = r#"<Configuration status="error">
  <Appenders><Console name="stderr" target="SYSTEM_ERR"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="stderr"/></Root></Loggers>
</Configuration>
"#;

pub fn run(root: &Path) -> Result<(), String> {
    Kafka::get(root).map(drop).map_err(|missing| missing.0)
}

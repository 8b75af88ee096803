//! The same conversations with Apache Kafka and with Zwirn: every API that we advertise, in every version, asked for
//! ordinary and for faulty things, and the answers compared field by field. The scripts are in `xtask/conversations`
//! (`script.rs` has their notation), with what may differ in `rules.txt` and deliberate differences beside the requests.

mod answer;
pub mod batch;
mod codec;
mod compare;
pub mod document;
pub mod node;
mod rules;
mod script;
mod talk;

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::cluster::Broker;
use crate::stages::{self, Outcome};
use codec::Schema;
use rules::Rules;
use script::Script;
use talk::Said;

const SCRIPTS: &str = "xtask/conversations";

/// `cargo xtask conversations [NAME]...`: some or all, with every difference.
pub fn run(root: &Path, names: &[&str]) -> Result<(), String> {
    let kafka = crate::jars::Kafka::get(root).map_err(|missing| missing.0)?;
    hold(root, names, &kafka).map(|summary| println!("{summary}"))
}

/// The stage of CI: all scripts but the slow ones.
pub fn stage(root: &Path) -> Result<Outcome, String> {
    match crate::jars::Kafka::get(root) {
        Ok(kafka) => hold(root, &["quick"], &kafka).map(Outcome::Note),
        Err(missing) => Ok(Outcome::LeftOut(missing.0)),
    }
}

fn hold(root: &Path, names: &[&str], kafka: &crate::jars::Kafka) -> Result<String, String> {
    let binary = crate::stories::release_binary(root)?;
    let result = Work::new(root, names)?.compare(kafka, &binary)?;
    for fault in &result.faults {
        println!("{fault}");
    }
    let Counts { requests, fields, deliberate } = result.counts;
    let faults = result.faults.len();
    let summary =
        format!("{requests} requests, {fields} fields compared, {deliberate} differ on purpose, {faults} faults");
    if faults == 0 { Ok(summary) } else { Err(format!("the answers differ: {summary}")) }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn schema(root: &Path) -> Result<Schema, String> {
    Ok(Schema::parse(&read(&root.join("crates/protocol/schema/rpc.txt"))?))
}

/// All scripts by name, and the rules.
fn scripts(root: &Path) -> Result<(Vec<Script>, Rules), String> {
    let mut files: Vec<_> = fs::read_dir(root.join(SCRIPTS))
        .map_err(|e| format!("{SCRIPTS}: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let mut scripts = Vec::new();
    let mut rules = Rules::default();
    for file in files {
        let name = file.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match name.as_str() {
            "rules" => rules = Rules::parse(&read(&file)?)?,
            _ => scripts.push(script::parse(&name, &read(&file)?)?),
        }
    }
    Ok((scripts, rules))
}

struct Work {
    dir: std::path::PathBuf,
    schema: Schema,
    rules: Rules,
    scripts: Vec<Script>,
}

#[derive(Default)]
pub struct Counts {
    pub requests: usize,
    pub fields: usize,
    pub deliberate: usize,
}

#[derive(Default)]
pub struct Compared {
    pub counts: Counts,
    pub faults: Vec<String>,
}

impl Work {
    fn new(root: &Path, names: &[&str]) -> Result<Work, String> {
        let schema = schema(root)?;
        let (mut scripts, rules) = scripts(root)?;
        match names {
            [] => {}
            ["quick"] => scripts.retain(|script| !script.is_slow),
            _ => scripts.retain(|script| names.contains(&script.name.as_str())),
        }
        let dir = stages::target_dir(root).join("conversations");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Work { dir, schema, rules, scripts })
    }

    /// Both are talked to at the same time; what they said is kept beside each other.
    fn compare(&self, kafka: &crate::jars::Kafka, binary: &Path) -> Result<Compared, String> {
        let (theirs, ours) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| self.talk_to(Broker::Kafka(kafka)));
            let ours = scope.spawn(|| self.talk_to(Broker::Zwirn(binary)));
            (theirs.join(), ours.join())
        });
        let failed = |_| "a conversation ended with a panic".to_owned();
        let (theirs, ours) = (theirs.map_err(failed)??, ours.map_err(failed)??);
        let mut result = Compared::default();
        for (script, (theirs, ours)) in self.scripts.iter().zip(theirs.iter().zip(&ours)) {
            compare::script(script, theirs, ours, &self.rules, &mut result);
        }
        Ok(result)
    }

    fn talk_to(&self, broker: Broker<'_>) -> Result<Vec<Vec<Said>>, String> {
        let started = Instant::now();
        let node = node::Node::start(broker, &self.dir.join(broker.name()))?;
        let mut all = Vec::new();
        let mut transcript = String::new();
        let mut failed = Ok(());
        for script in &self.scripts {
            let (said, end) = talk::hold(script, &self.schema, &self.rules, &node);
            said.iter().for_each(|s| transcript += &s.shown());
            all.push(said);
            if let Err(why) = end {
                failed = Err(format!("{} in conversation {}: {why}", broker.name(), script.name));
                break;
            }
        }
        let path = self.dir.join(format!("{}.txt", broker.name()));
        fs::write(&path, transcript).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("    {}: {:.1} s; {}", broker.name(), started.elapsed().as_secs_f64(), path.display());
        failed.map(|()| all)
    }
}

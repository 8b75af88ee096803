//! `cargo xtask tools [--broker HOST:PORT] [NAME]...`: Apache Kafka's command-line tools and ours with the same command
//! lines, against one broker of Apache Kafka, and what they say compared.
//!
//! The cases are in `xtask/tools`, a file per tool. A line is a verb and a command line; `$B` is the broker's address.
//! `prepare` runs ours once; `before` runs ours before each of the two that the next case compares; `stdin "text"` is
//! what the next case reads; `same` compares every word; `like` takes all numbers for equal, which is right for
//! measurements; `wait 2` waits so many seconds; `cut 2` runs ours and kills it after so many.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::Broker;
use crate::conversations::node::Node;
use crate::jars::Kafka;
use crate::stages::{Outcome, target_dir};
use crate::stories::release_binary;

const CASES: &str = "xtask/tools";
/// What CI compares; all of it takes minutes, as each line starts two JVMs.
const SHORT: [&str; 1] = ["console-producer"];
/// A tool that is not done by then never will be.
const LIMIT: Duration = Duration::from_secs(60);

const CLASSES: &[(&str, &str)] = &[
    ("client-metrics", "ClientMetricsCommand"),
    ("console-consumer", "consumer.ConsoleConsumer"),
    ("console-producer", "ConsoleProducer"),
    ("consumer-groups", "consumer.group.ConsumerGroupCommand"),
    ("consumer-perf-test", "ConsumerPerformance"),
    ("e2e-latency", "EndToEndLatency"),
    ("get-offsets", "GetOffsetShell"),
    ("groups", "GroupsCommand"),
    ("producer-perf-test", "ProducerPerformance"),
    ("transactions", "TransactionsCommand"),
    ("verifiable-consumer", "VerifiableConsumer"),
    ("verifiable-producer", "VerifiableProducer"),
];

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let kafka = Kafka::get(root).map_err(|missing| missing.0)?;
    let (broker, names) = match args {
        ["--broker", broker, names @ ..] => (Some((*broker).to_owned()), names),
        names => (None, names),
    };
    println!("{}", compare(root, &kafka, broker, names)?);
    Ok(())
}

pub fn stage(root: &Path) -> Result<Outcome, String> {
    match Kafka::get(root) {
        Ok(kafka) => compare(root, &kafka, None, &SHORT).map(Outcome::Note),
        Err(missing) => Ok(Outcome::LeftOut(missing.0)),
    }
}

fn compare(root: &Path, kafka: &Kafka, broker: Option<String>, names: &[&str]) -> Result<String, String> {
    let ours = release_binary(root)?;
    let node = match broker {
        Some(_) => None,
        None => Some(Node::start(Broker::Kafka(kafka), &target_dir(root).join("tools"))?),
    };
    let address = broker.or(node.as_ref().map(|node| format!("127.0.0.1:{}", node.broker_port))).unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(root.join(CASES))
        .map_err(|e| format!("{CASES}: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| names.is_empty() || path.file_stem().is_some_and(|stem| names.iter().any(|name| stem == *name)))
        .collect();
    files.sort();
    let mut bench = Bench { kafka, ours: &ours, address: &address, before: vec![], stdin: String::new(), same: 0 };
    let mut faults = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        println!("    {}", file.file_stem().unwrap_or_default().display());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Err(fault) = bench.line(line) {
                println!("        DIFFERS: {fault}");
                faults.push(fault);
            }
        }
    }
    drop(node);
    match faults.len() {
        0 => Ok(format!("{} command lines say the same", bench.same)),
        n => Err(format!("{n} command lines differ, {} say the same\n{}", bench.same, faults.join("\n"))),
    }
}

struct Bench<'b> {
    kafka: &'b Kafka,
    ours: &'b Path,
    address: &'b str,
    /// Command lines that each side wants run first.
    before: Vec<Vec<String>>,
    stdin: String,
    same: usize,
}

impl Bench<'_> {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<String> = words(rest)?.into_iter().map(|word| word.replace("$B", self.address)).collect();
        match verb {
            "stdin" => self.stdin = words.join(" ").replace("\\n", "\n").replace("\\t", "\t"),
            "wait" => std::thread::sleep(Duration::from_secs(rest.parse().map_err(|e| format!("{line}: {e}"))?)),
            "prepare" => {
                let said = self.ours(&words)?;
                self.stdin.clear();
                if said.code != Some(0) {
                    return Err(format!("{line}: {:?} {}{}", said.code, said.out, said.err));
                }
            }
            "cut" => {
                let (seconds, words) = words.split_first().ok_or("cut: how many seconds?")?;
                let seconds = seconds.parse().map_err(|e| format!("{line}: {e}"))?;
                let mut command = Command::new(self.ours);
                command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut child = command.spawn().map_err(|e| format!("{line}: {e}"))?;
                std::thread::sleep(Duration::from_secs(seconds));
                let _ = child.kill();
                let _ = child.wait();
            }
            "before" => self.before.push(words),
            "same" | "like" => {
                for before in self.before.clone() {
                    self.ours(&before)?;
                }
                let theirs = self.theirs(&words)?;
                for before in std::mem::take(&mut self.before) {
                    self.ours(&before)?;
                }
                let ours = self.ours(&words)?;
                self.stdin.clear();
                let mask = if verb == "like" { shape } else { masked };
                for (what, theirs, ours) in [("stdout", &theirs.out, &ours.out), ("stderr", &theirs.err, &ours.err)] {
                    if let Some(difference) = difference(&mask(theirs), &mask(ours)) {
                        return Err(format!("{rest}\n{what}\n{difference}"));
                    }
                }
                if theirs.code != ours.code {
                    return Err(format!("{rest}\nexit {:?} and {:?}", theirs.code, ours.code));
                }
                self.same += 1;
            }
            _ => return Err(format!("{line}: what is {verb}?")),
        }
        Ok(())
    }

    fn theirs(&self, words: &[String]) -> Result<Said, String> {
        let (name, args) = words.split_first().ok_or("a command line is empty")?;
        let class = CLASSES.iter().find(|(tool, _)| tool == name).ok_or_else(|| format!("no class of {name}"))?.1;
        let mut command = self.kafka.java(
            &format!("org.apache.kafka.tools.{class}"),
            &["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
        );
        command.args(args);
        said(command, &self.stdin)
    }

    fn ours(&self, words: &[String]) -> Result<Said, String> {
        let mut command = Command::new(self.ours);
        command.args(words);
        said(command, &self.stdin)
    }
}

/// As a shell splits them: blanks, single and double quotes.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (None, ' ') => {
                if is_word {
                    out.push(std::mem::take(&mut word));
                }
                is_word = false;
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => word.push(c),
        }
        is_word = true;
    }
    if quote.is_some() {
        return Err(format!("{line}: a quote is not closed"));
    }
    if is_word {
        out.push(word);
    }
    Ok(out)
}

struct Said {
    out: String,
    err: String,
    code: Option<i32>,
}

fn said(mut command: Command, stdin: &str) -> Result<Said, String> {
    let name = command.get_program().display().to_string();
    let failed = |e: std::io::Error| format!("{name}: {e}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who does not read it has closed it.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let pid = child.id();
    let waiting = std::thread::spawn(move || child.wait_with_output());
    let start = Instant::now();
    while !waiting.is_finished() {
        if start.elapsed() > LIMIT {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = waiting.join().map_err(|_| format!("{name}: waiting failed"))?.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { out: text(&output.stdout), err: text(&output.stderr), code: output.status.code() })
}

/// A mistake is followed by help, which each has in its own words. The names that it lists are in an order that differs
/// from run to run.
fn difference(kafka: &str, zwirn: &str) -> Option<String> {
    if kafka == zwirn {
        return None;
    }
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let sorted = |text: &str| {
        let mut words: Vec<String> = first(text).split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
        words.sort();
        words
    };
    let has_help = kafka.contains("\n------") || kafka.contains("usage: ");
    if has_help && sorted(kafka) == sorted(zwirn) {
        return None;
    }
    if kafka.starts_with("usage: ") && mistake(kafka) == mistake(zwirn) {
        return None;
    }
    let both = kafka.lines().zip(zwirn.lines()).find(|(kafka, zwirn)| kafka != zwirn);
    let (kafka, zwirn) = match both {
        Some((kafka, zwirn)) => (kafka, zwirn),
        None => {
            let common = kafka.lines().count().min(zwirn.lines().count());
            (kafka.lines().nth(common).unwrap_or("(no more)"), zwirn.lines().nth(common).unwrap_or("(no more)"))
        }
    };
    Some(format!("kafka: {kafka}\nzwirn: {zwirn}"))
}

/// What is said behind the help, whose lines Kafka's parser breaks at blanks and dashes.
fn mistake(text: &str) -> String {
    text.rsplit_once("error: ").map_or(String::new(), |(_, mistake)| mistake.split_whitespace().collect())
}

/// Without what differs from run to run: dates, ids, moments, and where in Java something happened.
fn masked(text: &str) -> String {
    without_dates(text).lines().map(|line| format!("{}\n", without_ids(line))).collect()
}

fn without_dates(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !is_trace(line)) {
        match line.split_once("] ") {
            Some((date, rest)) if date.starts_with("[20") => out.push_str(&format!("[date] {rest}\n")),
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

fn is_trace(line: &str) -> bool {
    line.starts_with("\tat ") || line.starts_with("Caused by: ") || line.starts_with("\t... ") || line.is_empty()
}

/// Numbers of ten digits and more, and UUIDs.
fn without_ids(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let is_uuid = |c: char| c.is_ascii_hexdigit() || c == '-';
        let len = rest.find(|c| !is_uuid(c)).unwrap_or(rest.len());
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if len >= 36 && rest[..36].matches('-').count() == 4 {
            out.push_str("UUID");
            rest = &rest[36..];
        } else if digits >= 10 {
            out.push('N');
            rest = &rest[digits..];
        } else {
            let step = digits.max(1).max(rest.chars().next().map_or(1, char::len_utf8));
            out.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    out
}

/// Every number is one, whatever its length, and the blanks that fill a column are one blank.
fn shape(text: &str) -> String {
    let mut out = String::new();
    for c in without_dates(text).chars() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        if is_number(c) && out.ends_with('0') || c == ' ' && out.ends_with(' ') {
            continue;
        }
        out.push(if c.is_ascii_digit() { '0' } else { c });
    }
    out
}

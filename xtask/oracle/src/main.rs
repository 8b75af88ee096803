//! The codec oracle: Apache Kafka's own generated classes and our codec are given the same bytes, and have to make the
//! same of them. Started by `cargo xtask oracle`, which compiles `Oracle.java` and finds the jars; a program of its own,
//! so that xtask can generate the codec even while it does not compile. Start with `exchange`.

mod compare;
mod files;
mod kafka;
mod mutate;
#[allow(dead_code, reason = "the parts that only code generation needs")]
#[path = "../../src/codegen/schema.rs"]
mod schema;
#[path = "../../../crates/protocol/tests/support/shown.rs"]
mod shown;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use fastrand::Rng;
use protocol::api::ApiKey;
use protocol::messages::MetadataRecord;
use protocol::registry::{self, Entry, ReencodeError};
use protocol::wire::{DecodeError, Reader};

use compare::{Findings, hex};
use kafka::{Answer, Kafka, Question};
use schema::Message;

/// Written by hand in Kafka and compared by hand here.
const NOT_GENERATED: &[&str] = &["AbortedTxn"];
/// Damaged forms of each value.
const DAMAGED_PER_VALUE: usize = 3;
/// Values of one version that are exchanged at once.
const BATCH: u64 = 64;

const USAGE: &str = "usage: oracle --classes DIR --libs DIR [--values N] [--seed S] [--only MESSAGE]";

struct Args {
    classes: String,
    libs: String,
    values: u64,
    seed: u64,
    only: Option<String>,
}

fn args() -> Result<Args, String> {
    let mut out = Args { classes: String::new(), libs: String::new(), values: 24, seed: 1, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--classes" => out.classes = value,
            "--libs" => out.libs = value,
            "--values" => out.values = number()?,
            "--seed" => out.seed = number()?,
            "--only" => out.only = Some(value),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(out)
}

fn main() -> ExitCode {
    match args().and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// A message that both sides have.
struct Subject {
    /// Kafka's number for it.
    index: i16,
    entry: &'static Entry,
    schema: Message,
    /// Is written into the metadata log, in a frame.
    is_metadata_record: bool,
}

fn run(args: &Args) -> Result<(), String> {
    let start = Instant::now();
    let mut kafka = Kafka::start(jvm(args)?)?;
    let mut findings = Findings::default();
    let subjects = subjects(&kafka, &mut findings)?;
    let (mut messages, mut versions) = (0, 0);
    for subject in &subjects {
        if args.only.as_deref().is_some_and(|only| only != subject.entry.name) {
            continue;
        }
        messages += 1;
        for version in subject.entry.versions.clone() {
            versions += 1;
            let mut done = 0;
            while done < args.values {
                let n = BATCH.min(args.values - done);
                exchange(&mut kafka, &mut findings, subject, version, args.seed.wrapping_add(done), n)?;
                done += n;
            }
        }
    }
    aborted_txns(&mut kafka, &mut findings, args)?;
    let files = files::compare(&mut kafka, &mut findings, args.values, args.seed)?;
    let headers = header_versions(&mut kafka, &mut findings)?;
    kafka.stop()?;
    println!(
        "{messages} messages in {versions} versions: {} values of Kafka's, {} of ours, {} taken to another version, \
         {} damaged ({} refused by both); header versions of {headers} API versions; {files} state files; seed {}, {:.1} s",
        findings.from_kafka,
        findings.from_us,
        findings.transcoded,
        findings.damaged,
        findings.both_refused,
        args.seed,
        start.elapsed().as_secs_f64()
    );
    findings.report()
}

fn jvm(args: &Args) -> Result<Command, String> {
    let mut command = Command::new("java");
    // Short runs of many classes: the first compiler does.
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(format!("{}:{}/*", args.classes, args.libs)).arg("Oracle");
    let entries = std::fs::read_dir(&args.libs).map_err(|e| format!("{}: {e}", args.libs))?;
    let mut jars: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    jars.retain(|jar| jar.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kafka-")));
    jars.sort();
    command.args(jars);
    Ok(command)
}

/// Every message of either side has to be one of the other's, with the same versions and number.
fn subjects(kafka: &Kafka, findings: &mut Findings) -> Result<Vec<Subject>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/protocol/schema");
    let mut schemas: BTreeMap<String, (Message, bool)> = BTreeMap::new();
    for file in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten() {
        let text = std::fs::read_to_string(file.path()).map_err(|e| format!("{}: {e}", file.path().display()))?;
        let is_metadata_record = file.file_name() == "metadata-records.txt";
        let messages = schema::parse(&text).into_iter();
        schemas.extend(messages.map(|message| (message.name.clone(), (message, is_metadata_record))));
    }
    let mut out = Vec::new();
    for (index, theirs) in kafka.messages.iter().enumerate() {
        let name = theirs.name.strip_suffix("Data").filter(|name| registry::find(name).is_some());
        let name = name.unwrap_or(&theirs.name);
        let Some((entry, (schema, is_metadata_record))) = registry::find(name).zip(schemas.remove(name)) else {
            findings.fault(name, "is in Kafka's jars and not in our schema".to_owned());
            continue;
        };
        let api_key = schema.attributes.get("apiKey").map_or(-1, |key| key.parse().unwrap_or(-1));
        if theirs.versions != entry.versions || theirs.api_key != api_key {
            let (ours, theirs) = ((&entry.versions, api_key), (&theirs.versions, theirs.api_key));
            findings.fault(name, format!("has versions and api key {theirs:?} in Kafka, not {ours:?}"));
        }
        out.push(Subject { index: index as i16, entry, schema, is_metadata_record });
    }
    for name in schemas.keys().filter(|name| !NOT_GENERATED.contains(&name.as_str())) {
        findings.fault(name, "is in our schema and not in Kafka's jars".to_owned());
    }
    Ok(out)
}

/// Bytes that one side is asked about, and what the question is called.
struct Case {
    what: String,
    bytes: Vec<u8>,
    to: i16,
}

/// Random values of one version: Kafka's to us, ours to Kafka, both damaged, and Kafka's taken to another version.
fn exchange(
    kafka: &mut Kafka,
    findings: &mut Findings,
    subject: &Subject,
    version: i16,
    seed: u64,
    n: u64,
) -> Result<(), String> {
    let name = subject.entry.name;
    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((subject.index as u64) << 32) ^ ((version as u64) << 48);
    let mut rng = Rng::with_seed(seed);
    let questions: Vec<Question> =
        (0..n).map(|i| Question::generate(subject.index, version, seed.wrapping_add(i))).collect();
    let asked = |e: String| format!("{name} v{version}: {e}");
    let mut values = Vec::new();
    for answer in kafka.ask(&questions).map_err(asked)? {
        match answer {
            Answer::Done { bytes, .. } => values.push(bytes),
            other => return Err(asked(format!("no random value: {other:?}"))),
        }
    }
    kafkas_values(kafka, findings, subject, version, &values).map_err(asked)?;

    let mut cases = Vec::new();
    for value in &values {
        let to = rng.i16(subject.entry.versions.clone());
        findings.transcoded += u64::from(to != version);
        cases.push(Case { what: format!("v{version} to v{to}"), bytes: value.clone(), to });
    }
    for _ in 0..n {
        let bytes = values::random(&subject.schema, version, &mut rng);
        cases.push(Case { what: format!("v{version} of ours"), bytes, to: version });
        findings.from_us += 1;
    }
    for i in 0..cases.len() * DAMAGED_PER_VALUE {
        let (one, other) = (&cases[i / DAMAGED_PER_VALUE], rng.usize(0..values.len()));
        let bytes = mutate::damage(&mut rng, &one.bytes, &values[other]);
        cases.push(Case { what: format!("v{version} damaged"), bytes, to: version });
        findings.damaged += 1;
    }
    let questions: Vec<Question> =
        cases.iter().map(|case| Question::reencode(subject.index, version, case.to, &case.bytes)).collect();
    for (case, answer) in cases.iter().zip(kafka.ask(&questions).map_err(asked)?) {
        let ours = subject.entry.transcode(&case.bytes, version, case.to);
        findings.compare(name, &case.what, &case.bytes, &answer, &ours);
    }
    if subject.is_metadata_record {
        metadata_values(kafka, findings, subject, version, &cases, &mut rng).map_err(asked)?;
    }
    Ok(())
}

/// What Kafka wrote comes back as it was, and every field holds what Kafka says that it holds.
fn kafkas_values(
    kafka: &mut Kafka,
    findings: &mut Findings,
    subject: &Subject,
    version: i16,
    values: &[Vec<u8>],
) -> Result<(), String> {
    let entry = subject.entry;
    let questions: Vec<Question> = values.iter().map(|bytes| Question::json(subject.index, version, bytes)).collect();
    for (bytes, answer) in values.iter().zip(kafka.ask(&questions)?) {
        findings.from_kafka += 1;
        let same = Answer::Done { bytes: bytes.clone(), left: 0 };
        findings.compare(entry.name, &format!("v{version} of Kafka's"), bytes, &same, &entry.reencode(bytes, version));
        let Answer::Done { bytes: json, .. } = answer else { return Err(format!("no JSON: {answer:?}")) };
        let json = serde_json::from_slice(&json).map_err(|e| format!("JSON: {e}"))?;
        let shown = entry.debug(bytes, version).map_err(|e| e.to_string());
        if let Err(e) = shown.and_then(|shown| shown::assert_shows(&shown, &json)) {
            findings.fault(
                entry.name,
                format!("v{version} of Kafka's means something else to us: {e}\n    {}", hex(bytes)),
            );
        }
    }
    Ok(())
}

/// The same bytes in the frame that metadata records have in the log; sometimes it is the frame that is damaged.
fn metadata_values(
    kafka: &mut Kafka,
    findings: &mut Findings,
    subject: &Subject,
    version: i16,
    cases: &[Case],
    rng: &mut Rng,
) -> Result<(), String> {
    let key: u8 = subject.schema.attributes["apiKey"].parse().map_err(|e| format!("api key: {e}"))?;
    let mut frames = Vec::new();
    for case in cases.iter().filter(|case| case.to == version) {
        let mut frame = vec![1, key, version as u8];
        if rng.u8(0..8) == 0 {
            frame = mutate::damage(rng, &frame, &[]);
        }
        frame.extend_from_slice(&case.bytes);
        frames.push(frame);
    }
    let questions: Vec<Question> = frames.iter().map(|frame| Question::metadata_value(frame)).collect();
    for (frame, answer) in frames.iter().zip(kafka.ask(&questions)?) {
        let ours = metadata_value(frame);
        findings.compare(subject.entry.name, &format!("v{version} as a record's value"), frame, &answer, &ours);
    }
    Ok(())
}

fn metadata_value(frame: &[u8]) -> Result<Vec<u8>, ReencodeError> {
    let record = MetadataRecord::decode(frame).map_err(ReencodeError::Decode)?;
    let mut head = Reader::new(frame);
    let mut number = || head.uvarint().map_err(ReencodeError::Decode);
    let (_, _, version) = (number()?, number()?, number()?);
    let version = i16::try_from(version).map_err(|_| ReencodeError::Decode(DecodeError::BadVarint))?;
    record.encode(version).map_err(ReencodeError::Encode)
}

fn aborted_txns(kafka: &mut Kafka, findings: &mut Findings, args: &Args) -> Result<(), String> {
    let mut rng = Rng::with_seed(args.seed);
    let fields: Vec<Vec<u8>> = (0..args.values).map(|_| (0..32).map(|_| rng.u8(..)).collect()).collect();
    let questions: Vec<Question> = fields.iter().map(|fields| Question::aborted_txn(fields)).collect();
    let entry = registry::find("AbortedTxn").ok_or("there is no AbortedTxn")?;
    for (fields, answer) in fields.iter().zip(kafka.ask(&questions)?) {
        // The version stands in front, as it does before the records of a coordinator.
        let ours = entry.reencode(fields, 0).map(|bytes| [&0i16.to_be_bytes()[..], &bytes].concat());
        findings.compare(entry.name, "v0 as an entry of a transaction index", fields, &answer, &ours);
    }
    Ok(())
}

/// Which headers, versions and listeners each API has. How many API versions were compared.
fn header_versions(kafka: &mut Kafka, findings: &mut Findings) -> Result<usize, String> {
    let every =
        |key: &ApiKey| (*key.versions().start()..=key.latest_unstable()).map(|version| (*key, version)).collect();
    let pairs: Vec<(ApiKey, i16)> = ApiKey::ALL.iter().flat_map(|key| -> Vec<_> { every(key) }).collect();
    let questions: Vec<Question> =
        pairs.iter().map(|(key, version)| Question::header_versions(*key as i16, *version)).collect();
    for ((key, version), answer) in pairs.iter().zip(kafka.ask(&questions)?) {
        let numbers = [
            key.request_header_version(*version),
            key.response_header_version(*version),
            *key.versions().start(),
            key.latest_unstable(),
            *key.versions().end(),
        ];
        let mut ours: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        ours.extend([u8::from(key.on_broker()), u8::from(key.on_controller())]);
        findings.compare(key.name(), &format!("v{version} headers and versions"), &[], &answer, &Ok(ours));
    }
    Ok(pairs.len())
}

//! Bytes recorded from Apache Kafka 4.3.1: every frame decodes, and encodes to the same bytes again.

use std::io::Read;
use std::path::Path;

use protocol::registry::reencode;
use serde_json::Value;

fn lines(path: &Path) -> Vec<Value> {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a gzip file of text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn golden(group: &str) -> Vec<Value> {
    lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(group))
}

#[test]
fn oracle_bodies_come_back() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for value in golden("oracle.jsonl.gz") {
        let class = value["class"].as_str().expect("class");
        let name = class.rsplit('.').next().expect("a name");
        // Requests and responses are named after their data classes: FetchRequestData.
        let name = name
            .strip_suffix("Data")
            .filter(|n| ["Request", "Response", "Header"].iter().any(|k| n.ends_with(k)))
            .unwrap_or(name);
        let version = value["version"].as_i64().expect("version") as i16;
        let bytes = hex(value["hex"].as_str().expect("hex"));
        seen += 1;
        match reencode(name, version, &bytes) {
            Some(Ok(again)) if again == bytes => {}
            other => wrong.push(format!("{name} v{version} {}: {other:?}", value["variant"])),
        }
    }
    assert!(seen > 5_000, "{seen} bodies");
    assert!(wrong.is_empty(), "{} of {seen} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

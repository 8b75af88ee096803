//! Reads the recorded frames and bodies, and compares decoded values with recorded JSON.

#![allow(dead_code, unused_imports)] // each test binary uses its part

mod shown;

use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::registry::{self, Entry};
use serde_json::Value;

pub use shown::assert_shows;

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn lines(name: &str) -> Vec<Value> {
    let file = std::fs::File::open(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a gzip file of text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn version(value: &Value) -> i16 {
    value.as_i64().expect("a number") as i16
}

/// A message without header that Kafka's own classes made, empty, full, with extreme or random values.
pub struct Body {
    pub entry: &'static Entry,
    pub version: i16,
    pub variant: String,
    pub bytes: Vec<u8>,
    pub json: Value,
}

pub fn bodies() -> Vec<Body> {
    let body = |line: Value| Body {
        entry: registry::find(line[0].as_str().expect("a name")).unwrap_or_else(|| panic!("no message {}", line[0])),
        version: version(&line[1]),
        variant: text(&line[2]),
        bytes: hex(&text(&line[3])),
        json: line[4].clone(),
    };
    lines("oracle.jsonl.gz").into_iter().map(body).collect()
}

/// A frame that went over a connection between real nodes and clients, without its length.
pub struct Frame {
    pub entry: &'static Entry,
    /// The body's; lower than the request's where the server does not know that.
    pub version: i16,
    pub request_version: i16,
    pub bytes: Vec<u8>,
    pub header: Value,
    pub json: Value,
}

pub fn frames() -> Vec<Frame> {
    let frame = |line: Value| Frame {
        entry: registry::find(line[0].as_str().expect("a name")).unwrap_or_else(|| panic!("no message {}", line[0])),
        version: version(&line[1]),
        request_version: version(&line[2]),
        bytes: hex(&text(&line[3])),
        header: line[4].clone(),
        json: line[5].clone(),
    };
    lines("wire.jsonl.gz").into_iter().map(frame).collect()
}

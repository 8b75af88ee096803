//! What both sides made of the same bytes, and which differences are meant.

use std::collections::BTreeMap;

use protocol::registry::ReencodeError;
use protocol::wire::DecodeError;

use crate::kafka::Answer;

/// Faults that are printed; of the rest only the number.
const SHOWN_MAX: usize = 40;
const SHOWN_PER_MESSAGE: usize = 3;
const HEX_BYTES_MAX: usize = 400;

/// Where Kafka's classes take what we refuse. Everything else that only one side takes is a fault.
fn tolerated(error: &DecodeError, left: usize) -> Option<&'static str> {
    match error {
        DecodeError::Trailing(n) if *n == left => {
            Some("bytes behind the message, which Kafka's decoder does not look at")
        }
        DecodeError::TagOrder(_) => Some("tags out of order or twice, which no encoder writes"),
        DecodeError::BadVarint => Some("a number of variable length with bits beyond its type, which Kafka drops"),
        DecodeError::UnsupportedVersion { .. } => {
            Some("a metadata record of a version that 4.3 does not have, which Kafka reads as if it were its last")
        }
        DecodeError::TagTooShort { .. } => {
            Some("a tagged field longer than the length before it, which Kafka does not look at")
        }
        DecodeError::TagLength { .. } => {
            Some("a tagged field shorter than the length before it, after which Kafka loses its place")
        }
        _ => None,
    }
}

/// The numbers that are reported at the end, and what went wrong.
#[derive(Default)]
pub struct Findings {
    pub from_kafka: u64,
    pub from_us: u64,
    pub transcoded: u64,
    pub damaged: u64,
    pub both_refused: u64,
    pub tolerated: BTreeMap<&'static str, u64>,
    faults: BTreeMap<String, Vec<String>>,
}

impl Findings {
    pub fn fault(&mut self, message: &str, text: String) {
        self.faults.entry(message.to_owned()).or_default().push(text);
    }

    /// Compares what both made of `input`; `what` says which question it was.
    pub fn compare(
        &mut self,
        name: &str,
        what: &str,
        input: &[u8],
        kafka: &Answer,
        ours: &Result<Vec<u8>, ReencodeError>,
    ) {
        match (kafka, ours) {
            (Answer::Done { bytes, left: 0 }, Ok(ours)) if bytes == ours => return,
            (Answer::NotDecoded(_) | Answer::NotEncoded(_), Err(_)) => {
                self.both_refused += 1;
                return;
            }
            (Answer::Done { left, .. }, Err(ReencodeError::Decode(error))) => {
                if let Some(reason) = tolerated(error, *left) {
                    *self.tolerated.entry(reason).or_default() += 1;
                    return;
                }
            }
            _ => {}
        }
        let kafka = match kafka {
            Answer::Done { bytes, left } => format!("{} ({left} bytes left)", hex(bytes)),
            Answer::NotDecoded(text) => format!("not decoded: {text}"),
            Answer::NotEncoded(text) => format!("not encoded: {text}"),
        };
        let ours = match ours {
            Ok(bytes) => hex(bytes),
            Err(ReencodeError::Decode(e)) => format!("not decoded: {e}"),
            Err(ReencodeError::Encode(e)) => format!("not encoded: {e}"),
        };
        self.fault(name, format!("{what}\n    input {}\n    Kafka {kafka}\n    ours  {ours}", hex(input)));
    }

    pub fn report(&self) -> Result<(), String> {
        for (reason, n) in &self.tolerated {
            println!("    tolerated {n:>8}  {reason}");
        }
        let all: usize = self.faults.values().map(Vec::len).sum();
        if all == 0 {
            return Ok(());
        }
        let shown =
            self.faults.iter().flat_map(|(name, texts)| texts.iter().take(SHOWN_PER_MESSAGE).map(move |t| (name, t)));
        for (name, text) in shown.take(SHOWN_MAX) {
            println!("  {name} {text}");
        }
        let names: Vec<&str> = self.faults.keys().map(String::as_str).collect();
        Err(format!("{all} differences from Kafka's codec, in {}", names.join(", ")))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(HEX_BYTES_MAX).map(|b| format!("{b:02x}")).collect();
    if bytes.len() > HEX_BYTES_MAX { format!("{shown}… ({} bytes)", bytes.len()) } else { shown }
}

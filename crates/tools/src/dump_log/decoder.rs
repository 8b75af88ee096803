//! What `--print-data-log` makes of keys and values: text, numbers, or the records of Kafka's own topics.

use protocol::records::Record;

use crate::jopt::{Parsed, Stop};
use crate::stored_records::{self, Coordinator, Unreadable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Text,
    Integer,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    Plain { key: Class, value: Class },
    Coordinator(Coordinator),
    ClusterMetadata,
    RemoteLog,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::Plain { key: Class::Text, value: Class::Text }
    }
}

/// The options that choose a decoder, the first of them that is given wins; each includes `--print-data-log`.
pub const OPTIONS: &[(&str, Decoder)] = &[
    ("offsets-decoder", Decoder::Coordinator(Coordinator::Group)),
    ("transaction-log-decoder", Decoder::Coordinator(Coordinator::Transaction)),
    ("cluster-metadata-decoder", Decoder::ClusterMetadata),
    ("remote-log-metadata-decoder", Decoder::RemoteLog),
    ("share-group-state-decoder", Decoder::Coordinator(Coordinator::Share)),
];

impl Decoder {
    pub fn of(parsed: &Parsed) -> Result<Decoder, Stop> {
        if let Some((_, decoder)) = OPTIONS.iter().find(|(name, _)| parsed.has(name)) {
            return Ok(*decoder);
        }
        Ok(Decoder::Plain {
            key: Class::of(parsed, "key-decoder-class")?,
            value: Class::of(parsed, "value-decoder-class")?,
        })
    }

    /// The key and the payload, each if there is something to say of it.
    pub fn show(self, record: &Record<'_>) -> Result<(Option<String>, Option<String>), String> {
        match self {
            Decoder::Plain { key, value } => Ok((
                record.key.map(|bytes| key.show(bytes)).transpose()?,
                record.value.map(|bytes| value.show(bytes)).transpose()?,
            )),
            Decoder::Coordinator(coordinator) => coordinator_record(coordinator, record),
            Decoder::ClusterMetadata => {
                let shown = stored_records::metadata(record.value.unwrap_or_default());
                Ok((None, Some(shown.unwrap_or_else(|why| format!("Error at {}, skipping. {why}", record.offset)))))
            }
            Decoder::RemoteLog => {
                let shown = stored_records::remote_log(record.value.unwrap_or_default());
                let skipped = |why| format!("Error at offset {}, skipping. {why}", record.offset);
                Ok((None, Some(shown.unwrap_or_else(skipped))))
            }
        }
    }
}

fn coordinator_record(
    coordinator: Coordinator,
    record: &Record<'_>,
) -> Result<(Option<String>, Option<String>), String> {
    let offset = record.offset;
    // DIFFERS: a record without a key ends Kafka's tool; it is a sign of damage, and the rest may be worth seeing.
    let Some(key) = record.key else {
        return Ok((Some(format!("Error at offset {offset}, skipping. The record has no key.")), None));
    };
    let halves = stored_records::key(coordinator, key).and_then(|(record_type, key)| {
        let value = record.value.map(|bytes| stored_records::value_with_members(coordinator, record_type, bytes));
        Ok((record_type, key, value.transpose()?))
    });
    Ok(match halves {
        Ok((record_type, key, value)) => {
            let payload = value.map_or_else(
                || "<DELETE>".to_owned(),
                |(version, value)| format!("{{\"version\":\"{version}\",\"data\":{value}}}"),
            );
            (Some(format!("{{\"type\":\"{record_type}\",\"data\":{key}}}")), Some(payload))
        }
        Err(Unreadable::UnknownType(id)) => {
            (Some(format!("Unknown record type {id} at offset {offset}, skipping.")), None)
        }
        Err(Unreadable::Broken(why)) => (Some(format!("Error at offset {offset}, skipping. {why}")), None),
    })
}

impl Class {
    fn of(parsed: &Parsed, option: &str) -> Result<Class, Stop> {
        let class = parsed.get(option)?.unwrap_or("StringDecoder");
        match class.rsplit('.').next().unwrap_or(class) {
            // DIFFERS: Kafka's DefaultDecoder shows where Java keeps the bytes in memory, which helps nobody.
            "StringDecoder" | "DefaultDecoder" => Ok(Class::Text),
            "IntegerDecoder" => Ok(Class::Integer),
            "LongDecoder" => Ok(Class::Long),
            _ => Err(Stop::Message(format!("--{option} {class}: only the decoders of Kafka itself are built in"))),
        }
    }

    fn show(self, bytes: &[u8]) -> Result<String, String> {
        let short = |_| format!("{} bytes are no number of this decoder", bytes.len());
        match self {
            Class::Text => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Class::Integer => bytes.try_into().map(|bytes| i32::from_be_bytes(bytes).to_string()).map_err(short),
            Class::Long => bytes.try_into().map(|bytes| i64::from_be_bytes(bytes).to_string()).map_err(short),
        }
    }
}

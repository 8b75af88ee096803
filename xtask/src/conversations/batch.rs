//! Record batches by hand, right and wrong, and what is in them when they come back.

use super::codec::{Value, number};
use super::script::{Node, hex};

/// A record batch, field by field; what is wrong with it is changed before it becomes bytes.
#[derive(Clone)]
pub struct Batch {
    pub base_offset: i64,
    pub magic: u8,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
    pub records: Vec<u8>,
    /// Added to the true length.
    pub length_error: i32,
    pub crc_error: u32,
}

/// Some day of the past.
const TIMESTAMP: i64 = 1_700_000_000_000;

impl Batch {
    /// One record without key.
    pub fn good() -> Batch {
        Batch {
            base_offset: 0,
            magic: 2,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: TIMESTAMP,
            max_timestamp: TIMESTAMP,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 1,
            records: record(0, 0, None, Some(b"value")),
            length_error: 0,
            crc_error: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut checked = Vec::new();
        checked.extend(self.attributes.to_be_bytes());
        checked.extend(self.last_offset_delta.to_be_bytes());
        checked.extend(self.base_timestamp.to_be_bytes());
        checked.extend(self.max_timestamp.to_be_bytes());
        checked.extend(self.producer_id.to_be_bytes());
        checked.extend(self.producer_epoch.to_be_bytes());
        checked.extend(self.base_sequence.to_be_bytes());
        checked.extend(self.count.to_be_bytes());
        checked.extend(&self.records);
        let length = 4 + 1 + 4 + checked.len() as i32 + self.length_error;
        let mut out = self.base_offset.to_be_bytes().to_vec();
        out.extend(length.to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.push(self.magic);
        out.extend((crc32c(&checked) ^ self.crc_error).to_be_bytes());
        out.extend(checked);
        out
    }
}

/// Attributes, timestamp and offset by their distance, key, value, no headers.
pub fn record(offset_delta: i32, timestamp_delta: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![0];
    varlong(&mut body, timestamp_delta);
    varlong(&mut body, i64::from(offset_delta));
    for part in [key, value] {
        varlong(&mut body, part.map_or(-1, |p| p.len() as i64));
        body.extend(part.unwrap_or_default());
    }
    varlong(&mut body, 0);
    let mut out = Vec::new();
    varlong(&mut out, body.len() as i64);
    out.extend(body);
    out
}

fn varlong(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc(bytes, 0x82f6_3b78)
}

fn crc(bytes: &[u8], polynomial: u32) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ polynomial } else { crc >> 1 };
        }
    }
    !crc
}

/// The bytes of `batch{…}`, a list of such, or `hex`.
pub fn records(node: &Node, resolve: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<u8>, String> {
    match node {
        Node::Word(word) => hex(word),
        Node::List(items) => Ok(items.iter().map(|i| records(i, resolve)).collect::<Result<Vec<_>, _>>()?.concat()),
        Node::Struct(fields) => batch(fields, resolve),
        Node::Null => Ok(Vec::new()),
    }
}

/// `values` and `keys` are words; one more or less makes no difference: the records are as many as the values. `step` is
/// the time between two. All others are fields of the header, or `cut`, how many bytes are missing at the end.
fn batch(fields: &[(String, Node)], resolve: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<u8>, String> {
    let find = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
    let words = |name: &str| match find(name) {
        Some(Node::List(items)) => items.iter().map(text).collect::<Vec<_>>(),
        Some(item) => vec![text(item)],
        None => Vec::new(),
    };
    let int = |name: &str| match find(name) {
        Some(Node::Word(word)) => number(&resolve(word)?).map(Some),
        Some(other) => Err(format!("{name}: {other:?}")),
        None => Ok(None),
    };
    let mut batch = Batch::good();
    let keys = words("keys");
    let values = if find("values").is_some() { words("values") } else { vec![Some("value".to_owned())] };
    let step = int("step")?.unwrap_or(0);
    let mut payload = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let key = keys.get(i).and_then(|k| k.as_deref()).map(str::as_bytes);
        payload.extend(record(i as i32, step * i as i64, key, value.as_deref().map(str::as_bytes)));
    }
    batch.count = values.len() as i32;
    batch.last_offset_delta = batch.count - 1;
    batch.base_timestamp = int("time")?.unwrap_or(batch.base_timestamp);
    batch.max_timestamp = batch.base_timestamp.wrapping_add(step * i64::from(batch.last_offset_delta.max(0)));
    if let Some(Node::Word(codec)) = find("codec") {
        (payload, batch.attributes) = compressed(codec, &payload)?;
    }
    batch.records = payload;
    if let Some(size) = int("size")? {
        batch.records = record(0, 0, None, Some(&vec![b'x'; size as usize]));
    }
    if let Some(Node::Word(word)) = find("payload") {
        batch.records = hex(word)?;
    }
    let cut = set_header(&mut batch, fields, &int);
    if let Some((name, _)) = fields.iter().find(|(n, _)| !KNOWN.contains(&n.as_str())) {
        return Err(format!("a batch has no {name}"));
    }
    let mut bytes = batch.bytes();
    bytes.truncate(bytes.len() - cut);
    Ok(bytes)
}

const KNOWN: &[&str] = &[
    "values",
    "keys",
    "step",
    "time",
    "codec",
    "size",
    "payload",
    "base",
    "magic",
    "attributes",
    "delta",
    "max",
    "pid",
    "epoch",
    "seq",
    "count",
    "length",
    "crc",
    "cut",
];

/// What is given of the header; returns how many bytes are to be cut off.
fn set_header(
    batch: &mut Batch,
    fields: &[(String, Node)],
    int: &dyn Fn(&str) -> Result<Option<i64>, String>,
) -> usize {
    let mut cut = 0;
    for (name, _) in fields {
        let Some(value) = int(name).ok().flatten() else { continue };
        match name.as_str() {
            "base" => batch.base_offset = value,
            "magic" => batch.magic = value as u8,
            "attributes" => batch.attributes |= value as i16,
            "delta" => batch.last_offset_delta = value as i32,
            "max" => batch.max_timestamp = value,
            "pid" => batch.producer_id = value,
            "epoch" => batch.producer_epoch = value as i16,
            "seq" => batch.base_sequence = value as i32,
            "count" => batch.count = value as i32,
            "length" => batch.length_error = value as i32,
            "crc" => batch.crc_error = value as u32,
            "cut" => cut = value as usize,
            _ => {}
        }
    }
    cut
}

fn text(node: &Node) -> Option<String> {
    match node {
        Node::Word(word) => Some(word.clone()),
        _ => None,
    }
}

/// Every codec has a form for what cannot be made smaller, and that is easily written by hand.
fn compressed(codec: &str, payload: &[u8]) -> Result<(Vec<u8>, i16), String> {
    let length = u16::try_from(payload.len()).map_err(|_| "only small batches are compressed")?;
    let mut out = Vec::new();
    let codec = match codec {
        "none" => return Ok((payload.to_vec(), 0)),
        "gzip" => {
            out.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1]);
            out.extend(length.to_le_bytes());
            out.extend((!length).to_le_bytes());
            out.extend(payload);
            out.extend(crc(payload, 0xedb8_8320).to_le_bytes());
            out.extend(u32::from(length).to_le_bytes());
            1
        }
        "snappy" => {
            out.push(payload.len() as u8 & 0x7f | 0x80);
            out.push((payload.len() >> 7) as u8);
            out.extend([61 << 2, (length - 1) as u8, ((length - 1) >> 8) as u8]);
            out.extend(payload);
            2
        }
        "lz4" => {
            // Independent blocks of 64 KB, no checksums; the header's own is that of these two bytes.
            out.extend([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
            out.extend((u32::from(length) | 0x8000_0000).to_le_bytes());
            out.extend(payload);
            out.extend([0; 4]);
            3
        }
        "zstd" => {
            out.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]);
            out.extend(&((u32::from(length) << 3) | 1).to_le_bytes()[..3]);
            out.extend(payload);
            4
        }
        other => return Err(format!("{other} is no codec")),
    };
    Ok((out, codec))
}

/// The batches of an answer, field by field; a last one that is not whole by its size.
pub fn shown(mut bytes: &[u8]) -> Value {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let int = |at: usize, size: usize| {
            let negative = bytes[at] >= 0x80;
            bytes[at..at + size].iter().fold(if negative { -1i64 } else { 0 }, |n, b| (n << 8) | i64::from(*b))
        };
        let size = if bytes.len() >= 61 { int(8, 4) + 12 } else { i64::MAX };
        if size < 61 || size > bytes.len() as i64 {
            batches.push(Value::Word(format!("{} bytes of a batch", bytes.len())));
            break;
        }
        const FIELDS: &[(&str, usize, usize)] = &[
            ("BaseOffset", 0, 8),
            ("Length", 8, 4),
            ("LeaderEpoch", 12, 4),
            ("Magic", 16, 1),
            ("Crc", 17, 4),
            ("Attributes", 21, 2),
            ("LastOffsetDelta", 23, 4),
            ("BaseTimestamp", 27, 8),
            ("MaxTimestamp", 35, 8),
            ("ProducerId", 43, 8),
            ("ProducerEpoch", 51, 2),
            ("BaseSequence", 53, 4),
            ("Count", 57, 4),
        ];
        let mut fields: Vec<(String, Value)> =
            FIELDS.iter().map(|(n, at, size)| ((*n).to_owned(), Value::Word(int(*at, *size).to_string()))).collect();
        let (batch, rest) = bytes.split_at(size as usize);
        let data: String = batch[61..].iter().flat_map(|b| b.escape_ascii()).map(char::from).take(300).collect();
        fields.push(("Data".to_owned(), Value::Text(data)));
        batches.push(Value::Struct(fields));
        bytes = rest;
    }
    Value::List(batches)
}

//! How records are printed: Kafka's default formatter with its properties, and those for the topics of coordinators.

use protocol::records::TimestampType;

use crate::client::consumer::Message;
use crate::props::Props;
use crate::stored_records::{self, Coordinator, Unreadable};

/// Kafka's standard deserializers, for those whose bytes are not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Bytes,
    Long,
    Integer,
    Short,
    Double,
    Float,
}

/// What is made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Fields,
    Nothing,
    /// JSON of a coordinator's records, of these types only; of all if there are none.
    Coordinator(Coordinator, &'static [i16]),
}

/// By the name of Kafka's class, without its package.
const STYLES: &[(&str, Style)] = &[
    ("DefaultMessageFormatter", Style::Fields),
    // Prints, and logs what Kafka's configuration of the tools does not show.
    ("LoggingMessageFormatter", Style::Fields),
    ("NoOpMessageFormatter", Style::Nothing),
    ("OffsetsMessageFormatter", Style::Coordinator(Coordinator::Group, &[0, 1])),
    ("GroupMetadataMessageFormatter", Style::Coordinator(Coordinator::Group, &[2])),
    ("ShareGroupMessageFormatter", Style::Coordinator(Coordinator::Group, &[10, 11, 12, 13, 14, 15])),
    ("TransactionLogMessageFormatter", Style::Coordinator(Coordinator::Transaction, &[])),
    ("ShareGroupStateMessageFormatter", Style::Coordinator(Coordinator::Share, &[])),
];

#[derive(Debug)]
pub struct Formatter {
    style: Style,
    timestamp: bool,
    partition: bool,
    offset: bool,
    delivery: bool,
    epoch: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null_literal: String,
    key_shape: Shape,
    value_shape: Shape,
    header_shape: Shape,
}

impl Formatter {
    pub fn new(class: Option<&str>, props: &Props) -> Result<Formatter, String> {
        let simple = class.map_or("DefaultMessageFormatter", |class| class.rsplit(['.', '$']).next().unwrap_or(class));
        let known = STYLES.iter().find(|(name, _)| *name == simple);
        let style = known.map(|(_, style)| *style).ok_or_else(|| {
            let names: Vec<&str> = STYLES.iter().map(|(name, _)| *name).collect();
            format!("--formatter {simple}: only Kafka's own are built in: {}", names.join(", "))
        })?;
        let text = |key: &str, default: &str| props.get(key).unwrap_or(default).to_owned();
        Ok(Formatter {
            style,
            timestamp: props.bool("print.timestamp", false),
            partition: props.bool("print.partition", false),
            offset: props.bool("print.offset", false),
            delivery: props.bool("print.delivery", false),
            epoch: props.bool("print.epoch", false),
            headers: props.bool("print.headers", false),
            key: props.bool("print.key", false),
            value: props.bool("print.value", true),
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null_literal: text("null.literal", "null"),
            key_shape: shape(props.get("key.deserializer"))?,
            value_shape: shape(props.get("value.deserializer"))?,
            header_shape: shape(props.get("header.deserializer").or(props.get("headers.deserializer")))?,
        })
    }

    /// Fields in Kafka's order, each followed by the separator, the last by the end of the line.
    pub fn write(&self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match self.style {
            Style::Fields => {}
            Style::Nothing => return Ok(()),
            Style::Coordinator(coordinator, types) => return coordinator_record(message, coordinator, types, out),
        }
        let record = &message.record;
        let mut fields: Vec<Vec<u8>> = Vec::new();
        if self.timestamp {
            fields.push(match (message.timestamp_type, record.timestamp) {
                (_, ..0) => b"NO_TIMESTAMP".to_vec(),
                (TimestampType::CreateTime, ms) => format!("CreateTime:{ms}").into_bytes(),
                (TimestampType::LogAppendTime, ms) => format!("LogAppendTime:{ms}").into_bytes(),
            });
        }
        if self.partition {
            fields.push(format!("Partition:{}", message.partition).into_bytes());
        }
        if self.offset {
            fields.push(format!("Offset:{}", record.offset).into_bytes());
        }
        if self.delivery {
            fields.push(b"Delivery:NOT_PRESENT".to_vec());
        }
        if self.epoch {
            fields.push(b"Epoch:NOT_PRESENT".to_vec());
        }
        if self.headers {
            fields.push(self.header_field(message)?);
        }
        if self.key {
            fields.push(self.field(record.key, self.key_shape)?);
        }
        if self.value {
            fields.push(self.field(record.value, self.value_shape)?);
        }
        for (i, field) in fields.iter().enumerate() {
            out.extend_from_slice(field);
            let last = i + 1 == fields.len();
            out.extend_from_slice(if last { self.line_separator.as_bytes() } else { self.key_separator.as_bytes() });
        }
        Ok(())
    }

    fn header_field(&self, message: &Message<'_>) -> Result<Vec<u8>, String> {
        if message.record.headers.is_empty() {
            return Ok(b"NO_HEADERS".to_vec());
        }
        let mut out = Vec::new();
        for (i, (key, value)) in message.record.headers.clone().enumerate() {
            if i > 0 {
                out.extend_from_slice(self.headers_separator.as_bytes());
            }
            out.extend_from_slice(key);
            out.push(b':');
            out.extend(self.field(value, self.header_shape)?);
        }
        Ok(out)
    }

    fn field(&self, bytes: Option<&[u8]>, shape: Shape) -> Result<Vec<u8>, String> {
        match bytes {
            None => Ok(self.null_literal.clone().into_bytes()),
            Some(bytes) => shape.show(bytes),
        }
    }
}

/// One JSON object right behind the other, as Kafka's formatters write them.
fn coordinator_record(
    message: &Message<'_>,
    coordinator: Coordinator,
    types: &[i16],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let record = &message.record;
    let Some(key) = record.key else { return Ok(()) };
    let halves = stored_records::key(coordinator, key).and_then(|(record_type, key)| {
        let value = record.value.map(|bytes| stored_records::value(coordinator, record_type, bytes));
        Ok((record_type, key, value.transpose()?))
    });
    match halves {
        Ok((record_type, key, value)) if types.is_empty() || types.contains(&record_type) => {
            let value = value.map_or_else(
                || "null".to_owned(),
                |(version, value)| format!("{{\"version\":{version},\"data\":{value}}}"),
            );
            let text = format!("{{\"key\":{{\"type\":{record_type},\"data\":{key}}},\"value\":{value}}}");
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        Ok(_) | Err(Unreadable::UnknownType(_)) => Ok(()),
        Err(Unreadable::Broken(why)) => {
            Err(format!("java.lang.RuntimeException: Could not read record at offset {} due to: {why}", record.offset))
        }
    }
}

fn shape(class: Option<&str>) -> Result<Shape, String> {
    let Some(class) = class else { return Ok(Shape::Bytes) };
    match class.rsplit('.').next().unwrap_or(class) {
        "StringDeserializer" | "ByteArrayDeserializer" | "BytesDeserializer" | "UUIDDeserializer" => Ok(Shape::Bytes),
        "LongDeserializer" => Ok(Shape::Long),
        "IntegerDeserializer" => Ok(Shape::Integer),
        "ShortDeserializer" => Ok(Shape::Short),
        "DoubleDeserializer" => Ok(Shape::Double),
        "FloatDeserializer" => Ok(Shape::Float),
        other => Err(format!("deserializer {other}: only Kafka's standard deserializers are built in")),
    }
}

impl Shape {
    fn show(self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let text = match self {
            Shape::Bytes => return Ok(bytes.to_vec()),
            Shape::Long => i64::from_be_bytes(sized(bytes, "Long")?).to_string(),
            Shape::Integer => i32::from_be_bytes(sized(bytes, "Integer")?).to_string(),
            Shape::Short => i16::from_be_bytes(sized(bytes, "Short")?).to_string(),
            Shape::Double => format!("{:?}", f64::from_be_bytes(sized(bytes, "Double")?)),
            Shape::Float => format!("{:?}", f32::from_be_bytes(sized(bytes, "Float")?)),
        };
        Ok(text.into_bytes())
    }
}

fn sized<const N: usize>(bytes: &[u8], name: &str) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| {
        format!(
            "org.apache.kafka.common.errors.SerializationException: Size of data received by {name}Deserializer is not {N}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::records::{Batch, BatchBuilder, BatchSpec, Scratch};

    /// The three records behind the recordings `console-consumer-formatted*.txt`.
    fn printed(props: &str) -> String {
        let mut builder = BatchBuilder::new(BatchSpec::default());
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h1", Some(b"x")), (b"h2", Some(b"y"))];
        builder.append(1_795_412_029_110, Some(b"k"), Some(b"v with headers"), &headers);
        builder.append(1_795_412_029_141, None, None, &[]);
        builder.append(1_795_412_029_141, Some(b"k2"), Some(b"v2"), &[(b"h", Some(b""))]);
        let bytes = builder.build();
        let batch = Batch::parse(&bytes).unwrap();
        let formatter = Formatter::new(None, &Props::parse(props)).unwrap();
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        for record in batch.records(&mut scratch).unwrap() {
            let (record, timestamp_type) = (record.unwrap(), TimestampType::CreateTime);
            formatter.write(&Message { topic: "t-fmt", partition: 0, timestamp_type, record }, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn everything_as_recorded() {
        let props = "print.key=true\nprint.timestamp=true\nprint.partition=true\nprint.offset=true\nprint.headers=true\nprint.epoch=true";
        assert!(include_str!("../../tests/golden/console-consumer-formatted.txt").contains(&printed(props)));
        let props =
            "print.key=true\nkey.separator=\\ =>\\u0020\nnull.literal=<null>\nheaders.separator=;\nprint.headers=true";
        let text = printed(props);
        assert!(include_str!("../../tests/golden/console-consumer-formatted-separators.txt").contains(&text), "{text}");
    }

    /// The records of a partition of `__consumer_offsets` that console-consumer printed while it was recorded.
    #[test]
    fn offsets_as_recorded() {
        let formatter =
            Formatter::new(Some("org.apache.kafka.tools.consumer.OffsetsMessageFormatter"), &Props::default());
        let formatter = formatter.unwrap();
        let log = include_bytes!("../../tests/golden/internal-topics/__consumer_offsets-0/00000000000000000000.log");
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        for batch in protocol::records::Batches::new(log) {
            let batch = batch.unwrap();
            for record in batch.records(&mut scratch).unwrap().map(Result::unwrap) {
                if !batch.header.is_control() {
                    let timestamp_type = TimestampType::CreateTime;
                    let message = Message { topic: "__consumer_offsets", partition: 0, timestamp_type, record };
                    formatter.write(&message, &mut out).unwrap();
                }
            }
        }
        let text = String::from_utf8(out).unwrap();
        let objects: Vec<&str> = text.split_inclusive("}}}").collect();
        let recorded = include_str!("../../tests/golden/console-consumer-offsets-formatter.txt");
        assert!(objects.len() > 4 && objects[..4].iter().all(|object| recorded.contains(object)), "{text}");
    }

    #[test]
    fn numbers_of_the_wrong_size() {
        assert_eq!(Shape::Long.show(&7i64.to_be_bytes()).unwrap(), b"7");
        assert!(Shape::Long.show(b"abc").unwrap_err().ends_with("LongDeserializer is not 8"));
    }
}

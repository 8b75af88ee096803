//! How records are printed: Kafka's default formatter with its properties.

use protocol::records::TimestampType;

use crate::client::consumer::Message;
use crate::props::Props;

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

#[derive(Debug)]
pub struct Formatter {
    silent: bool,
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
        let silent = match simple {
            // The logging formatter prints, and logs what Kafka's configuration of the tools does not show.
            "DefaultMessageFormatter" | "LoggingMessageFormatter" => false,
            "NoOpMessageFormatter" => true,
            other => {
                return Err(format!(
                    "--formatter {other}: only Kafka's Default-, Logging- and NoOpMessageFormatter are built in"
                ));
            }
        };
        let text = |key: &str, default: &str| props.get(key).unwrap_or(default).to_owned();
        Ok(Formatter {
            silent,
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
        if self.silent {
            return Ok(());
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

    #[test]
    fn numbers_of_the_wrong_size() {
        assert_eq!(Shape::Long.show(&7i64.to_be_bytes()).unwrap(), b"7");
        assert!(Shape::Long.show(b"abc").unwrap_err().ends_with("LongDeserializer is not 8"));
    }
}

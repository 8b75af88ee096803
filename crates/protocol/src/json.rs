//! Stored messages as JSON, character by character what Kafka's own converters make of them: names with a small first
//! letter, bytes in base64, tagged fields only where they were written, unknown ones not at all.

use std::fmt::Write as _;

use crate::layout::{Field, Kind, Layout};
use crate::wire::{DecodeError, Reader, UnknownTags};

/// What a caller shows in place of a field of bytes, by the field's name; `None` leaves it in base64.
pub type ShowBytes<'s> = &'s dyn Fn(&str, &[u8]) -> Option<String>;

/// Reads one message of a version that the layout has, and nothing behind it.
pub fn message(layout: &'static Layout, r: &mut Reader<'_>, version: i16) -> Result<String, DecodeError> {
    message_with(layout, r, version, &|_, _| None)
}

pub fn message_with(
    layout: &'static Layout,
    r: &mut Reader<'_>,
    version: i16,
    show_bytes: ShowBytes<'_>,
) -> Result<String, DecodeError> {
    if !layout.has_version(version) {
        return Err(DecodeError::UnsupportedVersion { message: layout.name, version });
    }
    Walk { version, flexible: version >= layout.flexible_from, show_bytes }.fields(layout.fields, r)
}

struct Walk<'s> {
    version: i16,
    flexible: bool,
    show_bytes: ShowBytes<'s>,
}

impl Walk<'_> {
    fn fields(&self, fields: &'static [Field], r: &mut Reader<'_>) -> Result<String, DecodeError> {
        // Tagged fields are read last and shown in their place.
        let mut shown: Vec<Option<String>> = Vec::with_capacity(fields.len());
        for field in fields {
            let is_here = field.is_in(self.version) && field.tag.is_none();
            shown.push(if is_here { Some(self.field(field, r, false)?) } else { None });
        }
        if self.flexible {
            r.tags(&mut UnknownTags::default(), |tag, r| {
                let Some(at) = fields.iter().position(|field| field.tag == Some(tag) && field.is_in(self.version))
                else {
                    return Ok(false);
                };
                shown[at] = Some(self.field(&fields[at], r, true)?);
                Ok(true)
            })?;
        }
        let mut out = String::from("{");
        for (field, value) in fields.iter().zip(shown).filter_map(|(field, value)| Some((field, value?))) {
            let comma = if out.len() > 1 { "," } else { "" };
            let _ = write!(out, "{comma}\"{}\":{value}", field.name);
        }
        out.push('}');
        Ok(out)
    }

    fn field(&self, field: &'static Field, r: &mut Reader<'_>, in_tag: bool) -> Result<String, DecodeError> {
        let is_nullable = field.is_nullable(self.version);
        if field.is_array {
            let items = r.nullable_array(self.flexible, 1, |r| self.value(field, r))?;
            return match items {
                Some(items) => Ok(format!("[{}]", items.join(","))),
                None if is_nullable => Ok("null".to_owned()),
                None => Err(DecodeError::BadLength(-1)),
            };
        }
        let is_null = match field.kind {
            Kind::Struct(_) if is_nullable && in_tag => r.uvarint()? == 0,
            Kind::Struct(_) if is_nullable => r.i8()? < 0,
            Kind::String if is_nullable => return Ok(self.string(r)?.unwrap_or_else(null)),
            Kind::Bytes if is_nullable => return Ok(self.bytes(field, r)?.unwrap_or_else(null)),
            _ => false,
        };
        if is_null { Ok(null()) } else { self.value(field, r) }
    }

    /// One value, which is not null.
    fn value(&self, field: &'static Field, r: &mut Reader<'_>) -> Result<String, DecodeError> {
        Ok(match field.kind {
            Kind::Bool => r.bool()?.to_string(),
            Kind::Int8 => r.i8()?.to_string(),
            Kind::Int16 => r.i16()?.to_string(),
            Kind::UInt16 => r.u16()?.to_string(),
            Kind::Int32 => r.i32()?.to_string(),
            Kind::UInt32 => r.u32()?.to_string(),
            Kind::Int64 => r.i64()?.to_string(),
            Kind::Float64 => java_double(r.f64()?),
            Kind::Uuid => format!("\"{}\"", r.uuid()?),
            Kind::String => self.string(r)?.ok_or(DecodeError::BadLength(-1))?,
            Kind::Bytes => self.bytes(field, r)?.ok_or(DecodeError::BadLength(-1))?,
            Kind::Struct(fields) => self.fields(fields, r)?,
        })
    }

    fn string(&self, r: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
        Ok(r.nullable_string(self.flexible)?.map(|text| quoted(&text)))
    }

    fn bytes(&self, field: &Field, r: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
        let Some(bytes) = r.nullable_bytes(self.flexible)? else { return Ok(None) };
        let shown = (self.show_bytes)(field.name, &bytes);
        Ok(Some(shown.unwrap_or_else(|| format!("\"{}\"", base64(&bytes)))))
    }
}

fn null() -> String {
    "null".to_owned()
}

/// A JSON string with the escapes of the Java library that Kafka uses.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Standard alphabet, padded.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// A number as `Double.toString` writes it: always with a point, with an exponent below 10⁻³ and from 10⁷ on.
pub fn java_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 || (1e-3..1e7).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if digits.contains('.') => format!("{digits}E{exponent}"),
        Some((digits, exponent)) => format!("{digits}.0E{exponent}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_strings_and_bytes_as_java_writes_them() {
        let doubles = [0.0, -0.0, 1.0, 1000.0, 0.001, 0.0005, 9_999_999.0, 1e7, 1.25e7, -2.5e-10, f64::MAX];
        let shown: Vec<String> = doubles.iter().map(|d| java_double(*d)).collect();
        let java = ["0.0", "-0.0", "1.0", "1000.0", "0.001", "5.0E-4", "9999999.0", "1.0E7", "1.25E7", "-2.5E-10"];
        assert_eq!(shown[..10], java);
        assert_eq!(shown[10], "1.7976931348623157E308");
        assert_eq!(quoted("a\"b\\\u{1f}\n/é"), "\"a\\\"b\\\\\\u001F\\n/é\"");
        assert_eq!([base64(b""), base64(b"a"), base64(b"ab"), base64(b"abc")], ["", "YQ==", "YWI=", "YWJj"]);
    }
}

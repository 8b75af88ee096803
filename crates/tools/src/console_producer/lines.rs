//! What a line of the console producer means: headers, key and value, separated as its properties say.

use crate::props::Props;

pub struct LineReader {
    parse_key: bool,
    parse_headers: bool,
    ignore_error: bool,
    key_separator: String,
    headers_delimiter: String,
    headers_separator: String,
    headers_key_separator: String,
    null_marker: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn exception(text: impl std::fmt::Display) -> String {
    format!("org.apache.kafka.common.KafkaException: {text}")
}

impl LineReader {
    pub fn new(props: &Props) -> Result<LineReader, String> {
        let text = |key: &str, default: &str| props.get(key).unwrap_or(default).to_owned();
        let reader = LineReader {
            parse_key: props.bool("parse.key", false),
            parse_headers: props.bool("parse.headers", false),
            ignore_error: props.bool("ignore.error", false),
            key_separator: text("key.separator", "\t"),
            headers_delimiter: text("headers.delimiter", "\t"),
            headers_separator: text("headers.separator", ","),
            headers_key_separator: text("headers.key.separator", ":"),
            null_marker: props.get("null.marker").map(str::to_owned),
        };
        let named = [
            ("headers.delimiter", &reader.headers_delimiter),
            ("headers.separator", &reader.headers_separator),
            ("headers.key.separator", &reader.headers_key_separator),
            ("key.separator", &reader.key_separator),
        ];
        for (i, (a, x)) in named.iter().enumerate().take(3) {
            if let Some((b, _)) = named.iter().take(3).skip(i + 1).find(|(_, y)| x == y) {
                return Err(exception(format_args!("{a} and {b} may not be equal")));
            }
        }
        let marker = reader.null_marker.as_ref();
        if let Some((name, _)) = named.iter().find(|(_, separator)| Some(*separator) == marker) {
            return Err(exception(format_args!("null.marker and {name} may not be equal")));
        }
        Ok(reader)
    }

    /// DIFFERS: bytes that are no UTF-8 stay as they are; Kafka's tool replaces them.
    pub fn parse(&mut self, line: &[u8], number: u64) -> Result<Parsed, String> {
        let mut rest = line;
        let mut parsed = Parsed::default();
        if self.parse_headers
            && let Some(headers) = self.cut(line, &mut rest, &self.headers_delimiter, "headers delimiter", number)?
            && !self.is_null(headers)
        {
            parsed.headers = self.headers(headers, number)?;
        }
        if self.parse_key
            && let Some(key) = self.cut(line, &mut rest, &self.key_separator, "key separator", number)?
        {
            parsed.key = (!self.is_null(key)).then(|| key.to_vec());
        }
        parsed.value = (!self.is_null(rest)).then(|| rest.to_vec());
        Ok(parsed)
    }

    fn is_null(&self, field: &[u8]) -> bool {
        self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == field)
    }

    /// What stands before the separator; `rest` moves behind it.
    fn cut<'l>(
        &self,
        line: &[u8],
        rest: &mut &'l [u8],
        separator: &str,
        name: &str,
        number: u64,
    ) -> Result<Option<&'l [u8]>, String> {
        match find(rest, separator.as_bytes()) {
            Some(at) => {
                let field = &rest[..at];
                *rest = &rest[at + separator.len()..];
                Ok(Some(field))
            }
            None if self.ignore_error => Ok(None),
            None => {
                let line = String::from_utf8_lossy(line);
                Err(exception(format_args!("No {name} found on line number {number}: '{line}'")))
            }
        }
    }

    fn headers(&self, text: &[u8], number: u64) -> Result<Headers, String> {
        let mut out = Vec::new();
        for pair in split(text, self.headers_separator.as_bytes()) {
            let Some(at) = find(pair, self.headers_key_separator.as_bytes()) else {
                if self.ignore_error {
                    out.push((pair.to_vec(), None));
                    continue;
                }
                let pair = String::from_utf8_lossy(pair);
                return Err(exception(format_args!(
                    "No header key separator found in pair '{pair}' on line number {number}"
                )));
            };
            let (key, value) = (&pair[..at], &pair[at + self.headers_key_separator.len()..]);
            if self.is_null(key) {
                let marker = self.null_marker.as_deref().unwrap_or_default();
                return Err(exception(format_args!(
                    "Header keys should not be equal to the null marker '{marker}' as they can't be null"
                )));
            }
            out.push((key.to_vec(), (!self.is_null(value)).then(|| value.to_vec())));
        }
        Ok(out)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Like Java's split, which leaves out empty strings at the end.
fn split<'a>(text: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, separator).filter(|_| !separator.is_empty()) {
        out.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    out.push(rest);
    while out.len() > 1 && out.last().is_some_and(|last| last.is_empty()) {
        out.pop();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(props: &str) -> LineReader {
        LineReader::new(&Props::parse(props)).unwrap()
    }

    fn bytes(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn headers_key_and_value() {
        let mut reader =
            reader("parse.headers=true\nparse.key=true\nkey.separator=|\nheaders.delimiter=|\nnull.marker=NULL");
        let full = reader.parse(b"h1:x,h2:y|k|v with headers", 1).unwrap();
        assert_eq!(full.headers, [(b"h1".to_vec(), bytes("x")), (b"h2".to_vec(), bytes("y"))]);
        assert_eq!((full.key, full.value), (bytes("k"), bytes("v with headers")));
        assert_eq!(reader.parse(b"NULL|NULL|NULL", 2).unwrap(), Parsed::default());
        assert_eq!(reader.parse(b"h:|k2|v2", 3).unwrap().headers, [(b"h".to_vec(), bytes(""))]);
    }

    #[test]
    fn a_missing_key_names_the_line() {
        let error = reader("parse.key=true").parse(b"nokey", 1).unwrap_err();
        assert_eq!(error, "org.apache.kafka.common.KafkaException: No key separator found on line number 1: 'nokey'");
        let lenient = reader("parse.key=true\nignore.error=true").parse(b"nokey", 1).unwrap();
        assert_eq!((lenient.key, lenient.value), (None, bytes("nokey")));
    }

    #[test]
    fn separators_differ() {
        assert!(LineReader::new(&Props::parse("headers.separator=:")).is_err());
        assert!(LineReader::new(&Props::parse("null.marker=,")).is_err());
    }
}

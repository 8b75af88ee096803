//! Compares what `Debug` shows of a message with the JSON that Kafka's converter made of the same bytes. The text is
//! generic over all messages, so every field of every message is compared and no two can be swapped.

use serde_json::Value;

/// What `Debug` shows, as a tree.
#[derive(Debug)]
enum Shown {
    Null,
    /// Numbers, booleans, ids.
    Word(String),
    Text(String),
    List(Vec<Shown>),
    Struct(Vec<(String, Shown)>),
}

/// Every value in the JSON stands in the message, under the same name. The JSON leaves out what its version does not
/// carry and what a tag does not say.
pub fn assert_shows(debug: &str, json: &Value) -> Result<(), String> {
    let mut parser = Parser { text: debug, at: 0 };
    let shown = parser.value()?;
    if parser.at != debug.len() {
        return Err(format!("text after the value: {:?}", &debug[parser.at..]));
    }
    same(&shown, json, "")
}

fn same(shown: &Shown, json: &Value, path: &str) -> Result<(), String> {
    let equal = match (shown, json) {
        (Shown::Null, Value::Null) => true,
        (Shown::Word(word), Value::Bool(b)) => *word == b.to_string(),
        (Shown::Word(word), Value::Number(n)) if n.is_f64() => nearly(word.parse().ok(), n.as_f64()),
        (Shown::Word(word), Value::Number(n)) => *word == n.to_string() || word.parse::<f64>().ok() == n.as_f64(),
        // Ids are shown as Kafka shows them.
        (Shown::Word(word), Value::String(s)) => word == s,
        (Shown::Text(text), Value::String(s)) => text == s,
        (Shown::List(items), Value::String(s)) => base64(items)? == *s,
        (Shown::List(items), Value::Array(values)) => {
            if items.len() != values.len() {
                return Err(format!("{path}: {} elements, not {}", items.len(), values.len()));
            }
            for (i, (item, value)) in items.iter().zip(values).enumerate() {
                same(item, value, &format!("{path}[{i}]"))?;
            }
            true
        }
        (Shown::Struct(fields), Value::Object(object)) => {
            for (key, value) in object {
                field(fields, key, value, path)?;
            }
            true
        }
        _ => false,
    };
    if equal { Ok(()) } else { Err(format!("{path}: {shown:?} is not {json}")) }
}

/// The parser of JSON may be wrong in the last bit.
fn nearly(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_some_and(|(a, b)| (a - b).abs() <= a.abs() * f64::EPSILON)
}

fn field(fields: &[(String, Shown)], key: &str, value: &Value, path: &str) -> Result<(), String> {
    // The converter gives the size of records only.
    let (name, is_size) = match key.strip_suffix("SizeInBytes") {
        Some(name) if value.is_number() && !fields.iter().any(|(n, _)| plain(n) == plain(key)) => (name, true),
        _ => (key, false),
    };
    let found = fields.iter().find(|(n, _)| plain(n) == plain(name));
    let Some((_, shown)) = found else { return Err(format!("{path}: no field {key}")) };
    match shown {
        Shown::List(bytes) if is_size && value.as_u64() == Some(bytes.len() as u64) => Ok(()),
        _ if is_size => Err(format!("{path}.{key}: {shown:?} has not {value} bytes")),
        _ => same(shown, value, &format!("{path}.{key}")),
    }
}

/// `topic_id`, `topicId` and `TopicID` are one name.
fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

fn base64(bytes: &[Shown]) -> Result<String, String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let byte = |shown: &Shown| match shown {
        Shown::Word(word) => word.parse::<u8>().map_err(|e| format!("{word}: {e}")),
        other => Err(format!("{other:?} is no byte")),
    };
    let bytes = bytes.iter().map(byte).collect::<Result<Vec<u8>, _>>()?;
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().chain([0, 0].iter()).take(3).fold(0u32, |n, b| (n << 8) | u32::from(*b));
        for i in 0..4 {
            let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    Ok(out)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.skip(token) { Ok(()) } else { Err(format!("{token:?} expected at {:?}", self.rest())) }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && !"_-+.".contains(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn value(&mut self) -> Result<Shown, String> {
        if self.rest().starts_with('"') {
            return self.string();
        }
        if self.skip("[") {
            return Ok(Shown::List(self.until("]", Self::value)?));
        }
        let word = self.word();
        if self.skip(" { ") {
            let field = |p: &mut Self| {
                let name = p.word().to_owned();
                p.expect(": ")?;
                Ok((name, p.value()?))
            };
            return Ok(Shown::Struct(self.until(" }", field)?));
        }
        // Some(x), Inline(bytes), UnknownTags(None) are what they hold.
        if self.skip("(") {
            let mut items = self.until(")", Self::value)?;
            return Ok(if items.len() == 1 { items.remove(0) } else { Shown::List(items) });
        }
        Ok(if word == "None" { Shown::Null } else { Shown::Word(word.to_owned()) })
    }

    fn until<T>(&mut self, end: &str, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        while !self.skip(end) {
            if !items.is_empty() {
                self.expect(", ")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn string(&mut self) -> Result<Shown, String> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(Shown::Text(out));
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('r') => out.push('\r'),
                    Some('u') => {
                        let digits: String = chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                        let code = u32::from_str_radix(&digits, 16).map_err(|e| format!("{digits}: {e}"))?;
                        out.push(char::from_u32(code).ok_or_else(|| format!("{digits} is no character"))?);
                    }
                    Some('0') => out.push('\0'),
                    Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                    other => return Err(format!("escape {other:?}")),
                },
                c => out.push(c),
            }
        }
        Err("a string without end".into())
    }
}

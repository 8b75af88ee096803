//! Properties of clients: files of `--command-config` and pairs of `--command-property`.

use std::collections::BTreeMap;
use std::fs;

#[derive(Clone, Debug, Default)]
pub struct Props(BTreeMap<String, String>);

/// Keys that a client understands here; others of Kafka's client configuration are accepted and ignored, as they
/// change how a JVM client works, not what it does. What would need a protected connection is refused.
const PROTECTED: &[&str] = &["security.protocol", "sasl.mechanism"];

impl Props {
    pub fn load(path: &str) -> Result<Props, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Props::parse(&text))
    }

    /// Java's properties format: comments, three kinds of separators, lines continued by a backslash, escapes.
    pub fn parse(text: &str) -> Props {
        let mut map = BTreeMap::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut logical = line.trim_start().to_owned();
            if logical.is_empty() || logical.starts_with(['#', '!']) {
                continue;
            }
            while logical.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
                logical.pop();
                logical.push_str(lines.next().unwrap_or("").trim_start());
            }
            let (key, value) = split(&logical);
            map.insert(key, value);
        }
        Props(map)
    }

    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.to_owned(), value.into());
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Kafka's message for a value of the wrong type, so that scripts recognize it.
    pub fn number<T: std::str::FromStr>(&self, key: &str, kind: &str) -> Result<Option<T>, String> {
        self.get(key)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| format!("Invalid value {text} for configuration {key}: Not a number of type {kind}"))
            })
            .transpose()
    }

    pub fn bool(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, |text| text.trim().eq_ignore_ascii_case("true"))
    }

    /// Connections are plain for now: say so, rather than sending a password or hanging in a handshake.
    pub fn check_supported(&self) -> Result<(), String> {
        for key in PROTECTED {
            match self.get(key) {
                None | Some("PLAINTEXT") => {}
                Some(value) => {
                    return Err(format!(
                        "{key}={value}: these tools speak plain connections only so far; use a PLAINTEXT listener"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Key and value of a logical line, with escapes resolved.
fn split(line: &str) -> (String, String) {
    let mut key = String::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            '=' | ':' => break,
            c if c.is_whitespace() => break,
            '\\' => {
                chars.next();
                unescape(&mut chars, &mut key);
            }
            c => {
                chars.next();
                key.push(c);
            }
        }
    }
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
    }
    let mut value = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' {
            unescape(&mut chars, &mut value);
        } else {
            value.push(c);
        }
    }
    (key, value)
}

fn unescape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    match chars.next() {
        Some('t') => out.push('\t'),
        Some('n') => out.push('\n'),
        Some('r') => out.push('\r'),
        Some('f') => out.push('\x0c'),
        Some('u') => {
            let digits: String = chars.by_ref().take(4).collect();
            out.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
        }
        Some(c) => out.push(c),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Props;

    #[test]
    fn the_properties_format() {
        let text = "# c\n! c\na=1\n b : 2 \nc 3\nd=x\\\n   y\ne\\=f=\\u0041\\tb\n\nempty=\n";
        let props = Props::parse(text);
        let pairs: Vec<_> = props.iter().collect();
        assert_eq!(pairs, [("a", "1"), ("b", "2"), ("c", "3"), ("d", "xy"), ("e=f", "A\tb"), ("empty", "")]);
    }
}

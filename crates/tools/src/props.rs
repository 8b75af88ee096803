//! Properties of clients: files of `--command-config` and pairs of `--command-property`.

use std::collections::BTreeMap;
use std::fs;

use metadata::config::parse_properties;

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

    pub fn parse(text: &str) -> Props {
        Props(parse_properties(text).into_iter().map(|property| (property.key, property.value)).collect())
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

#[cfg(test)]
mod tests {
    use super::Props;

    #[test]
    fn the_properties_format() {
        let text = "# c\n! c\na=1\n b : 2 \nc 3\nd=x\\\n   y\ne\\=f=\\u0041\\tb\n\nempty=\n";
        let props = Props::parse(text);
        let pairs: Vec<_> = props.iter().collect();
        assert_eq!(pairs, [("a", "1"), ("b", "2 "), ("c", "3"), ("d", "xy"), ("e=f", "A\tb"), ("empty", "")]);
    }
}

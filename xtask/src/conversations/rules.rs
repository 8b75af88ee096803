//! What may differ between any two clusters, and the order in which lists without an order are compared.

#[derive(Default)]
pub struct Rules {
    ignored: Vec<String>,
    /// With the kind of the ids.
    numbered: Vec<(String, String)>,
    worded: Vec<String>,
    told: Vec<String>,
    /// A list and the field by which it is sorted.
    sorted: Vec<(String, String)>,
}

impl Rules {
    pub fn parse(text: &str) -> Result<Rules, String> {
        let mut rules = Rules::default();
        for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["ignore", path] => rules.ignored.push(path.to_owned()),
                ["number", path] => rules.numbered.push((path.to_owned(), path.to_owned())),
                ["number", path, "as", kind] => rules.numbered.push((path.to_owned(), kind.to_owned())),
                ["words", path] => rules.worded.push(path.to_owned()),
                ["told", path] => rules.told.push(path.to_owned()),
                ["sort", list, "by", field] => rules.sorted.push((list.to_owned(), field.to_owned())),
                _ => return Err(format!("rules: {line:?}")),
            }
        }
        Ok(rules)
    }

    /// Of no interest, but there or not there all the same.
    pub fn is_ignored(&self, path: &str) -> bool {
        self.ignored.iter().any(|rule| matches(rule, path))
    }

    /// The kind of an id that a cluster makes up: such ids are the first, second, … of their kind.
    pub fn numbered(&self, path: &str) -> Option<&str> {
        self.numbered.iter().find(|(rule, _)| matches(rule, path)).map(|(_, kind)| kind.as_str())
    }

    /// Texts for people: each has its own words.
    pub fn is_worded(&self, path: &str) -> bool {
        self.worded.iter().any(|rule| matches(rule, path))
    }

    /// Where we have words and Kafka has none.
    pub fn is_told(&self, path: &str) -> bool {
        self.told.iter().any(|rule| matches(rule, path))
    }

    pub fn sort_key(&self, path: &str) -> Option<&str> {
        self.sorted.iter().find(|(rule, _)| matches(rule, path)).map(|(_, field)| field.as_str())
    }
}

/// `Api.Field.Field`, without indexes; `*` for any API, or at the end for all that is below.
pub fn matches(rule: &str, path: &str) -> bool {
    match (rule.strip_prefix("*."), path.split_once('.')) {
        (Some(rule), Some((_, path))) => path == rule || path.strip_suffix(rule).is_some_and(|p| p.ends_with('.')),
        _ => rule == path || rule.strip_suffix(".*").is_some_and(|r| path == r || path.starts_with(&format!("{r}."))),
    }
}

/// A path without its indexes.
pub fn plain(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        inside |= c == '[';
        if !inside {
            out.push(c);
        }
        inside &= c != ']';
    }
    out
}

//! Reads the message tables in `crates/protocol/schema` into a model.
//!
//! A table is a head line, `## Name  kind  key=value …`, and a line per field, indented by its depth:
//! `Name  type versions [tag=N] [null=versions] [default=value] [ignorable] …`. A struct's fields stand below its
//! first use, or below a line `struct Name versions` if it is used several times.

use std::collections::BTreeMap;

/// Inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub lo: i16,
    pub hi: i16,
}

impl Versions {
    pub const NONE: Versions = Versions { lo: i16::MAX, hi: -1 };

    fn parse(text: &str) -> Versions {
        let text = text.trim_start_matches('v');
        if text == "none" {
            return Versions::NONE;
        }
        let number = |s: &str| s.parse().unwrap_or_else(|_| panic!("version {s:?}"));
        match (text.strip_suffix('+'), text.split_once('-')) {
            (Some(lo), _) => Versions { lo: number(lo), hi: i16::MAX },
            (None, Some((lo, hi))) => Versions { lo: number(lo), hi: number(hi) },
            (None, None) => Versions { lo: number(text), hi: number(text) },
        }
    }

    pub fn and(self, other: Versions) -> Versions {
        Versions { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) }
    }

    pub fn is_empty(self) -> bool {
        self.lo > self.hi
    }

    pub fn contains(self, v: i16) -> bool {
        (self.lo..=self.hi).contains(&v)
    }

    pub fn covers(self, other: Versions) -> bool {
        other.is_empty() || (self.lo <= other.lo && other.hi <= self.hi)
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    /// The type's word in the table, without `[]`.
    pub type_name: String,
    pub is_array: bool,
    pub versions: Versions,
    pub nullable: Versions,
    pub tag: Option<(u32, Versions)>,
    pub default: Option<String>,
    pub ignorable: bool,
    /// Never in the compact form, whatever the version (RequestHeader.ClientId).
    pub never_flexible: bool,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub name: String,
    pub kind: String,
    pub attributes: BTreeMap<String, String>,
    pub versions: Versions,
    pub flexible: Versions,
    /// In the order of their first mention; the message's own struct is first.
    pub structs: Vec<(String, Vec<Field>)>,
}

impl Message {
    pub fn fields(&self, name: &str) -> &[Field] {
        let found = self.structs.iter().find(|(n, _)| n == name);
        &found.unwrap_or_else(|| panic!("{}: no struct {name}", self.name)).1
    }

    /// Carries its number where it is stored, so that a reader of the log knows what it is.
    pub fn is_record(&self) -> bool {
        matches!(self.kind.as_str(), "metadata" | "coordinator-key" | "coordinator-value")
    }

    pub fn is_struct(&self, type_name: &str) -> bool {
        self.structs.iter().any(|(n, _)| n == type_name)
    }
}

pub fn parse(text: &str) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    // The struct that a line of this depth belongs to.
    let mut owners: Vec<(usize, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(head) = line.strip_prefix("## ") {
            let message = parse_head(head);
            owners = vec![(0, message.name.clone())];
            messages.push(message);
            continue;
        }
        let message = messages.last_mut().unwrap_or_else(|| panic!("no head before {line:?}"));
        let depth = line.len() - line.trim_start().len();
        while owners.last().is_some_and(|(d, _)| *d >= depth) {
            owners.pop();
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["struct", name, ..] = words[..] {
            owners.push((depth, name.to_owned()));
            add_struct(message, name);
            continue;
        }
        let field = parse_field(&words);
        let carried = field.versions.and(message.versions);
        assert!(!carried.is_empty(), "{}: no version carries {}", message.name, field.name);
        let owner = &owners.last().expect("the message itself is an owner").1;
        let place = message.structs.iter_mut().find(|(n, _)| n == owner);
        place.unwrap_or_else(|| panic!("{}: fields of unknown {owner}", message.name)).1.push(field.clone());
        if !PRIMITIVES.contains(&field.type_name.as_str()) {
            add_struct(message, &field.type_name);
            owners.push((depth, field.type_name));
        }
    }
    messages
}

pub const PRIMITIVES: &[&str] =
    &["bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "float64", "uuid", "string", "bytes", "records"];

fn add_struct(message: &mut Message, name: &str) {
    if !message.is_struct(name) {
        message.structs.push((name.to_owned(), Vec::new()));
    }
}

fn parse_head(head: &str) -> Message {
    let mut words = head.split_whitespace();
    let name = words.next().expect("a name").to_owned();
    let kind = words.next().expect("a kind").to_owned();
    let attributes: BTreeMap<String, String> = words
        .map(|word| word.split_once('=').map_or((word, ""), |(k, v)| (k, v)))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let versions = Versions::parse(&attributes["versions"]);
    let flexible = Versions::parse(&attributes["flexible"]);
    let structs = vec![(name.clone(), Vec::new())];
    Message { name, kind, attributes, versions, flexible, structs }
}

fn parse_field(words: &[&str]) -> Field {
    let [name, type_name, versions, rest @ ..] = words else { panic!("field line {words:?}") };
    let mut field = Field {
        name: (*name).to_owned(),
        type_name: type_name.trim_start_matches("[]").to_owned(),
        is_array: type_name.starts_with("[]"),
        versions: Versions::parse(versions),
        nullable: Versions::NONE,
        tag: None,
        default: None,
        ignorable: false,
        never_flexible: false,
    };
    for word in rest {
        match word.split_once('=').unwrap_or((word, "")) {
            ("tag", value) => {
                let (number, versions) = match value.split_once('(') {
                    Some((number, versions)) => (number, Versions::parse(versions.trim_end_matches(')'))),
                    None => (value, field.versions),
                };
                field.tag = Some((number.parse().expect("a tag is a number"), versions));
            }
            ("null", value) => field.nullable = Versions::parse(value),
            ("default", value) => field.default = Some(value.to_owned()),
            ("ignorable", _) => field.ignorable = true,
            ("flex", "none") => field.never_flexible = true,
            ("key" | "is" | "zero-copy", _) => {}
            other => panic!("unknown word {other:?} in {words:?}"),
        }
    }
    field
}

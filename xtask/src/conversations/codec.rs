//! Requests and answers by the schema alone. The generated codec is not used: it is part of what is tested.

use std::collections::BTreeMap;

use super::batch;
use super::script::{Node, hex};
use crate::codegen::schema::{Field, Message, Versions};

/// A decoded value; a struct's fields are in the order of the schema, without those that the version does not carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Word(String),
    Text(String),
    Uuid([u8; 16]),
    List(Vec<Value>),
    Struct(Vec<(String, Value)>),
}

pub struct Schema {
    messages: BTreeMap<String, Message>,
}

/// What words stand for: `$name` and `#topic`.
#[derive(Default)]
pub struct Names {
    pub variables: BTreeMap<String, String>,
    pub topic_ids: BTreeMap<String, [u8; 16]>,
}

impl Names {
    /// The last of several comes first, so that `$m$v` is `$m7` where `$v` is 7.
    pub fn resolve(&self, word: &str) -> Result<String, String> {
        let mut word = word.to_owned();
        while let Some((head, tail)) = word.rsplit_once('$') {
            let end = tail.find(|c: char| !c.is_alphanumeric()).unwrap_or(tail.len());
            let value = self.variables.get(&tail[..end]).ok_or_else(|| format!("${} is not set", &tail[..end]))?;
            word = format!("{head}{value}{}", &tail[end..]);
        }
        Ok(word)
    }
}

impl Schema {
    pub fn parse(text: &str) -> Schema {
        let messages = crate::codegen::schema::parse(text).into_iter().map(|m| (m.name.clone(), m)).collect();
        Schema { messages }
    }

    pub fn message(&self, name: &str) -> Result<&Message, String> {
        self.messages.get(name).ok_or_else(|| format!("the schema has no {name}"))
    }

    pub fn api_key(&self, api: &str) -> Result<i16, String> {
        let key = self.message(&format!("{api}Request"))?.attributes.get("apiKey");
        key.and_then(|k| k.parse().ok()).ok_or_else(|| format!("{api} has no key"))
    }

    /// `5`, `0-3`, `0,2-4` or `all`.
    pub fn versions(&self, api: &str, text: &str) -> Result<Vec<i16>, String> {
        let known = self.message(&format!("{api}Request"))?.versions;
        if text == "all" {
            return Ok((known.lo..=known.hi).collect());
        }
        let mut out = Vec::new();
        for part in text.split(',') {
            let (lo, hi) = part.split_once('-').filter(|(lo, _)| !lo.is_empty()).unwrap_or((part, part));
            let number = |s: &str| s.parse::<i16>().map_err(|_| format!("{text:?} are no versions"));
            out.extend(number(lo)?..=number(hi)?);
        }
        Ok(out)
    }

    /// The frame behind its length. A version that nobody knows has the body of the last known one.
    pub fn request(&self, api: &str, version: i16, id: i32, body: &Node, names: &Names) -> Result<Vec<u8>, String> {
        let message = self.message(&format!("{api}Request"))?;
        let flexible = message.flexible.contains(version);
        let mut out = Vec::new();
        out.extend(self.api_key(api)?.to_be_bytes());
        out.extend(version.to_be_bytes());
        out.extend(id.to_be_bytes());
        out.extend(13i16.to_be_bytes());
        out.extend(b"conversations");
        if flexible {
            out.push(0);
        }
        let known = version.clamp(message.versions.lo, message.versions.hi);
        Encoder { message, version: known, names, out: &mut out }.fields(&message.name, body)?;
        Ok(out)
    }

    /// A body of an answer.
    pub fn response(&self, api: &str, version: i16, frame: &[u8]) -> Result<Value, String> {
        let message = self.message(&format!("{api}Response"))?;
        let flexible = message.flexible.contains(version);
        let mut decoder = Decoder { message, version, rest: frame.get(4..).ok_or("no correlation id")? };
        if flexible && api != "ApiVersions" {
            decoder.unknown_tags()?;
        }
        let value = decoder.fields(&message.name)?;
        if decoder.rest.is_empty() { Ok(value) } else { Err(format!("{} bytes behind the answer", decoder.rest.len())) }
    }
}

struct Encoder<'a> {
    message: &'a Message,
    version: i16,
    names: &'a Names,
    out: &'a mut Vec<u8>,
}

impl Encoder<'_> {
    fn flexible(&self) -> bool {
        self.message.flexible.contains(self.version)
    }

    fn fields(&mut self, owner: &str, node: &Node) -> Result<(), String> {
        let Node::Struct(given) = node else { return Err(format!("{owner} should be a struct, not {node:?}")) };
        let fields = self.message.fields(owner);
        for (name, _) in given {
            if !fields.iter().any(|f| f.name == *name) {
                return Err(format!("{owner} has no field {name}"));
            }
        }
        let find = |field: &Field| given.iter().find(|(n, _)| *n == field.name).map(|(_, v)| v);
        let carried = fields.iter().filter(|f| f.versions.contains(self.version));
        let (tagged, plain): (Vec<&Field>, Vec<&Field>) = carried.partition(|f| is_tagged(f, self.version));
        for field in plain {
            self.field(field, find(field)).map_err(|why| format!("{}: {why}", field.name))?;
        }
        if !self.flexible() {
            return Ok(());
        }
        let mut tags = Vec::new();
        for field in tagged {
            let (Some(node), Some((tag, _))) = (find(field), field.tag) else { continue };
            let mut out = Vec::new();
            let (message, version, names) = (self.message, self.version, self.names);
            Encoder { message, version, names, out: &mut out }.field(field, Some(node))?;
            tags.push((tag, out));
        }
        tags.sort();
        unsigned(self.out, tags.len() as u32);
        for (tag, bytes) in tags {
            unsigned(self.out, tag);
            unsigned(self.out, bytes.len() as u32);
            self.out.extend(bytes);
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, node: Option<&Node>) -> Result<(), String> {
        let fallback = match &field.default {
            Some(text) if text == "null" => Some(Node::Null),
            Some(text) => Some(Node::Word(text.clone())),
            None => None,
        };
        let node = node.or(fallback.as_ref());
        if field.is_array {
            let items = match node {
                Some(Node::Null) => {
                    self.length(None);
                    return Ok(());
                }
                Some(Node::List(items)) => items.as_slice(),
                None => &[],
                Some(other) => return Err(format!("a list is needed, not {other:?}")),
            };
            self.length(Some(items.len()));
            return items.iter().try_for_each(|item| self.one(field, Some(item)));
        }
        self.one(field, node)
    }

    fn one(&mut self, field: &Field, node: Option<&Node>) -> Result<(), String> {
        if self.message.is_struct(&field.type_name) {
            let nullable = field.nullable.contains(self.version) && !field.is_array;
            if nullable {
                self.out.push(if matches!(node, Some(Node::Null)) { 0xff } else { 1 });
            }
            let empty = Node::Struct(Vec::new());
            return match node {
                Some(Node::Null) if nullable => Ok(()),
                node => self.fields(&field.type_name, node.unwrap_or(&empty)),
            };
        }
        match field.type_name.as_str() {
            "string" | "bytes" | "records" => self.blob(field, node),
            "uuid" => {
                let id = self.uuid(node)?;
                self.out.extend(id);
                Ok(())
            }
            name => {
                let word = match node {
                    None => "0".to_owned(),
                    Some(Node::Word(word)) => self.names.resolve(word)?,
                    Some(other) => return Err(format!("a number is needed, not {other:?}")),
                };
                let value = number(&word)?;
                if name == "float64" {
                    self.out.extend((value as f64).to_be_bytes());
                    return Ok(());
                }
                let size = size_of(name).ok_or_else(|| format!("{name} is not known"))?;
                self.out.extend(&value.to_be_bytes()[8 - size..]);
                Ok(())
            }
        }
    }

    fn blob(&mut self, field: &Field, node: Option<&Node>) -> Result<(), String> {
        let bytes = match node {
            Some(Node::Null) => None,
            None => Some(Vec::new()),
            Some(node) if field.type_name == "records" => Some(batch::records(node, &|word| self.names.resolve(word))?),
            Some(Node::Word(word)) if field.type_name == "bytes" => Some(hex(word)?),
            Some(Node::Word(word)) => Some(repeated(&self.names.resolve(word)?)),
            Some(other) => return Err(format!("a text is needed, not {other:?}")),
        };
        if field.type_name == "string" && !self.flexible() {
            let length = bytes.as_ref().map_or(-1, |b| b.len() as i16);
            self.out.extend(length.to_be_bytes());
        } else {
            self.length(bytes.as_ref().map(Vec::len));
        }
        self.out.extend(bytes.unwrap_or_default());
        Ok(())
    }

    fn length(&mut self, length: Option<usize>) {
        match (self.flexible(), length) {
            (true, length) => unsigned(self.out, length.map_or(0, |n| n as u32 + 1)),
            (false, length) => self.out.extend(length.map_or(-1, |n| n as i32).to_be_bytes()),
        }
    }

    fn uuid(&self, node: Option<&Node>) -> Result<[u8; 16], String> {
        let Some(Node::Word(word)) = node else { return Ok([0; 16]) };
        match word.strip_prefix('#') {
            Some(topic) => {
                let topic = self.names.resolve(topic)?;
                self.names.topic_ids.get(&topic).copied().ok_or_else(|| format!("the id of {topic} is not known"))
            }
            // Any number is an id, too.
            None => Ok((number(word)? as u128).to_be_bytes()),
        }
    }
}

/// `x*250` is 250 times x.
fn repeated(word: &str) -> Vec<u8> {
    match word.rsplit_once('*').and_then(|(text, n)| Some(text.repeat(n.parse().ok()?))) {
        Some(text) => text.into_bytes(),
        None => word.as_bytes().to_vec(),
    }
}

pub fn number(word: &str) -> Result<i64, String> {
    let parsed = match (word, word.strip_prefix("0x")) {
        ("true", _) => Ok(1),
        ("false", _) => Ok(0),
        (_, Some(digits)) => i64::from_str_radix(digits, 16),
        _ => word.parse(),
    };
    parsed.map_err(|e| format!("{word:?}: {e}"))
}

fn is_tagged(field: &Field, version: i16) -> bool {
    field.tag.is_some_and(|(_, versions): (u32, Versions)| versions.contains(version))
}

fn size_of(type_name: &str) -> Option<usize> {
    Some(match type_name {
        "bool" | "int8" => 1,
        "int16" | "uint16" => 2,
        "int32" | "uint32" => 4,
        "int64" => 8,
        _ => return None,
    })
}

fn unsigned(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Decoder<'a> {
    message: &'a Message,
    version: i16,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or("the answer ends early")?;
        self.rest = rest;
        Ok(head)
    }

    fn int(&mut self, size: usize) -> Result<i64, String> {
        let bytes = self.take(size)?;
        let negative = bytes.first().is_some_and(|b| *b >= 0x80);
        Ok(bytes.iter().fold(if negative { -1 } else { 0 }, |n, b| (n << 8) | i64::from(*b)))
    }

    fn unsigned(&mut self) -> Result<u32, String> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.int(1)? as u32;
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a length without end".to_owned())
    }

    fn unknown_tags(&mut self) -> Result<Vec<(u32, &'a [u8])>, String> {
        (0..self.unsigned()?)
            .map(|_| {
                let tag = self.unsigned()?;
                let size = self.unsigned()?;
                Ok((tag, self.take(size as usize)?))
            })
            .collect()
    }

    fn fields(&mut self, owner: &str) -> Result<Value, String> {
        let (message, version) = (self.message, self.version);
        let flexible = message.flexible.contains(version);
        let fields = message.fields(owner);
        let mut out = Vec::new();
        for field in fields.iter().filter(|f| f.versions.contains(version) && !is_tagged(f, version)) {
            let value = self.field(field).map_err(|why| format!("{}: {why}", field.name))?;
            out.push((field.name.clone(), value));
        }
        if flexible {
            for (tag, bytes) in self.unknown_tags()? {
                let is_it = |f: &&Field| is_tagged(f, version) && f.tag.is_some_and(|(t, _)| t == tag);
                let Some(field) = fields.iter().find(is_it) else {
                    out.push((format!("tag-{tag}"), Value::Word(format!("{bytes:02x?}"))));
                    continue;
                };
                let mut inner = Decoder { message: self.message, version: self.version, rest: bytes };
                out.push((field.name.clone(), inner.field(field)?));
                if !inner.rest.is_empty() {
                    return Err(format!("{}: bytes behind the tag", field.name));
                }
            }
        }
        Ok(Value::Struct(out))
    }

    fn field(&mut self, field: &Field) -> Result<Value, String> {
        if !field.is_array {
            return self.one(field);
        }
        match self.length(4)? {
            None => Ok(Value::Null),
            Some(n) => Ok(Value::List((0..n).map(|_| self.one(field)).collect::<Result<_, _>>()?)),
        }
    }

    fn one(&mut self, field: &Field) -> Result<Value, String> {
        if self.message.is_struct(&field.type_name) {
            let nullable = field.nullable.contains(self.version) && !field.is_array;
            if nullable && self.int(1)? < 0 {
                return Ok(Value::Null);
            }
            return self.fields(&field.type_name);
        }
        Ok(match field.type_name.as_str() {
            "bool" => Value::Word((self.int(1)? != 0).to_string()),
            "uint16" => Value::Word((self.int(2)? as u16).to_string()),
            "uint32" => Value::Word((self.int(4)? as u32).to_string()),
            "float64" => Value::Word(f64::from_bits(self.int(8)? as u64).to_string()),
            "uuid" => Value::Uuid(self.take(16)?.try_into().expect("sixteen bytes")),
            "string" => match self.length(2)? {
                Some(n) => Value::Text(String::from_utf8_lossy(self.take(n)?).into_owned()),
                None => Value::Null,
            },
            "bytes" | "records" => match self.length(4)? {
                Some(n) if field.type_name == "records" => batch::shown(self.take(n)?),
                Some(n) => Value::Word(format!("{:02x?}", self.take(n)?)),
                None => Value::Null,
            },
            name => Value::Word(self.int(size_of(name).ok_or_else(|| format!("{name} is not known"))?)?.to_string()),
        })
    }

    fn length(&mut self, size: usize) -> Result<Option<usize>, String> {
        let length = match self.message.flexible.contains(self.version) {
            true => i64::from(self.unsigned()?) - 1,
            false => self.int(size)?,
        };
        if length > self.rest.len() as i64 {
            Err(format!("{length} elements"))
        } else {
            Ok(usize::try_from(length).ok())
        }
    }
}

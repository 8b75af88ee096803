//! Random values in Kafka's wire format, from the tables in `crates/protocol/schema`. The bytes are written without our
//! codec and not always in the form that an encoder would choose: numbers of variable length may be padded, and tagged
//! fields may hold their default.

use fastrand::Rng;

use crate::schema::{Field, Message};

const NUMBERS: &[i64] =
    &[0, 1, -1, 127, -128, 16_383, i16::MAX as i64, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];
const LENGTHS: &[usize] = &[0, 0, 1, 2, 5, 9, 20, 126, 127, 128, 300];
/// Structs within structs below which arrays have an element at most.
const DEEP: usize = 3;

pub fn random(message: &Message, version: i16, rng: &mut Rng) -> Vec<u8> {
    let flexible = message.flexible.contains(version);
    let mut values = Values { message, version, flexible, padded: rng.u8(0..4) == 0, rng, out: Vec::new() };
    values.fields(&message.name, 0);
    values.out
}

struct Values<'v> {
    message: &'v Message,
    version: i16,
    flexible: bool,
    /// Whether numbers of variable length are sometimes longer than they need to be.
    padded: bool,
    rng: &'v mut Rng,
    out: Vec<u8>,
}

impl Values<'_> {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn fields(&mut self, name: &str, depth: usize) {
        let (fields, version) = (self.message.fields(name), self.version);
        for field in fields.iter().filter(|f| f.tag.is_none() && f.versions.contains(version)) {
            self.field(field, false, depth);
        }
        if self.flexible {
            self.tags(fields, depth);
        }
    }

    fn tags(&mut self, fields: &[Field], depth: usize) {
        let known: Vec<u32> = fields.iter().filter_map(|f| f.tag).map(|(tag, _)| tag).collect();
        let mut tags: Vec<(u32, Vec<u8>)> = Vec::new();
        for field in fields {
            let Some((tag, _)) = field.tag.filter(|(_, versions)| versions.contains(self.version)) else { continue };
            if self.one_in(3) {
                continue;
            }
            let outer = std::mem::take(&mut self.out);
            self.field(field, true, depth);
            tags.push((tag, std::mem::replace(&mut self.out, outer)));
        }
        if self.one_in(6) {
            for _ in 0..self.rng.usize(1..4) {
                let tag = if self.rng.bool() { self.rng.u32(0..40) } else { self.rng.u32(0..1 << 31) };
                if !known.contains(&tag) && !tags.iter().any(|(t, _)| *t == tag) {
                    tags.push((tag, self.random_bytes()));
                }
            }
        }
        tags.sort();
        self.uvarint(tags.len() as u32);
        for (tag, bytes) in tags {
            self.uvarint(tag);
            self.uvarint(bytes.len() as u32);
            self.out.extend(bytes);
        }
    }

    fn field(&mut self, field: &Field, in_tag: bool, depth: usize) {
        let compact = self.flexible && !field.never_flexible;
        if field.nullable.contains(self.version) && self.one_in(4) {
            return self.null(field, compact, in_tag);
        }
        if !field.is_array {
            if self.message.is_struct(&field.type_name) && field.nullable.contains(self.version) {
                self.out.push(1);
            }
            return self.value(field, compact, depth);
        }
        let most = if depth >= DEEP { 1 } else { 3 };
        let mut count = self.rng.usize(0..=most);
        if !self.message.is_struct(&field.type_name) && self.one_in(30) {
            count = self.rng.usize(126..130);
        }
        self.length(compact, count);
        for _ in 0..count {
            self.value(field, compact, depth);
        }
    }

    fn null(&mut self, field: &Field, compact: bool, in_tag: bool) {
        let is_struct = self.message.is_struct(&field.type_name) && !field.is_array;
        match field.type_name.as_str() {
            _ if is_struct && in_tag => self.out.push(0),
            _ if is_struct => self.out.push(0xff),
            _ if compact => self.out.push(0),
            "string" if !field.is_array => self.out.extend((-1i16).to_be_bytes()),
            _ => self.out.extend((-1i32).to_be_bytes()),
        }
    }

    fn value(&mut self, field: &Field, compact: bool, depth: usize) {
        let number = match field.default.as_deref().and_then(|d| d.parse::<i64>().ok()) {
            Some(default) if self.one_in(4) => default,
            _ => self.number(),
        };
        match field.type_name.as_str() {
            "bool" => self.out.push(u8::from(number & 1 == 0)),
            "int8" => self.out.push(number as u8),
            "int16" | "uint16" => self.out.extend((number as i16).to_be_bytes()),
            "int32" | "uint32" => self.out.extend((number as i32).to_be_bytes()),
            "int64" => self.out.extend(number.to_be_bytes()),
            "float64" => self.out.extend((number as f64 / 3.0).to_be_bytes()),
            "uuid" if self.one_in(4) => self.out.extend([0; 16]),
            "uuid" => self.out.extend(self.rng.u128(..).to_be_bytes()),
            "string" => {
                let text = self.random_text();
                if compact {
                    self.uvarint(text.len() as u32 + 1);
                } else {
                    self.out.extend((text.len() as i16).to_be_bytes());
                }
                self.out.extend(text.as_bytes());
            }
            "bytes" | "records" => {
                let bytes = self.random_bytes();
                self.length(compact, bytes.len());
                self.out.extend(bytes);
            }
            name => self.fields(name, depth + 1),
        }
    }

    fn number(&mut self) -> i64 {
        match self.rng.u8(0..3) {
            0 => *self.rng.choice(NUMBERS).expect("numbers"),
            _ => self.rng.i64(..) >> self.rng.u32(0..64),
        }
    }

    fn random_bytes(&mut self) -> Vec<u8> {
        let len = *self.rng.choice(LENGTHS).expect("lengths");
        (0..len).map(|_| self.rng.u8(..)).collect()
    }

    fn random_text(&mut self) -> String {
        let len = *self.rng.choice(LENGTHS).expect("lengths");
        let mut one = || match self.rng.u8(0..12) {
            0 => self.rng.char('\0'..'\u{80}'),
            1 => self.rng.char('\u{80}'..'\u{800}'),
            2 => self.rng.char('\u{800}'..'\u{10000}'),
            3 => self.rng.char('\u{10000}'..),
            _ => self.rng.lowercase(),
        };
        (0..len).map(|_| one()).collect()
    }

    fn length(&mut self, compact: bool, len: usize) {
        if compact {
            self.uvarint(len as u32 + 1);
        } else {
            self.out.extend((len as i32).to_be_bytes());
        }
    }

    fn uvarint(&mut self, mut value: u32) {
        let mut len = 1;
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
            len += 1;
        }
        if self.padded && len < 5 && self.one_in(8) {
            self.out.push(value as u8 | 0x80);
            // Zeros up to the longest form there is.
            let more = self.rng.usize(0..5 - len);
            self.out.extend(std::iter::repeat_n(0x80, more));
            self.out.push(0);
        } else {
            self.out.push(value as u8);
        }
    }
}

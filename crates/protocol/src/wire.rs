//! The primitive types of Kafka's wire format, read from a borrowed frame and written to a growing one.
//!
//! A [`Reader`] never trusts a length: it is compared with what is left of the frame, and every array is charged
//! against an allocation budget, before anything is allocated. A [`Writer`] cannot fail midway; the first value
//! that does not fit its field is remembered and reported by [`Writer::finish`].

use std::borrow::Cow;
use std::fmt;

pub type Str<'a> = Cow<'a, str>;
pub type Bytes<'a> = Cow<'a, [u8]>;

/// Bytes of decoded arrays that one frame may ask for, whatever its size. A frame of 100 MiB of one-byte elements
/// must not become gigabytes of structs.
pub const DECODED_BYTES_MAX: usize = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The frame ends before the value does.
    Truncated {
        needed: usize,
        left: usize,
    },
    /// A length that is negative where null is not allowed, or beyond what the frame can hold.
    BadLength(i64),
    /// The decoded form would exceed [`DECODED_BYTES_MAX`].
    TooLarge,
    BadVarint,
    /// Tags must be strictly increasing within a struct.
    TagOrder(u32),
    TagLength {
        tag: u32,
        left: usize,
    },
    /// A tagged field ends before its value does, or the frame before the field.
    TagTooShort {
        tag: u32,
    },
    /// A tag that the schema gives to a later version.
    TagNotInVersion {
        tag: u32,
        version: i16,
    },
    UnsupportedVersion {
        message: &'static str,
        version: i16,
    },
    /// Bytes after the end of the message.
    Trailing(usize),
    UnknownApiKey(i16),
    Invalid(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, left } => write!(f, "needs {needed} bytes where {left} are left"),
            Self::BadLength(n) => write!(f, "length {n} does not fit the frame"),
            Self::TooLarge => write!(f, "decodes to more than {DECODED_BYTES_MAX} bytes"),
            Self::BadVarint => write!(f, "varint is longer than its type"),
            Self::TagOrder(tag) => write!(f, "tag {tag} is out of order"),
            Self::TagLength { tag, left } => write!(f, "tag {tag} leaves {left} of its bytes unread"),
            Self::TagTooShort { tag } => write!(f, "tag {tag} ends before its value does"),
            Self::TagNotInVersion { tag, version } => write!(f, "version {version} has no tag {tag}"),
            Self::UnsupportedVersion { message, version } => write!(f, "{message} has no version {version}"),
            Self::Trailing(n) => write!(f, "{n} bytes follow the end of the message"),
            Self::UnknownApiKey(key) => write!(f, "unknown api key {key}"),
            Self::Invalid(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// Longer than the length field of this version can say.
    TooLong {
        what: &'static str,
        len: usize,
    },
    /// Null where this version has no null.
    UnexpectedNull(&'static str),
    /// A field is set that this version of the message cannot carry, and that must not be dropped in silence.
    FieldNotInVersion {
        field: &'static str,
        version: i16,
    },
    UnsupportedVersion {
        message: &'static str,
        version: i16,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { what, len } => write!(f, "{what} of {len} bytes or elements is too long for its field"),
            Self::UnexpectedNull(field) => write!(f, "{field} must not be null in this version"),
            Self::FieldNotInVersion { field, version } => write!(f, "version {version} cannot carry {field}"),
            Self::UnsupportedVersion { message, version } => write!(f, "{message} has no version {version}"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// 16 bytes; shown as Kafka shows them, URL-safe base64 without padding (22 characters).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    pub const ZERO: Uuid = Uuid([0; 16]);
    /// The id of `__cluster_metadata`; as a directory id it means UNASSIGNED.
    pub const ONE: Uuid = Uuid::reserved(1);

    pub const fn reserved(low: u8) -> Uuid {
        let mut bytes = [0; 16];
        bytes[15] = low;
        Uuid(bytes)
    }

    /// A version 4 UUID from 16 random bytes.
    pub const fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uuid(bytes)
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The first hundred ids mean something by themselves (lost, unassigned, …) and are never given to a directory.
    pub fn is_reserved(&self) -> bool {
        self.0[..15] == [0; 15] && self.0[15] < 100
    }

    /// Accepts what `Uuid.fromString` of Kafka accepts: at most 24 characters that decode to 16 bytes.
    pub fn parse(text: &str) -> Option<Uuid> {
        let text = text.strip_suffix("==").unwrap_or(text);
        if text.len() != 22 {
            return None;
        }
        let mut bits: u32 = 0;
        let mut have = 0;
        let mut out = [0u8; 16];
        let mut at = 0;
        for c in text.bytes() {
            let v = BASE64URL.iter().position(|&b| b == c)? as u32;
            bits = (bits << 6) | v;
            have += 6;
            if have >= 8 {
                have -= 8;
                *out.get_mut(at)? = (bits >> have) as u8;
                at += 1;
            }
        }
        (at == 16).then_some(Uuid(out))
    }
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = u128::from_be_bytes(self.0);
        for i in 0..22 {
            let shift = 122 - 6 * i;
            let v = if shift >= 0 { (n >> shift) & 63 } else { (n << -shift) & 63 };
            write!(f, "{}", BASE64URL[v as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `records` field: opaque batches, either here or somewhere the sender will splice in from (a segment file).
#[derive(Clone, Debug, PartialEq)]
pub enum Records<'a> {
    Inline(Bytes<'a>),
    /// `len` bytes that are not in the frame's buffer; `id` is the sender's own key for where they are.
    External {
        len: u32,
        id: u64,
    },
}

impl<'a> Records<'a> {
    pub const EMPTY: Records<'static> = Records::Inline(Cow::Borrowed(&[]));

    pub fn len(&self) -> usize {
        match self {
            Records::Inline(bytes) => bytes.len(),
            Records::External { len, .. } => *len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; empty for external records, which a decoder never makes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Records::Inline(bytes) => bytes,
            Records::External { .. } => &[],
        }
    }
}

impl Default for Records<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Tagged fields that this version of the schema does not know, kept so that they go out as they came in.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::box_collection, reason = "one word in every generated struct, where there are hardly ever any")]
pub struct UnknownTags(Option<Box<Vec<(u32, Vec<u8>)>>>);

impl UnknownTags {
    /// A field of our own in a message of Kafka's, which others take for one of a version to come.
    pub fn one(tag: u32, bytes: &[u8]) -> Self {
        let mut tags = Self::default();
        tags.push(tag, bytes);
        tags
    }

    /// In the order of their numbers, none of which the struct knows: [`Writer::tag_count`] relies on both.
    pub(crate) fn push(&mut self, tag: u32, bytes: &[u8]) {
        self.0.get_or_insert_default().push((tag, bytes.to_vec()));
    }

    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |tags| tags.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.0.iter().flat_map(|tags| tags.iter()).map(|(tag, bytes)| (*tag, bytes.as_slice()))
    }
}

#[derive(Clone, Debug)]
pub struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
    budget: usize,
}

impl<'a> Reader<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0, budget: DECODED_BYTES_MAX }
    }

    pub fn left(&self) -> usize {
        self.buf.len() - self.at
    }

    pub fn position(&self) -> usize {
        self.at
    }

    /// Everything that has not been read yet, without reading it.
    pub fn rest(&self) -> &'a [u8] {
        self.buf.get(self.at..).unwrap_or_default()
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.left();
        match self.buf.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(DecodeError::Truncated { needed: n, left }),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.budget = self.budget.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }

    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| DecodeError::Truncated { needed: N, left: 0 })
    }

    // DIFFERS: Kafka does not look at what stands behind the end of a message; here bytes that mean nothing are refused,
    // since whoever sends them means something else than what we have read.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            n => Err(DecodeError::Trailing(n)),
        }
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(i8::from_be_bytes(self.array_of()?))
    }
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.array_of()?))
    }
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array_of()?))
    }
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array_of()?))
    }
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array_of()?))
    }
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array_of()?))
    }
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.array_of()?))
    }
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid(self.array_of()?))
    }

    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.array_of::<1>()?[0];
            // DIFFERS: Kafka drops bits of the last byte that do not fit; no encoder sets them.
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::BadVarint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint)
    }

    /// Zigzag, 32 bits.
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        let n = self.uvarint()?;
        Ok(((n >> 1) as i32) ^ -((n & 1) as i32))
    }

    /// Zigzag, 64 bits.
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        let mut n: u64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.array_of::<1>()?[0];
            if shift == 63 && byte > 1 {
                return Err(DecodeError::BadVarint);
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(((n >> 1) as i64) ^ -((n & 1) as i64));
            }
        }
        Err(DecodeError::BadVarint)
    }

    /// One more than the length, which Kafka takes for a signed number too.
    fn compact_len(&mut self) -> Result<i32, DecodeError> {
        Ok((self.uvarint()? as i32).wrapping_sub(1))
    }

    fn string_len(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let len = if flexible { self.compact_len()? } else { i32::from(self.i16()?) };
        self.checked_len(len)
    }

    fn long_len(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let len = if flexible { self.compact_len()? } else { self.i32()? };
        self.checked_len(len)
    }

    /// Any negative length is null, as for Kafka, although every encoder writes −1.
    fn checked_len(&self, len: i32) -> Result<Option<usize>, DecodeError> {
        match usize::try_from(len) {
            Err(_) => Ok(None),
            Ok(len) if len <= self.left() => Ok(Some(len)),
            Ok(_) => Err(DecodeError::BadLength(len.into())),
        }
    }

    /// Bytes that are not UTF-8 become U+FFFD: a client may call itself what it likes.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<Str<'a>>, DecodeError> {
        let Some(len) = self.string_len(flexible)? else { return Ok(None) };
        if len > i16::MAX as usize {
            return Err(DecodeError::BadLength(len as i64));
        }
        let bytes = self.take(len)?;
        Ok(Some(match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                self.charge(len.saturating_mul(3))?;
                Cow::Owned(utf8_as_in_java(bytes))
            }
        }))
    }

    pub fn string(&mut self, flexible: bool) -> Result<Str<'a>, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::BadLength(-1))
    }

    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes<'a>>, DecodeError> {
        let Some(len) = self.long_len(flexible)? else { return Ok(None) };
        Ok(Some(Cow::Borrowed(self.take(len)?)))
    }

    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes<'a>, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::BadLength(-1))
    }

    pub fn nullable_records(&mut self, flexible: bool) -> Result<Option<Records<'a>>, DecodeError> {
        Ok(self.nullable_bytes(flexible)?.map(Records::Inline))
    }

    /// An array whose elements take at least `min_size` bytes each on the wire.
    pub fn nullable_array<T>(
        &mut self,
        flexible: bool,
        min_size: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(len) = self.long_len(flexible)? else { return Ok(None) };
        if len > self.left() / min_size.max(1) {
            return Err(DecodeError::BadLength(len as i64));
        }
        self.charge(len.saturating_mul(size_of::<T>()))?;
        let mut out = Vec::with_capacity(len);
        for _ in 0..len {
            out.push(element(self)?);
        }
        Ok(Some(out))
    }

    pub fn array<T>(
        &mut self,
        flexible: bool,
        min_size: usize,
        element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        self.nullable_array(flexible, min_size, element)?.ok_or(DecodeError::BadLength(-1))
    }

    /// The tagged fields of a flexible struct. `known` is handed each field as its own reader and answers whether it
    /// read it; what nobody knows is kept in `unknown`.
    pub fn tags(
        &mut self,
        unknown: &mut UnknownTags,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()? as usize;
        if count > i32::MAX as usize {
            return Err(DecodeError::BadVarint);
        }
        if count > self.left() / 2 {
            return Err(DecodeError::BadLength(count as i64));
        }
        let mut previous = None;
        for _ in 0..count {
            let tag = self.uvarint()?;
            // What Kafka would decode and then refuse to encode.
            if tag >= i32::MAX as u32 {
                return Err(DecodeError::BadVarint);
            }
            // DIFFERS: Kafka's decoder takes tags in any order and twice; its encoder, as everybody's, writes them in
            // increasing order, and two fields of one number have no meaning.
            if previous.is_some_and(|p| tag <= p) {
                return Err(DecodeError::TagOrder(tag));
            }
            previous = Some(tag);
            let len = self.uvarint()? as usize;
            // DIFFERS: Kafka does not compare the length of a tagged field that it knows with what it reads of it, and goes
            // on wherever that leads.
            let bytes = self.take(len).map_err(|_| DecodeError::TagTooShort { tag })?;
            let mut field = Reader { buf: bytes, at: 0, budget: self.budget };
            let is_known = known(tag, &mut field).map_err(|error| match error {
                DecodeError::Truncated { .. } | DecodeError::BadLength(0..) => DecodeError::TagTooShort { tag },
                other => other,
            })?;
            if is_known {
                self.budget = field.budget;
                if field.left() != 0 {
                    return Err(DecodeError::TagLength { tag, left: field.left() });
                }
            } else {
                self.charge(len + size_of::<(u32, Vec<u8>)>())?;
                unknown.push(tag, bytes);
            }
        }
        Ok(())
    }
}

/// U+FFFD for each longest piece of bytes that could have begun a character. Java counts a surrogate, which UTF-8 has no
/// place for, as one piece of three bytes; Rust would make three of it, and lengths would differ from Kafka's.
fn utf8_as_in_java(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let error = match std::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                return out;
            }
            Err(error) => error,
        };
        let (valid, wrong) = rest.split_at(error.valid_up_to());
        out.push_str(std::str::from_utf8(valid).unwrap_or_default());
        out.push(char::REPLACEMENT_CHARACTER);
        let len = match wrong {
            [0xed, more @ ..] => 1 + more.iter().take(2).take_while(|byte| **byte & 0xc0 == 0x80).count(),
            _ => error.error_len().unwrap_or(wrong.len()),
        };
        rest = wrong.get(len..).unwrap_or_default();
    }
}

/// Where in a frame bytes go that the frame's buffer does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Offset in the buffer before which the bytes belong.
    pub at: usize,
    pub len: u32,
    pub id: u64,
}

#[derive(Debug, Default)]
pub struct Writer {
    buf: Vec<u8>,
    splices: Vec<Splice>,
    error: Option<EncodeError>,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes behind what `buf` holds already, in its capacity.
    pub fn reuse(buf: Vec<u8>) -> Self {
        Self { buf, splices: Vec::new(), error: None }
    }

    /// Bytes written so far, spliced ones included.
    pub fn len(&self) -> usize {
        self.buf.len() + self.splices.iter().map(|s| s.len as usize).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn finish(self) -> Result<(Vec<u8>, Vec<Splice>), EncodeError> {
        match self.error {
            None => Ok((self.buf, self.splices)),
            Some(error) => Err(error),
        }
    }

    /// For messages that cannot hold external records.
    pub fn finish_inline(self) -> Result<Vec<u8>, EncodeError> {
        let (buf, splices) = self.finish()?;
        assert!(splices.is_empty(), "external records in a message that must be whole");
        Ok(buf)
    }

    pub fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// Overwrites four bytes written before, for a length that is known late.
    pub fn patch_i32(&mut self, at: usize, value: i32) {
        if let Some(slot) = self.buf.get_mut(at..at + 4) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }
    pub fn bool(&mut self, v: bool) {
        self.buf.push(u8::from(v));
    }
    pub fn i8(&mut self, v: i8) {
        self.raw(&v.to_be_bytes());
    }
    pub fn i16(&mut self, v: i16) {
        self.raw(&v.to_be_bytes());
    }
    pub fn u16(&mut self, v: u16) {
        self.raw(&v.to_be_bytes());
    }
    pub fn i32(&mut self, v: i32) {
        self.raw(&v.to_be_bytes());
    }
    pub fn u32(&mut self, v: u32) {
        self.raw(&v.to_be_bytes());
    }
    pub fn i64(&mut self, v: i64) {
        self.raw(&v.to_be_bytes());
    }
    pub fn f64(&mut self, v: f64) {
        self.raw(&v.to_be_bytes());
    }
    pub fn uuid(&mut self, v: Uuid) {
        self.raw(&v.0);
    }

    pub fn uvarint(&mut self, mut v: u32) {
        while v >= 0x80 {
            self.buf.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.buf.push(v as u8);
    }

    /// Zigzag, 32 bits.
    pub fn varint(&mut self, v: i32) {
        self.uvarint(((v << 1) ^ (v >> 31)) as u32);
    }

    /// Zigzag, 64 bits.
    pub fn varlong(&mut self, v: i64) {
        let mut n = ((v << 1) ^ (v >> 63)) as u64;
        while n >= 0x80 {
            self.buf.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.buf.push(n as u8);
    }

    pub fn nullable_string(&mut self, flexible: bool, v: Option<&str>) {
        match v {
            None if flexible => self.uvarint(0),
            None => self.i16(-1),
            Some(s) => {
                if s.len() > i16::MAX as usize {
                    return self.fail(EncodeError::TooLong { what: "string", len: s.len() });
                }
                if flexible {
                    self.uvarint(s.len() as u32 + 1)
                } else {
                    self.i16(s.len() as i16)
                }
                self.raw(s.as_bytes());
            }
        }
    }

    pub fn string(&mut self, flexible: bool, v: &str) {
        self.nullable_string(flexible, Some(v));
    }

    /// The length of bytes or of an array: `None` is null.
    pub fn length(&mut self, flexible: bool, len: Option<usize>) {
        match len {
            None if flexible => self.uvarint(0),
            None => self.i32(-1),
            Some(n) if n >= i32::MAX as usize => self.fail(EncodeError::TooLong { what: "array or bytes", len: n }),
            Some(n) if flexible => self.uvarint(n as u32 + 1),
            Some(n) => self.i32(n as i32),
        }
    }

    pub fn nullable_bytes(&mut self, flexible: bool, v: Option<&[u8]>) {
        self.length(flexible, v.map(<[u8]>::len));
        self.raw(v.unwrap_or_default());
    }

    pub fn bytes(&mut self, flexible: bool, v: &[u8]) {
        self.nullable_bytes(flexible, Some(v));
    }

    pub fn nullable_records(&mut self, flexible: bool, v: Option<&Records<'_>>) {
        self.length(flexible, v.map(Records::len));
        match v {
            Some(Records::Inline(bytes)) => self.raw(bytes),
            Some(Records::External { len, id }) if *len > 0 => {
                self.splices.push(Splice { at: self.buf.len(), len: *len, id: *id });
            }
            _ => {}
        }
    }

    /// A version without tag sections cannot carry what was kept from one that has them.
    pub fn no_tags(&mut self, unknown: &UnknownTags, version: i16) {
        if !unknown.is_empty() {
            self.fail(EncodeError::FieldNotInVersion { field: "unknown tagged fields", version });
        }
    }

    /// How many tagged fields follow: the known ones and those kept from a newer peer.
    pub fn tag_count(&mut self, known: u32, unknown: &UnknownTags) {
        self.uvarint(known + unknown.len() as u32);
    }

    /// The whole tag section of a struct that knows no tags of its own.
    pub fn unknown_tags(&mut self, known: u32, unknown: &UnknownTags) {
        self.tag_count(known, unknown);
        self.raw_tags(unknown, 0, u32::MAX);
    }

    /// Kept tagged fields with numbers from `from` up to, not including, `end`.
    pub fn raw_tags(&mut self, unknown: &UnknownTags, from: u32, end: u32) {
        for (tag, bytes) in unknown.iter().filter(|(tag, _)| (from..end).contains(tag)) {
            self.uvarint(tag);
            self.uvarint(bytes.len() as u32);
            self.raw(bytes);
        }
    }

    /// One tagged field: its number, its length, and what `body` writes.
    pub fn tag(&mut self, tag: u32, body: impl FnOnce(&mut Writer)) {
        self.uvarint(tag);
        let (start, splices) = (self.buf.len(), self.splices.len());
        body(self);
        assert!(self.splices.len() == splices, "no tagged field holds records");
        // The length stands before the body but is known after it: appended, then turned to the front.
        let len = self.buf.len() - start;
        self.uvarint(len as u32);
        self.buf[start..].rotate_left(len);
    }
}

//! The five codecs, each bounded in what it may produce.

use std::io::{self, Read, Write};

use super::RecordError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum Compression {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Compression {
    pub fn from_id(id: i8) -> Result<Compression, RecordError> {
        match id {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            other => Err(RecordError::UnknownCompression(other)),
        }
    }

    pub fn parse(name: &str) -> Option<Compression> {
        match name {
            "none" | "uncompressed" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "snappy" => Some(Compression::Snappy),
            "lz4" => Some(Compression::Lz4),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// A buffer that is used again for each batch.
#[derive(Debug, Default)]
pub struct Scratch {
    buf: Vec<u8>,
}

/// Larger buffers are given back after use, so that one huge batch does not stay in memory for ever.
const SCRATCH_KEPT_MAX: usize = 4 << 20;

fn broken(error: impl std::fmt::Display) -> RecordError {
    RecordError::Decompression(error.to_string())
}

/// `bytes` as they were before, at most `max` of them.
pub fn decompress<'s>(
    compression: Compression,
    bytes: &'s [u8],
    max: usize,
    scratch: &'s mut Scratch,
) -> Result<&'s [u8], RecordError> {
    if compression == Compression::None {
        return Ok(bytes);
    }
    if scratch.buf.capacity() > SCRATCH_KEPT_MAX {
        scratch.buf = Vec::new();
    }
    let out = &mut scratch.buf;
    out.clear();
    match compression {
        Compression::None => {}
        Compression::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(bytes), max, out)?,
        Compression::Lz4 => {
            check_lz4(bytes)?;
            read_bounded(lz4_flex::frame::FrameDecoder::new(bytes), max, out)?;
        }
        Compression::Zstd => read_bounded(zstd::stream::read::Decoder::with_buffer(bytes).map_err(broken)?, max, out)?,
        Compression::Snappy => unsnap(bytes, max, out)?,
    }
    Ok(out)
}

const LZ4_MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();
/// Every block can be read without those before it.
const LZ4_INDEPENDENT: u8 = 0x20;
/// A dictionary, and a bit without meaning.
const LZ4_UNKNOWN: u8 = 0x03;

/// Kafka's Java clients read frames of independent blocks only. One of another kind in a log would be a record that
/// these consumers never get past; Kafka's broker refuses it as well.
fn check_lz4(bytes: &[u8]) -> Result<(), RecordError> {
    match bytes.strip_prefix(&LZ4_MAGIC).and_then(<[u8]>::first) {
        None => Err(broken("no lz4 frame")),
        Some(flags) if flags & LZ4_INDEPENDENT == 0 => Err(broken("lz4 blocks that depend on each other")),
        Some(flags) if flags & LZ4_UNKNOWN != 0 => Err(broken("an lz4 frame with a dictionary")),
        Some(_) => Ok(()),
    }
}

fn read_bounded(reader: impl Read, max: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
    reader.take(max as u64 + 1).read_to_end(out).map_err(broken)?;
    if out.len() > max { Err(RecordError::Decompression(format!("more than {max} bytes"))) } else { Ok(()) }
}

/// Framing of the Java library (xerial): magic, two versions, then blocks with a length before each.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_LEN: usize = 16;
/// Kafka's block size.
const XERIAL_BLOCK: usize = 32 << 10;

fn unsnap(bytes: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
    if !bytes.starts_with(&XERIAL_MAGIC) {
        return unsnap_block(bytes, max, out);
    }
    let mut rest = bytes.get(XERIAL_HEADER_LEN..).ok_or_else(|| broken("snappy header is cut off"))?;
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(|| broken("snappy block is cut off"))?;
        let len = u32::from_be_bytes(*len) as usize;
        let block = after.get(..len).ok_or_else(|| broken("snappy block is cut off"))?;
        unsnap_block(block, max, out)?;
        rest = after.get(len..).unwrap_or_default();
    }
    Ok(())
}

fn unsnap_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let len = snap::raw::decompress_len(block).map_err(broken)?;
    let at = out.len();
    // A block of n bytes cannot hold more than about 64 n: the announced length alone allocates nothing absurd.
    if len > max - at.min(max) || len > block.len().saturating_mul(64) + 64 {
        return Err(RecordError::Decompression(format!("snappy block announces {len} bytes")));
    }
    out.resize(at + len, 0);
    let room = out.get_mut(at..).unwrap_or_default();
    snap::raw::Decoder::new().decompress(block, room).map_err(broken)?;
    Ok(())
}

/// Compresses as Kafka's Java client does, at the codecs' default levels.
pub(super) fn compress(compression: Compression, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match compression {
        Compression::None => out.extend_from_slice(bytes),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()?;
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
            encoder.write_all(bytes)?;
            encoder.finish()?;
        }
        Compression::Snappy => {
            out.extend_from_slice(&XERIAL_MAGIC);
            out.extend_from_slice(&1i32.to_be_bytes());
            out.extend_from_slice(&1i32.to_be_bytes());
            for block in bytes.chunks(XERIAL_BLOCK) {
                let block = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
                out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                out.extend_from_slice(&block);
            }
        }
    }
    Ok(())
}

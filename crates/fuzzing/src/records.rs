//! Record batches: read as a consumer or a recovery does, validated as a producer's, packed anew in every compression.
//! `[flags u8][rules u8][bytes]`.

use protocol::records::{
    Batch, BatchBuilder, BatchSpec, Batches, CRC_AT, Compression, DECOMPRESSED_BYTES_MAX, HEADER_LEN, LOG_OVERHEAD,
    Rules, Scratch, crc32c, recompress, validate,
};

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

/// Whatever a batch decompresses to counts twice while its buffer grows, and once more where it is packed anew.
const BOUND: Bound = Bound { anyway: 4 * DECOMPRESSED_BYTES_MAX, per_byte: 64 };
/// Without compression nothing is ever much larger than what came in.
const PLAIN: Bound = Bound { anyway: 1 << 20, per_byte: 64 };

const MEND: u8 = 1;
const COMPRESSIONS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, choice) = (input.u8(), input.u8());
    let mut bytes = input.rest().to_vec();
    if flags & MEND != 0 {
        mend(&mut bytes);
    }
    let is_plain = Batches::new(&bytes).flatten().all(|b| b.header.compression() == Ok(Compression::None));
    let bound = if is_plain && choice % 5 == 0 { PLAIN } else { BOUND };
    bound.hold(bytes.len(), || use_all(&bytes, choice));
}

fn use_all(bytes: &[u8], choice: u8) {
    let mut scratch = Scratch::default();
    for batch in Batches::new(bytes).flatten() {
        let _ = batch.verify_crc();
        let Ok(records) = batch.records(&mut scratch) else { continue };
        for record in records.flatten() {
            let _ = record.headers.count();
        }
    }
    let rules = Rules {
        produce_version: if choice & 0x80 != 0 { 6 } else { 12 },
        message_bytes_max: 1 << 20,
        compacted: choice & 0x40 != 0,
        create_time: choice & 0x20 == 0,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        now_ms: 1_795_409_260_000,
        compression: Some(COMPRESSIONS[usize::from(choice) % 5]),
    };
    let Ok(validated) = validate(bytes, &rules, &mut scratch) else { return };
    let batch = Batch::parse(bytes).expect("validated");
    let Some(to) = validated.recompress else { return };
    let again = recompress(&batch, to, &mut scratch).expect("validated records can be packed again");
    let again = Batch::parse(&again).expect("a batch of ours");
    again.verify_crc().expect("a batch of ours");
    let records: Result<Vec<_>, _> = again.records(&mut scratch).expect("a batch of ours").collect();
    let count = records.expect("records of ours").len();
    assert_eq!(count as i32, batch.header.records_count);
}

/// Length and checksum made right: nothing much is read of a batch where they are wrong.
pub fn mend(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let length = (bytes.len() - LOG_OVERHEAD) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc32c(&bytes[CRC_AT + 4..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut batches: Vec<Vec<u8>> = Vec::new();
    for file in golden::BATCHES {
        let first = Batches::new(file).next().expect("a batch").expect("a batch");
        batches.push(first.bytes.to_vec());
    }
    for compression in COMPRESSIONS {
        let spec = BatchSpec { compression, producer_id: 7, producer_epoch: 0, base_sequence: 0, ..Default::default() };
        let mut builder = BatchBuilder::new(spec);
        for i in 0..3 {
            builder.append(1_795_409_260_000 + i, Some(b"k"), Some(&[b'v'; 50]), &[(b"h", None), (b"i", Some(b"j"))]);
        }
        batches.push(builder.build());
    }
    let seed = |(i, bytes): (usize, Vec<u8>)| {
        let mut seed = Output::default();
        seed.u8(MEND).u8(i as u8).raw(&bytes);
        seed.0
    };
    batches.into_iter().enumerate().map(seed).collect()
}

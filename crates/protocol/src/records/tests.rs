use super::*;
use crate::error::ErrorCode;

/// The batch that the walkthrough's producer wrote on Apache Kafka 4.3.1, as its segment file holds it.
const WALKTHROUGH: &[u8] = include_bytes!("../../tests/golden/walkthrough.log");
/// Twenty-five records in four batches per codec, written by Kafka's producer.
const CODECS: [(Compression, &[u8]); 4] = [
    (Compression::Gzip, include_bytes!("../../tests/golden/gzip.log")),
    (Compression::Snappy, include_bytes!("../../tests/golden/snappy.log")),
    (Compression::Lz4, include_bytes!("../../tests/golden/lz4.log")),
    (Compression::Zstd, include_bytes!("../../tests/golden/zstd.log")),
];

fn rules() -> Rules {
    Rules {
        produce_version: 12,
        message_bytes_max: 1 << 20,
        compacted: false,
        create_time: true,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        now_ms: 1_795_409_260_000,
        compression: None,
    }
}

fn rebuilt(batch: &Batch<'_>) -> Vec<u8> {
    recompress(batch, Compression::None, &mut Scratch::default()).expect("valid records")
}

#[test]
fn reads_and_rebuilds_what_kafka_wrote() {
    let mut scratch = Scratch::default();
    let batches: Vec<_> = Batches::new(WALKTHROUGH).map(|b| b.expect("a valid batch")).collect();
    assert_eq!(batches.len(), 1);
    let batch = batches[0];
    batch.verify_crc().expect("its crc");
    assert_eq!((batch.header.producer_id, batch.header.base_sequence, batch.header.crc), (0, 0, 2_412_551_382));
    let records: Vec<_> = batch.records(&mut scratch).expect("records").map(|r| r.expect("a record")).collect();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].key, records[0].value), (None, Some(&b"test message1"[..])));
    assert_eq!(rebuilt(&batch), WALKTHROUGH);
    validate(WALKTHROUGH, &rules(), &mut scratch).expect("valid");
}

#[test]
fn all_codecs_decode_and_round_trip() {
    let mut scratch = Scratch::default();
    for (compression, bytes) in CODECS {
        let mut count = 0;
        for batch in Batches::new(bytes) {
            let batch = batch.expect("a valid batch");
            assert_eq!(batch.header.compression(), Ok(compression));
            batch.verify_crc().expect("its crc");
            let read = |b: &Batch<'_>, scratch: &mut Scratch| -> Vec<_> {
                let records = b.records(scratch).expect("records").map(|r| r.expect("a record"));
                records
                    .map(|r| (r.offset, r.timestamp, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec)))
                    .collect()
            };
            let original = read(&batch, &mut scratch);
            count += original.len();
            let again = recompress(&batch, compression, &mut scratch).expect("compresses");
            assert_eq!(read(&Batch::parse(&again).expect("a batch"), &mut Scratch::default()), original);
        }
        assert_eq!(count, 25, "{compression:?}");
    }
}

#[test]
fn lz4_frames_that_kafkas_clients_cannot_read_are_refused() {
    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
    let read = |mode| {
        let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().block_mode(mode), Vec::new());
        std::io::Write::write_all(&mut encoder, b"some words").expect("a vector takes everything");
        let frame = encoder.finish().expect("a vector takes everything");
        compression::decompress(Compression::Lz4, &frame, 100, &mut Scratch::default()).map(<[u8]>::to_vec)
    };
    assert_eq!(read(BlockMode::Independent).expect("as Kafka writes them"), b"some words");
    assert!(read(BlockMode::Linked).is_err());
}

#[test]
fn patches_leave_the_crc_valid() {
    let mut bytes = WALKTHROUGH.to_vec();
    set_base_offset(&mut bytes, 1234);
    set_partition_leader_epoch(&mut bytes, 7);
    let batch = Batch::parse(&bytes).expect("a batch");
    assert_eq!((batch.header.base_offset, batch.header.partition_leader_epoch), (1234, 7));
    batch.verify_crc().expect("patches are outside of the crc");
    set_log_append_time(&mut bytes, 99);
    let batch = Batch::parse(&bytes).expect("a batch");
    batch.verify_crc().expect("computed again");
    assert_eq!((batch.header.timestamp_type(), batch.header.max_timestamp), (TimestampType::LogAppendTime, 99));
}

#[test]
fn refusals_have_kafkas_codes() {
    let mut scratch = Scratch::default();
    let mut code = |bytes: &[u8], rules: &Rules| validate(bytes, rules, &mut scratch).expect_err("refused").code;
    let mut corrupt = WALKTHROUGH.to_vec();
    corrupt[70] ^= 1;
    assert_eq!(code(&corrupt, &rules()), ErrorCode::CorruptMessage);
    let mut magic = WALKTHROUGH.to_vec();
    magic[16] = 1;
    assert_eq!(code(&magic, &rules()), ErrorCode::InvalidRecord);
    assert_eq!(code(&WALKTHROUGH[..80], &rules()), ErrorCode::InvalidRecord);
    assert_eq!(code(&[WALKTHROUGH, WALKTHROUGH].concat(), &rules()), ErrorCode::InvalidRecord);
    assert_eq!(code(WALKTHROUGH, &Rules { compacted: true, ..rules() }), ErrorCode::InvalidRecord);
    assert_eq!(code(WALKTHROUGH, &Rules { message_bytes_max: 80, ..rules() }), ErrorCode::MessageTooLarge);
    assert_eq!(code(WALKTHROUGH, &Rules { now_ms: 0, ..rules() }), ErrorCode::InvalidTimestamp);
    let control = BatchSpec { control: true, ..BatchSpec::default() };
    let mut builder = BatchBuilder::new(control);
    builder.append(0, Some(&control_key(ControlRecordType::Commit)), None, &[]);
    assert_eq!(code(&builder.build(), &rules()), ErrorCode::InvalidRecord);
    let zstd = Batch::parse(CODECS[3].1).expect("a batch").bytes;
    assert_eq!(code(zstd, &Rules { produce_version: 6, ..rules() }), ErrorCode::UnsupportedCompressionType);
}

#[test]
fn damaged_bytes_are_errors_not_panics() {
    let mut rng = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng as usize
    };
    let mut scratch = Scratch::default();
    for (_, bytes) in CODECS {
        for _ in 0..300 {
            let mut bytes = bytes[..bytes.len().min(4096)].to_vec();
            for _ in 0..1 + next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            for batch in Batches::new(&bytes).flatten() {
                if let Ok(records) = batch.records(&mut scratch) {
                    for record in records.flatten() {
                        let _ = record.headers.count();
                    }
                }
            }
        }
    }
}

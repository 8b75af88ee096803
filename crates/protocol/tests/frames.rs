//! Building frames: headers, splices, and what a version cannot carry.

use protocol::api::ApiKey;
use protocol::codec::{Request, decode_all, encode_all};
use protocol::header::{decode_request_header, decode_response, encode_request, encode_response};
use protocol::messages::api_versions_response::ApiVersion;
use protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use protocol::messages::*;
use protocol::wire::{DECODED_BYTES_MAX, DecodeError, EncodeError, Reader, Records, Splice, Uuid, Writer};

#[test]
fn a_request_comes_back_with_its_header() {
    let request = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
    for version in ApiKey::Metadata.versions().skip(4) {
        let frame = encode_request(MetadataRequest::KEY, version, 77, Some("me"), &request).expect("a frame");
        let (len, rest) = frame.split_at(4);
        assert_eq!(u32::from_be_bytes(len.try_into().expect("four bytes")) as usize, rest.len());
        let mut r = Reader::new(rest);
        let header = decode_request_header(&mut r).expect("a header");
        assert_eq!((header.request_api_key, header.request_api_version, header.correlation_id), (3, version, 77));
        assert_eq!(header.client_id.as_deref(), Some("me"));
        assert_eq!(decode_all(&rest[r.position()..], version), Ok(request.clone()), "v{version}");
    }
}

#[test]
fn a_frame_counts_the_bytes_it_leaves_out() {
    let partition = |records| PartitionData { high_watermark: 9, records: Some(records), ..Default::default() };
    let partitions = vec![
        partition(Records::External { len: 1000, id: 5 }),
        partition(Records::Inline(b"abc".into())),
        partition(Records::External { len: 0, id: 6 }),
        partition(Records::External { len: 24, id: 7 }),
    ];
    let topic = FetchableTopicResponse { topic_id: Uuid::ONE, partitions, ..Default::default() };
    let response = FetchResponse { responses: vec![topic], ..Default::default() };
    for version in [13, 18] {
        let (frame, splices) = encode_response(ApiKey::Fetch, version, 1, &response).expect("a frame");
        let [Splice { at: first, len: 1000, id: 5 }, Splice { at: second, len: 24, id: 7 }] = splices[..] else {
            panic!("{splices:?}")
        };
        let mut whole = frame[..first].to_vec();
        whole.extend([1; 1000]);
        whole.extend(&frame[first..second]);
        whole.extend([2; 24]);
        whole.extend(&frame[second..]);
        assert_eq!(u32::from_be_bytes(whole[..4].try_into().expect("four bytes")) as usize, whole.len() - 4);
        let (id, response) = decode_response::<FetchRequest<'_>>(&whole[4..], version).expect("an answer");
        assert_eq!(id, 1);
        let records: Vec<_> = response.responses[0].partitions.iter().map(|p| p.records.clone()).collect();
        let inline = |bytes: &'static [u8]| Some(Records::Inline(bytes.into()));
        assert_eq!(records, [inline(&[1; 1000]), inline(b"abc"), inline(b""), inline(&[2; 24])]);
    }
}

/// KIP-511: the error must be found by a client whose version the server does not know.
#[test]
fn an_answer_to_api_versions_always_has_the_old_header() {
    let row = ApiVersion { api_key: 18, min_version: 0, max_version: 4, ..Default::default() };
    let response = ApiVersionsResponse { error_code: 35, api_keys: vec![row], ..Default::default() };
    let (frame, _) = encode_response(ApiKey::ApiVersions, 0, 4242, &response).expect("a frame");
    let expected = [&[0, 0, 0, 16, 0, 0, 16, 146, 0, 35, 0, 0, 0, 1, 0, 18][..], &[0, 0, 0, 4]].concat();
    assert_eq!(frame, expected);
    // Version 99 has flexible headers: every version from the first flexible one on does.
    let request = b"\x00\x12\x00\x63\x00\x00\x10\x92\x00\x01m\x00rest";
    let mut r = Reader::new(request);
    let header = decode_request_header(&mut r).expect("a header");
    assert_eq!((header.request_api_version, header.correlation_id, r.left()), (99, 4242, 4));
    assert_eq!(decode_request_header(&mut Reader::new(&[0, 5, 0, 0])), Err(DecodeError::UnknownApiKey(5)));
}

#[test]
fn what_a_version_cannot_carry_is_refused_unless_ignorable() {
    let not_in = |field, version| Err(EncodeError::FieldNotInVersion { field, version });
    let request = FetchRequest { replica_id: 3, ..Default::default() };
    assert!(encode_all(&request, 14).is_ok());
    assert_eq!(encode_all(&request, 15), not_in("ReplicaId", 15));
    let mut request = FetchRequest::default();
    request.replica_state.replica_epoch = 8;
    assert_eq!(encode_all(&request, 14), not_in("ReplicaState", 14));
    let request = FetchRequest { rack_id: "rack".into(), ..Default::default() };
    assert_eq!(encode_all(&request, 10), encode_all(&FetchRequest::default(), 10), "an ignorable field is dropped");
    assert_eq!(
        encode_all(&MetadataRequest { topics: None, ..Default::default() }, 0),
        Err(EncodeError::UnexpectedNull("Topics"))
    );
    let message = "FetchRequest";
    assert_eq!(encode_all(&request, 19), Err(EncodeError::UnsupportedVersion { message, version: 19 }));
    assert_eq!(decode_all::<FetchRequest<'_>>(&[], 3), Err(DecodeError::UnsupportedVersion { message, version: 3 }));
}

/// What follows the tag section's count: tag, length, bytes.
fn producer_state(tags: &[u8]) -> Vec<u8> {
    let mut bytes = encode_all(&TransactionLogValue::default(), 1).expect("bytes");
    assert_eq!(bytes.pop(), Some(0), "no tagged field is set");
    bytes.extend_from_slice(tags);
    bytes
}

#[test]
fn tagged_fields_keep_their_order_and_unknown_ones_their_bytes() {
    let bytes = producer_state(&[3, 1, 8, 0, 0, 0, 0, 0, 0, 0, 7, 3, 2, 0, 9, 50, 2, 0xaa, 0xbb]);
    let mut value: TransactionLogValue<'_> = decode_all(&bytes, 1).expect("a value");
    assert_eq!((value.next_producer_id, value.next_producer_epoch, value.unknown_tags.len()), (7, 9, 1));
    assert_eq!(encode_all(&value, 1).as_ref(), Ok(&bytes));
    value.client_transaction_version = 2;
    let again = encode_all(&value, 1).expect("bytes");
    let tags = [4, 1, 8, 0, 0, 0, 0, 0, 0, 0, 7, 2, 2, 0, 2, 3, 2, 0, 9, 50, 2, 0xaa, 0xbb];
    assert_eq!(again, producer_state(&tags));
    let refused = |tags: &[u8]| decode_all::<TransactionLogValue<'_>>(&producer_state(tags), 1).expect_err("refused");
    assert_eq!(refused(&[2, 50, 0, 50, 0]), DecodeError::TagOrder(50));
    assert_eq!(refused(&[2, 50, 0, 4, 0]), DecodeError::TagOrder(4));
    assert_eq!(refused(&[1, 3, 3, 0, 9, 9]), DecodeError::TagLength { tag: 3, left: 1 });
    assert_eq!(refused(&[1, 3, 1, 0]), DecodeError::TagTooShort { tag: 3 });
    // A tag of a later version is no unknown tag.
    let mut bytes = encode_all(&FetchRequest::default(), 12).expect("bytes");
    bytes.pop();
    bytes.extend([1, 1, 1, 0]);
    assert_eq!(decode_all::<FetchRequest<'_>>(&bytes, 12), Err(DecodeError::TagNotInVersion { tag: 1, version: 12 }));
}

#[test]
fn strings_have_javas_limits() {
    let mut writer = Writer::new();
    writer.string(true, &"x".repeat(32767));
    let bytes = writer.finish_inline().expect("it fits");
    assert_eq!(Reader::new(&bytes).string(true).expect("it fits").len(), 32767);
    let mut writer = Writer::new();
    writer.string(true, &"x".repeat(32768));
    assert_eq!(writer.finish_inline(), Err(EncodeError::TooLong { what: "string", len: 32768 }));
    let mut writer = Writer::new();
    writer.bytes(true, &[b'x'; 32768]);
    let bytes = writer.finish_inline().expect("bytes may be long");
    assert_eq!(Reader::new(&bytes).string(true), Err(DecodeError::BadLength(32768)));
    // Two bytes that cannot begin a character, and one that is cut off.
    assert_eq!(Reader::new(b"\x00\x05a\xff\xfeb\xc3").string(false).as_deref(), Ok("a\u{fffd}\u{fffd}b\u{fffd}"));
    assert_eq!(Reader::new(&[0xff, 0xff]).string(false), Err(DecodeError::BadLength(-1)));
    assert_eq!(Reader::new(&[0xff, 0xff]).nullable_string(false), Ok(None));
}

#[test]
fn variable_length_integers_reach_their_ends() {
    for value in [0, 1, -1, 63, -64, 64, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN] {
        let mut writer = Writer::new();
        writer.varlong(value);
        let small = i32::try_from(value).ok();
        writer.varint(small.unwrap_or(0));
        writer.uvarint(small.unwrap_or(0) as u32);
        let bytes = writer.finish_inline().expect("bytes");
        let mut r = Reader::new(&bytes);
        assert_eq!(r.varlong(), Ok(value));
        assert_eq!(r.varint(), Ok(small.unwrap_or(0)));
        assert_eq!(r.uvarint(), Ok(small.unwrap_or(0) as u32));
        assert_eq!(r.finish(), Ok(()));
    }
    assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x10]).uvarint(), Err(DecodeError::BadVarint));
    assert_eq!(Reader::new(&[0xff; 11]).varlong(), Err(DecodeError::BadVarint));
}

#[test]
fn decoded_arrays_have_a_bound_whatever_the_frame() {
    let count = 300_000u32;
    let mut bytes = count.to_be_bytes().to_vec();
    bytes.resize(4 + count as usize, 0);
    let element = |r: &mut Reader<'_>| Ok([r.i8()?; 1024]);
    assert!(count as usize * 1024 > DECODED_BYTES_MAX);
    assert_eq!(Reader::new(&bytes).array(false, 1, element), Err(DecodeError::TooLarge));
}

#[test]
fn uuids_are_written_as_kafka_writes_them() {
    let id = Uuid([0x9a, 0x10, 0xff, 0x00, 0x01, 0x7e, 0x4f, 0xbe, 0x80, 0x55, 0xaa, 0xfb, 0xef, 0xbf, 0x3c, 0xff]);
    assert_eq!(id.to_string(), "mhD_AAF-T76AVar77788_w");
    assert_eq!(Uuid::parse(&id.to_string()), Some(id));
    assert_eq!(Uuid::parse(&format!("{id}==")), Some(id));
    assert_eq!(Uuid::ONE.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    for wrong in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA+Q", "AAAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(Uuid::parse(wrong), None, "{wrong}");
    }
}

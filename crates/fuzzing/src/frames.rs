//! Requests to a node that serves, as clients, brokers and controllers send them:
//! `([listener and flags u8][api u8][version u8][len u16][body])*`. With RAW the body is the whole frame, header too.

use protocol::api::ApiKey;
use protocol::codec::{Message, encode_all};
use protocol::header::decode_request_header;
use protocol::messages::RequestHeader;
use protocol::wire::Reader;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;
use crate::world::{World, config, prototype};

/// A request may name ten thousand new partitions, each of which gets its log; a batch may decompress to a hundred
/// megabytes. What a node has for its own life, with one answer of metadata for each request, is small beside that.
const BOUND: Bound = Bound { anyway: 512 << 20, per_byte: 1024 };
/// Where no request can make topics or compressed batches.
const SMALL: Bound = Bound { anyway: 16 << 20, per_byte: 1024 };

const CONTROLLER: u8 = 1;
const RAW: u8 = 2;
/// Some time passes before the next request.
const WAIT: u8 = 4;
const FRAMES_MAX: usize = 16;

pub fn run(data: &[u8]) {
    let disk = prototype().disk.copy();
    let is_large = |(_, frame): &(u8, Vec<u8>)| match frame.get(..2) {
        Some([0, key]) => [ApiKey::Produce, ApiKey::CreateTopics, ApiKey::CreatePartitions, ApiKey::Envelope]
            .contains(&ApiKey::try_from(i16::from(*key)).unwrap_or(ApiKey::Produce)),
        _ => false,
    };
    let frames = parse(data);
    let bound = if frames.iter().any(is_large) { BOUND } else { SMALL };
    let mut world = World::new();
    world.start(1, disk, config(1, "broker,controller")).expect("a directory of ours");
    assert!(world.run_until_ready(), "a node of ours is ready");
    bound.hold(data.len(), || {
        for (flags, frame) in frames {
            let conn = world.connect(1, usize::from(flags & CONTROLLER));
            world.send(1, conn, frame);
            world.settle();
            if flags & WAIT != 0 {
                world.run(700);
            }
        }
        world.run(2_000);
        world.answers.clear();
    });
    assert_eq!(world.fatal, [], "a request stopped the node");
}

fn parse(data: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut input = Input::new(data);
    let mut out = Vec::new();
    while !input.is_empty() && out.len() < FRAMES_MAX {
        let (flags, key, version) = (input.u8(), i16::from(input.u8()), i16::from(input.u8()));
        let body = input.sized();
        if flags & RAW != 0 {
            out.push((flags, body.to_vec()));
            continue;
        }
        let header = RequestHeader {
            request_api_key: key,
            request_api_version: version,
            correlation_id: 1,
            client_id: Some("fuzz".into()),
            ..Default::default()
        };
        let header_version = ApiKey::try_from(key).map_or(1, |key| key.request_header_version(version));
        let mut frame = encode_all(&header, header_version).expect("a small header");
        frame.extend_from_slice(body);
        out.push((flags, frame));
    }
    out
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for request in golden::requests(prototype().topic_id) {
        let mut reader = Reader::new(&request.bytes);
        let Ok(header) = decode_request_header(&mut reader) else { continue };
        let body = request.bytes.get(reader.position()..).unwrap_or_default();
        for flags in [0, CONTROLLER] {
            let mut seed = Output::default();
            seed.u8(flags).u8(header.request_api_key as u8).u8(header.request_api_version as u8).sized(body);
            out.push(seed.0);
        }
    }
    out.push(join_and_sync());
    out
}

/// A group that gets its only member, so that later requests find one.
fn join_and_sync() -> Vec<u8> {
    use protocol::messages::{JoinGroupRequest, join_group_request::JoinGroupRequestProtocol};
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 6_000,
        member_id: "".into(),
        group_instance_id: Some("i".into()),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    };
    let version = *JoinGroupRequest::VERSIONS.end();
    let body = encode_all(&join, version).expect("a small request");
    let mut seed = Output::default();
    seed.u8(WAIT).u8(ApiKey::JoinGroup as u8).u8(version as u8).sized(&body);
    seed.0
}

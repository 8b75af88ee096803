//! Bytes recorded from Apache Kafka 4.3.1: every one decodes to the recorded values and encodes to the same bytes.

mod support;

use std::collections::BTreeSet;

use protocol::api::ApiKey;
use protocol::codec::{Decode, decode_all, encode_all};
use protocol::error::ErrorCode;
use protocol::header::{decode_request_header, decode_response_header};
use protocol::messages::{AbortedTxn, ResponseHeader};
use protocol::wire::Reader;
use protocol::{json, layout, registry};
use serde_json::Value;
use support::{assert_shows, bodies, frames, golden};

fn report(wrong: Vec<String>, seen: usize) {
    let shown: Vec<_> = wrong.iter().take(20).map(|w| w.chars().take(2000).collect::<String>()).collect();
    assert!(wrong.is_empty(), "{} of {seen} differ:\n{}", wrong.len(), shown.join("\n"));
}

fn recorded_json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).expect("a golden file")).expect("JSON")
}

#[test]
fn bodies_come_back_and_hold_the_recorded_values() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for body in bodies() {
        seen += 1;
        let name = format!("{} v{} {}", body.entry.name, body.version, body.variant);
        match body.entry.reencode(&body.bytes, body.version) {
            Ok(again) if again == body.bytes => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
        let debug = body.entry.debug(&body.bytes, body.version).unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Err(e) = assert_shows(&debug, &body.json) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    assert_eq!(seen, 5296, "bodies recorded");
    report(wrong, seen);
}

/// The tables of `layout` and the walk over them, against what Kafka's own converters wrote.
#[test]
fn stored_messages_as_json() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for body in bodies() {
        let Some(layout) = layout::find(body.entry.name) else { continue };
        seen += 1;
        let shown = json::message(layout, &mut Reader::new(&body.bytes), body.version);
        let parsed = shown.as_ref().map(|text| serde_json::from_str::<Value>(text).ok());
        if parsed != Ok(Some(body.json.clone())) {
            wrong.push(format!("{} v{} {}: {shown:?}, not {}", layout.name, body.version, body.variant, body.json));
        }
    }
    assert!(seen > 500, "only {seen} bodies");
    report(wrong, seen);
}

/// What a program leaves alone has the value that Kafka's classes give it.
#[test]
fn defaults_are_kafkas() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for body in bodies().iter().filter(|body| body.variant == "default") {
        seen.insert((body.entry.name, body.version));
        let name = format!("{} v{}", body.entry.name, body.version);
        match body.entry.default_bytes(body.version) {
            Ok(bytes) if bytes == body.bytes => {}
            other => wrong.push(format!("{name}: {other:02x?}, not {:02x?}", body.bytes)),
        }
    }
    for entry in registry::all() {
        for version in entry.versions.clone() {
            // Kafka 4.3 writes this one, an entry of a transaction index, by hand.
            if entry.name != "AbortedTxn" && !seen.contains(&(entry.name, version)) {
                wrong.push(format!("{} v{version} has no recorded default", entry.name));
            }
        }
    }
    report(wrong, seen.len());
}

#[test]
fn frames_come_back_and_hold_the_recorded_values() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for frame in frames() {
        seen += 1;
        let name = format!("{} v{}", frame.entry.name, frame.version);
        let api = match frame.entry.name.strip_suffix("Request") {
            Some(api) => api,
            None => frame.entry.name.strip_suffix("Response").expect("a request or a response"),
        };
        let key = *ApiKey::ALL.iter().find(|key| key.name() == api).expect("a known API");
        let mut r = Reader::new(&frame.bytes);
        let (header, shown) = if frame.entry.kind == "request" {
            let header = decode_request_header(&mut r).expect("a header");
            let version = key.request_header_version(frame.request_version);
            (encode_all(&header, version), format!("{header:?}"))
        } else {
            let version = key.response_header_version(frame.request_version);
            let header = ResponseHeader::decode(&mut r.clone(), version).expect("a header");
            let id = decode_response_header(&mut r, key, frame.request_version).expect("a header");
            assert_eq!(id, header.correlation_id);
            (encode_all(&header, version), format!("{header:?}"))
        };
        if let Err(e) = assert_shows(&shown, &frame.header) {
            wrong.push(format!("{name}: header: {e}"));
        }
        let (head, body) = frame.bytes.split_at(r.position());
        assert_eq!(header.expect("a header"), head, "{name}");
        match frame.entry.reencode(body, frame.version) {
            Ok(again) if again == body => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
        let debug = frame.entry.debug(body, frame.version).unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Err(e) = assert_shows(&debug, &frame.json) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    assert_eq!(seen, 1037, "frames recorded");
    report(wrong, seen);
}

/// The first entry of a transaction index that Kafka wrote: its version stands in front.
#[test]
fn aborted_transactions_are_as_in_an_index() {
    let entry = *b"\x00\x00\x00\x00\x00\x00\x00\x00\x07\xd1\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x08";
    let mut r = Reader::new(&entry);
    assert_eq!(r.i16(), Ok(0));
    let aborted: AbortedTxn = decode_all(&entry[r.position()..], 0).expect("an entry");
    let AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset } = aborted;
    assert_eq!((producer_id, first_offset, last_offset, last_stable_offset), (2001, 3, 7, 8));
}

#[test]
fn apis_have_kafkas_versions_headers_and_listeners() {
    let recorded = recorded_json("api-versions.json");
    let mut left: BTreeSet<ApiKey> = ApiKey::ALL.iter().copied().collect();
    for api in recorded["apis"].as_array().expect("apis") {
        let number = |field: &str| api[field].as_i64().expect("a number") as i16;
        let listener = |name| api["listeners"].as_str().expect("listeners").contains(name);
        let Ok(key) = ApiKey::try_from(number("apiKey")) else {
            assert!(number("latestIncludingUnstable") < 0, "{api}");
            continue;
        };
        left.remove(&key);
        assert_eq!(key.versions(), number("oldest")..=number("latestStable"), "{key:?}");
        assert_eq!(key.latest_unstable(), number("latestIncludingUnstable"), "{key:?}");
        assert_eq!(key.on_broker(), listener("BROKER"), "{key:?}");
        assert_eq!(key.on_controller(), listener("CONTROLLER"), "{key:?}");
        assert_eq!(Some(key.is_cluster_action()), api["clusterAction"].as_bool(), "{key:?}");
        assert_eq!(Some(key.is_forwardable()), api["forwardable"].as_bool(), "{key:?}");
        for (i, version) in (number("oldest")..=number("latestIncludingUnstable")).enumerate() {
            let at = |field: &str| api[field][i].as_i64().expect("a version") as i16;
            assert_eq!(key.request_header_version(version), at("requestHeaderVersions"), "{key:?} v{version}");
            assert_eq!(key.response_header_version(version), at("responseHeaderVersions"), "{key:?} v{version}");
        }
    }
    assert!(left.is_empty(), "Kafka has no {left:?}");
}

/// What real listeners advertise is what [`ApiKey`] says, apart from what `advertised_min` and telemetry change.
#[test]
fn listeners_advertise_the_stable_versions() {
    let recorded = recorded_json("api-versions.json");
    let telemetry = [ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry];
    for (listener, on) in [("broker", ApiKey::on_broker as fn(ApiKey) -> bool), ("controller", ApiKey::on_controller)] {
        let rows = recorded["listeners"][listener].as_array().expect("a list");
        let rows: Vec<_> =
            rows.iter().map(|row| [0, 1, 2].map(|i| row[i].as_i64().expect("a number") as i16)).collect();
        let ours: Vec<_> = ApiKey::ALL
            .iter()
            .filter(|key| on(**key) && !telemetry.contains(key))
            .map(|key| [*key as i16, key.advertised_min(), *key.versions().end()])
            .collect();
        assert_eq!(ours, rows, "{listener}");
    }
}

#[test]
fn error_codes_are_kafkas() {
    let text = std::fs::read_to_string(golden("errors.txt")).expect("a golden file");
    let mut codes = Vec::new();
    for line in text.lines() {
        let [code, name, exception, retriable] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let code: i16 = code.parse().expect("a number");
        let error = ErrorCode::from_i16(code);
        assert_eq!(i16::from(error), code);
        assert_eq!(error.name(), name);
        assert_eq!(error.exception(), if exception == "-" { "" } else { exception }, "{name}");
        assert_eq!(error.is_retriable().to_string(), retriable, "{name}");
        codes.push(error);
    }
    assert_eq!(codes, ErrorCode::ALL);
    assert_eq!(ErrorCode::from_i16(9999), ErrorCode::UnknownServerError);
}

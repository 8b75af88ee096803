//! Quotas as the controller keeps them.

use protocol::error::ErrorCode;
use protocol::messages::*;

use super::tests::{Cluster, settings};
use super::{Bucket, MutationQuota};

#[test]
fn quotas_are_checked_stored_and_found() {
    use alter_client_quotas_request::{EntityData, EntryData, OpData};
    let mut cluster = Cluster::new(settings());
    let mut alter = |entity: &[(&'static str, Option<&'static str>)], ops: &[(&'static str, f64)]| {
        let part = |(kind, name): &(&'static str, Option<&'static str>)| EntityData {
            entity_type: (*kind).into(),
            entity_name: name.map(Into::into),
            ..Default::default()
        };
        let op = |(key, value): &(&'static str, f64)| OpData {
            key: (*key).into(),
            value: *value,
            remove: *value == 0.0,
            ..Default::default()
        };
        let entry = EntryData {
            entity: entity.iter().map(part).collect(),
            ops: ops.iter().map(op).collect(),
            ..Default::default()
        };
        let request = AlterClientQuotasRequest { entries: vec![entry], ..Default::default() };
        let result = cluster.controller.alter_client_quotas(&request);
        (ErrorCode::from_i16(result.response.entries[0].error_code), result.records.len())
    };
    let ok = |records: usize| (ErrorCode::None, records);
    let refused = (ErrorCode::InvalidRequest, 0);
    let alice = [("user", Some("alice"))];
    assert_eq!(alter(&alice, &[("producer_byte_rate", 5.0), ("request_percentage", 0.5)]), ok(2));
    assert_eq!(alter(&alice, &[("producer_byte_rate", 5.0)]), ok(0), "as it is already");
    assert_eq!(alter(&alice, &[("producer_byte_rate", 0.0)]), ok(1), "removed");
    assert_eq!(alter(&alice, &[("producer_byte_rate", 0.0)]), ok(0));
    assert_eq!(alter(&alice, &[("producer_byte_rate", 1.5)]), refused, "a fraction of a byte");
    assert_eq!(alter(&alice, &[("producer_byte_rate", -1.0)]), refused);
    assert_eq!(alter(&alice, &[("producer_byte_rate", f64::NAN)]), refused);
    assert_eq!(alter(&alice, &[("connection_creation_rate", 5.0)]), refused, "for addresses only");
    assert_eq!(alter(&alice, &[("k", 5.0), ("k", 5.0)]), refused);
    assert_eq!(alter(&[], &[("producer_byte_rate", 5.0)]), refused);
    assert_eq!(alter(&[("user", Some(""))], &[("producer_byte_rate", 5.0)]), refused);
    assert_eq!(alter(&[("group", Some("g"))], &[("producer_byte_rate", 5.0)]), refused);
    assert_eq!(alter(&[("ip", None)], &[("connection_creation_rate", 5.0)]), ok(1));
    assert_eq!(alter(&[("ip", Some("nowhere"))], &[("connection_creation_rate", 5.0)]), refused);
    assert_eq!(alter(&[("ip", None), ("user", None)], &[("connection_creation_rate", 5.0)]), refused);
    assert_eq!(alter(&[("user", Some("alice")), ("client-id", None)], &[("consumer_byte_rate", 7.0)]), ok(1));
    assert_eq!(alter(&[("client-id", None), ("user", Some("alice"))], &[("consumer_byte_rate", 7.0)]), ok(0));

    let find = |components: &[(&'static str, i8, Option<&'static str>)], strict: bool| {
        let part = |(kind, match_type, name): &(&'static str, i8, Option<&'static str>)| {
            describe_client_quotas_request::ComponentData {
                entity_type: (*kind).into(),
                match_type: *match_type,
                match_: name.map(Into::into),
                ..Default::default()
            }
        };
        let components = components.iter().map(part).collect();
        let request = DescribeClientQuotasRequest { components, strict, ..Default::default() };
        let response = cluster.controller.image().describe_client_quotas(&request);
        (response.error_code, response.entries.map(|entries| entries.len()))
    };
    assert_eq!(find(&[], false), (0, Some(3)));
    assert_eq!(find(&[("user", 0, Some("alice"))], false), (0, Some(2)));
    assert_eq!(find(&[("user", 0, Some("alice"))], true), (0, Some(1)));
    assert_eq!(find(&[("user", 2, None), ("client-id", 1, None)], true), (0, Some(1)));
    assert_eq!(find(&[("user", 1, None)], false), (0, Some(0)));
    assert_eq!(find(&[("ip", 2, None)], true), (0, Some(1)));
    assert_eq!(find(&[("ip", 2, None), ("user", 2, None)], true), (42, None));
    assert_eq!(find(&[("user", 0, None)], true), (42, None));
    assert_eq!(find(&[("group", 2, None)], true), (35, None));
}

#[test]
fn a_strict_quota_refuses_what_a_permissive_one_lets_pass() {
    let bucket = Bucket::full(2.0, 10.0, 0);
    let mut strict = MutationQuota::limited(bucket, true, 0);
    assert!(strict.take(14).is_ok(), "overdrawn once");
    assert_eq!(strict.take(1).map_err(|e| e.error), Err(ErrorCode::ThrottlingQuotaExceeded));
    assert_eq!(strict.throttle_ms(), 2_000);
    let later = MutationQuota::limited(strict.bucket().expect("it has one"), true, 2_000);
    assert!(later.clone().take(1).is_ok(), "and then there is something again");
    let mut permissive = MutationQuota::limited(strict.bucket().expect("it has one"), false, 0);
    assert!(permissive.take(2).is_ok());
    assert_eq!(permissive.throttle_ms(), 3_000);
}

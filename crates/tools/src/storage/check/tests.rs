//! Directories that Apache Kafka 4.3.1 left behind, as they are and with damage done to them.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::messages::{FeatureLevelRecord, MetadataRecord};
use protocol::records::{BatchBuilder, BatchSpec};

use super::*;

const LOG: &str = "__cluster_metadata-0/00000000000000000000.log";

/// A copy that a test may change; removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Copy {
        let dir = std::env::temp_dir().join(format!("zwirn-check-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&root.join("tests/golden/storage-check/single-node"), &dir);
        for replica in ["segments", "transactions", "idempotent", "epochs"] {
            let from = root.join("../storage/tests/golden").join(replica);
            copy(&from, &dir.join(format!("disk-{replica}-0")));
        }
        Copy(dir)
    }

    fn stopped_in_order(self) -> Copy {
        fs::write(self.0.join(CLEAN_SHUTDOWN), "{\"version\":0,\"brokerEpoch\":5}").unwrap();
        self
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.0.join(file);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    fn check(&self) -> (u8, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(std::slice::from_ref(&self.0), &mut Terminal { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap())
    }

    /// The exit code, and the line about `what`.
    fn line(&self, what: &str) -> (u8, String) {
        let (code, text) = self.check();
        let line = text.lines().find(|line| line.contains(what));
        (code, line.unwrap_or_else(|| panic!("no line about {what} in {text}")).trim().to_owned())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn batch(at: i64, value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchSpec { base_offset: at, partition_leader_epoch: 1, ..Default::default() });
    builder.append(0, None, Some(value), &[]);
    builder.build()
}

#[test]
fn what_kafka_left_can_be_taken_over() {
    let dir = Copy::new("whole");
    let (code, text) = dir.check();
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("REFUSED") && !text.contains("repair"), "{text}");
    assert!(text.contains("offsets 0 to 196, snapshot 173-1"), "{text}");
    assert!(dir.line("share.version").1.starts_with("note"), "{text}");
    assert!(dir.line("streams.version").1.starts_with("note"), "{text}");
    assert!(dir.line("__transaction_state").1.starts_with("note"), "{text}");
    assert!(dir.line("open transaction").1.starts_with("note"), "{text}");
}

#[test]
fn a_record_or_feature_of_a_later_version_is_refused() {
    let dir = Copy::new("record");
    dir.change(LOG, |log| log.extend(batch(196, &[1, 99, 0, 0])));
    let (code, line) = dir.line("record type 99");
    assert!(code == 1 && line.starts_with("REFUSED") && line.contains("offset 196"), "{line}");

    let dir = Copy::new("feature");
    let record = FeatureLevelRecord { name: "share.version".into(), feature_level: 9, ..Default::default() };
    let value = MetadataRecord::FeatureLevel(record).encode(0).unwrap();
    dir.change(LOG, |log| log.extend(batch(196, &value)));
    let (code, line) = dir.line("share.version");
    assert!(code == 1 && line.starts_with("REFUSED") && line.contains("0 to 1"), "{line}");
}

#[test]
fn damage_is_refused_and_what_can_be_rebuilt_is_not() {
    let dir = Copy::new("bit").stopped_in_order();
    dir.change("disk-segments-0/00000000000000000099.log", |log| log[100] ^= 1);
    let (code, line) = dir.line("00000000000000000099.log");
    assert!(code == 1 && line.starts_with("REFUSED") && line.contains("position 82 "), "{line}");

    let dir = Copy::new("metadata-bit");
    dir.change(LOG, |log| log[5_000] ^= 1);
    let (code, line) = dir.line("00000000000000000000.log");
    assert!(code == 1 && line.starts_with("REFUSED"), "{line}");

    let dir = Copy::new("rebuilt").stopped_in_order();
    fs::remove_file(dir.0.join("disk-segments-0/00000000000000000099.index")).unwrap();
    dir.change("disk-segments-0/00000000000000000198.timeindex", |index| index.truncate(13));
    dir.change("disk-idempotent-0/00000000000000000009.snapshot", |snapshot| snapshot[7] ^= 1);
    dir.change("disk-epochs-0/leader-epoch-checkpoint", |epochs| epochs.truncate(5));
    for what in ["00099.index", "00198.timeindex", "00009.snapshot", "leader-epoch-checkpoint"] {
        let (code, line) = dir.line(what);
        assert!(code == 0 && line.starts_with("repair"), "{line}");
    }
}

#[test]
fn a_cut_off_end_is_a_crash_or_damage() {
    let cut = |dir: &Copy| dir.change("disk-epochs-0/00000000000000000000.log", |log| log.truncate(log.len() - 9));
    let dir = Copy::new("crashed");
    cut(&dir);
    let (code, line) = dir.line("disk-epochs-0 00000000000000000000.log");
    assert!(code == 0 && line.starts_with("repair"), "{line}");
    let dir = Copy::new("cut").stopped_in_order();
    cut(&dir);
    let (code, line) = dir.line("disk-epochs-0 00000000000000000000.log");
    assert!(code == 1 && line.starts_with("REFUSED"), "{line}");
}

#[test]
fn the_owner_and_the_metadata_must_be_there() {
    let dir = Copy::new("owner");
    dir.change("meta.properties", |text| *text = b"version=1\ncluster.id=x\nnode.id=1\n".to_vec());
    let (code, line) = dir.line("meta.properties");
    assert!(code == 1 && line.contains("directory.id"), "{line}");
    let dir = Copy::new("no-log");
    fs::remove_dir_all(dir.0.join(METADATA_DIR)).unwrap();
    let (code, line) = dir.line("REFUSED");
    assert!(code == 1 && line.contains(METADATA_DIR), "{line}");
    let dir = Copy::new("no-snapshot");
    let log = dir.0.join(METADATA_DIR);
    fs::rename(log.join("00000000000000000000.log"), log.join("00000000000000000056.log")).unwrap();
    for snapshot in ["00000000000000000056-0000000001", "00000000000000000173-0000000001"] {
        fs::remove_file(log.join(format!("{snapshot}.checkpoint"))).unwrap();
    }
    let (code, line) = dir.line("there is no snapshot");
    assert!(code == 1 && line.starts_with("REFUSED"), "{line}");
}

#[test]
fn a_replica_that_held_records_must_not_be_missing() {
    let dir = Copy::new("missing").stopped_in_order();
    fs::write(dir.0.join(HIGH_WATERMARKS), "0\n1\nt-fmt 0 12\n").unwrap();
    let (code, line) = dir.line("t-fmt-0");
    assert!(code == 1 && line.starts_with("REFUSED") && line.contains("12"), "{line}");
}

//! Records of the metadata log, replayed one after the other: `([len u16][record])*`. An image that they make must
//! survive its snapshot.

use metadata::{MetadataDelta, MetadataImage};
use protocol::messages::MetadataRecord;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

const BOUND: Bound = Bound { anyway: 64 << 10, per_byte: 1024 };

pub fn run(data: &[u8]) {
    BOUND.hold(data.len(), || {
        let mut input = Input::new(data);
        let mut image = MetadataImage::default();
        let mut delta = MetadataDelta::default();
        while !input.is_empty() {
            if let Ok(record) = MetadataRecord::decode(input.sized()) {
                // Refused or not: a node stops at the first that it cannot apply.
                if image.apply(&record, &mut delta).is_err() {
                    break;
                }
            }
        }
        if image.in_transaction {
            return;
        }
        let Ok(records) = image.to_records() else { return };
        let mut again = MetadataImage::default();
        for value in &records {
            let record = MetadataRecord::decode(value).expect("records of ours decode");
            again.apply(&record, &mut MetadataDelta::default()).expect("records of ours apply");
        }
        // A snapshot holds each thing once: what it is made into must make the same snapshot.
        assert_eq!(again.to_records().as_ref(), Ok(&records));
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = Output::default();
    let mut out = Vec::new();
    for record in golden::metadata_records() {
        let mut one = Output::default();
        one.sized(&record);
        all.raw(&one.0);
        out.push(one.0);
    }
    out.truncate(60);
    out.push(all.0);
    out
}

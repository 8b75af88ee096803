//! DescribeLogDirs (KIP-113, KIP-827): what lies in which directory of this broker, and how full it is.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::error::ErrorCode;
use protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_describe_log_dirs(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeLogDirsRequest<'_> = cx.decode(body)?;
        let wanted = |topic: &str, partition: i32| match &request.topics {
            None => true,
            Some(topics) => topics.iter().any(|t| t.topic == topic && t.partitions.contains(&partition)),
        };
        let mut results = Vec::new();
        for (index, dir) in self.log_dirs.iter().enumerate() {
            if !self.config.log_dirs.contains(&dir.path) {
                continue;
            }
            if !self.is_online(index) {
                results.push(offline(&dir.path));
                continue;
            }
            let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
            for (key, replica) in self.replicas.all.iter().filter(|(_, r)| r.dir == index) {
                let partition = &replica.partition;
                if !wanted(&partition.topic, key.1) {
                    continue;
                }
                // A replica's lag is how far its log is behind what it knows to be committed.
                let lag = (partition.high_watermark() - partition.log().end_offset()).max(0);
                topics.entry(&partition.topic).or_default().push(DescribeLogDirsPartition {
                    partition_index: key.1,
                    partition_size: partition.log().size_bytes() as i64,
                    offset_lag: lag,
                    ..Default::default()
                });
            }
            let (free, total) = self.disk.space(&dir.path).unwrap_or((0, 0));
            let topics = topics.into_iter().map(|(name, partitions)| DescribeLogDirsTopic {
                name: name.to_owned().into(),
                partitions,
                ..Default::default()
            });
            results.push(DescribeLogDirsResult {
                log_dir: dir.path.display().to_string().into(),
                topics: topics.collect(),
                total_bytes: total as i64,
                usable_bytes: free as i64,
                ..Default::default()
            });
        }
        results.extend(self.offline.missing.iter().map(|path| offline(path)));
        self.respond(cx.reply, &DescribeLogDirsResponse { results, ..Default::default() });
        Ok(())
    }
}

fn offline(path: &Path) -> DescribeLogDirsResult<'static> {
    DescribeLogDirsResult {
        log_dir: path.display().to_string().into(),
        error_code: ErrorCode::KafkaStorageError.into(),
        ..Default::default()
    }
}

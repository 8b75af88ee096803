//! `dump-log` on any file: `[kind u8][options u8][decoder u8][len u16][log][file]`; the log lies beside an index.

use std::io;
use std::path::PathBuf;

use tools::terminal::Terminal;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

/// Records are decompressed, and shown as text.
const BOUND: Bound = Bound { anyway: 512 << 20, per_byte: 1024 };

const NAMES: [&str; 6] = [
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000006.snapshot",
    "00000000000000000000.txnindex",
    "00000000000000000056-0000000001.checkpoint",
];

const OPTIONS: [&str; 5] =
    ["--print-data-log", "--deep-iteration", "--skip-record-metadata", "--index-sanity-check", "--verify-index-only"];
const DECODERS: [Option<&str>; 6] = [
    None,
    Some("--offsets-decoder"),
    Some("--transaction-log-decoder"),
    Some("--cluster-metadata-decoder"),
    Some("--share-group-state-decoder"),
    Some("--remote-log-metadata-decoder"),
];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let name = NAMES[usize::from(input.u8()) % NAMES.len()];
    let flags = input.u8();
    let mut args: Vec<String> = Vec::new();
    let chosen = OPTIONS.iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0);
    args.extend(chosen.map(|(_, option)| (*option).to_owned()));
    args.extend(DECODERS[usize::from(input.u8()) % DECODERS.len()].map(str::to_owned));
    let dir = scratch_dir();
    std::fs::write(dir.join(NAMES[0]), input.sized()).expect("a scratch file");
    std::fs::write(dir.join(name), input.rest()).expect("a scratch file");
    args.extend(["--files".to_owned(), dir.join(name).display().to_string()]);
    let tool = tools::find("dump-log").expect("a tool of ours");
    BOUND.hold(data.len(), || {
        let mut terminal = Terminal { out: &mut io::sink(), err: &mut io::sink() };
        (tool.main)(&args, &mut terminal);
    });
}

/// One for each thread that runs targets, used again and again.
fn scratch_dir() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    let dir = std::env::temp_dir().join(format!("zwirn-fuzz-{}-{thread}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let files = golden::PARTITIONS.iter().copied().flatten().chain(golden::NODE);
    for (name, bytes) in files.filter(|(_, bytes)| bytes.len() < 20_000) {
        let extension = name.rsplit('.').next();
        let Some(kind) = NAMES.iter().position(|n| n.rsplit('.').next() == extension) else { continue };
        for flags in [1, 8, 16] {
            let mut seed = Output::default();
            seed.u8(kind as u8).u8(flags).u8(bytes.len() as u8).sized(golden::BATCHES[0]).raw(bytes);
            out.push(seed.0);
        }
    }
    for bytes in golden::BATCHES {
        let mut seed = Output::default();
        seed.u8(0).u8(1).u8(0).sized(&[]).raw(bytes);
        out.push(seed.0);
    }
    out
}

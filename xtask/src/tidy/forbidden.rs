//! What a crate may not call: sockets, threads, files, clocks and everything else that a simulation could not repeat.
//! Those who may are named here, with the reason.

use super::{Source, bare};

struct Rule {
    /// Any of them as text, in code without comments and strings.
    patterns: &'static [&'static str],
    what: &'static str,
    /// Crates, or files, that may.
    allowed: &'static [&'static str],
}

/// Mains talk to the system; so does the one file with the real disk.
const MAINS: [&str; 4] = ["server", "tools", "zwirn", "xtask"];
const REAL_DISK: &str = "crates/storage/src/real.rs";
/// The targets that read real files, and the counters of an allocator.
const FUZZ_DUMP: &str = "crates/fuzzing/src/dump.rs";
const FUZZ_MEMORY: &str = "crates/fuzzing/src/memory.rs";
/// Prints for whoever started it, and measures how long that took.
const SIMULATOR_MAIN: &str = "crates/simulator/src/main.rs";

const RULES: &[Rule] = &[
    Rule {
        patterns: &["net::Tcp", "net::Udp", "net::ToSocketAddrs", "TcpStream", "TcpListener", "UdpSocket"],
        what: "a socket: only a Node's driver has any",
        allowed: &MAINS,
    },
    Rule {
        patterns: &["std::thread", "thread::spawn"],
        what: "a thread: logic runs on its caller's",
        allowed: &["server", "tools", "zwirn", "xtask", SIMULATOR_MAIN, FUZZ_DUMP],
    },
    Rule {
        patterns: &["std::fs", "fs::File", "fs::read", "fs::write"],
        what: "a file: the trait storage::Disk is for that",
        allowed: &["server", "tools", "zwirn", "xtask", REAL_DISK, FUZZ_DUMP],
    },
    Rule {
        patterns: &["Instant::now", "SystemTime::now", "std::time::Instant", "std::time::SystemTime", "UNIX_EPOCH"],
        what: "a clock: time is an argument (protocol::time::Now)",
        allowed: &["server", "tools", "zwirn", "xtask", SIMULATOR_MAIN],
    },
    Rule {
        patterns: &["std::env", "env::var", "std::process", "process::Command"],
        what: "the process: configuration is an argument",
        allowed: &["server", "tools", "zwirn", "xtask", SIMULATOR_MAIN, FUZZ_DUMP],
    },
    Rule {
        patterns: &["HashMap::new", "HashSet::new", "collections::HashMap", "collections::HashSet", "RandomState"],
        what: "a map with random order: use BTreeMap or rustc_hash",
        allowed: &MAINS,
    },
    Rule {
        patterns: &["static mut ", "thread_local!", "lazy_static!", "LazyLock", "static ref "],
        what: "state that belongs to nobody",
        allowed: &["xtask", FUZZ_MEMORY],
    },
    Rule {
        patterns: &["fastrand::u", "fastrand::i", "fastrand::bool", "Rng::new()"],
        what: "randomness that cannot be repeated: a seed is an argument",
        allowed: &["server", "tools", "zwirn", "xtask"],
    },
    Rule { patterns: &["todo!(", "unimplemented!(", "dbg!("], what: "unfinished work", allowed: &[] },
];

pub fn check(sources: &[Source], faults: &mut Vec<String>) {
    for source in sources.iter().filter(|source| source.is_rust() && !source.krate().is_empty()) {
        let rules: Vec<&Rule> = RULES
            .iter()
            .filter(|rule| !rule.allowed.iter().any(|allowed| *allowed == source.krate() || *allowed == source.path))
            .collect();
        for (number, line) in source.code_lines() {
            let code = bare(line);
            let is_grouped_map =
                code.starts_with("use std::collections::{") && (code.contains("HashMap") || code.contains("HashSet"));
            for rule in &rules {
                let is_hit = rule.patterns.iter().any(|pattern| code.contains(pattern))
                    || is_grouped_map && rule.patterns.contains(&"RandomState");
                if is_hit {
                    faults.push(format!("{}:{number}: {}", source.path, rule.what));
                }
            }
        }
    }
}

//! What Apache Kafka 4.3.1's tools said where no cluster is needed: the same command lines, the same words and exit
//! codes. Cases that need a cluster are compared live, by `cargo xtask tools`.

use std::path::{Path, PathBuf};

use tools::terminal::Terminal;

const CASES: &[&str] = &[
    "console-consumer-no-topic",
    "console-consumer-offset-without-partition",
    "console-consumer-version",
    "console-producer-bad-codec",
    "console-producer-no-topic",
    "console-producer-version",
    "consumer-groups-no-action",
    "consumer-groups-no-group",
    "consumer-groups-version",
    "dump-log-bad-extension",
    "dump-log-missing-file",
    "dump-log-no-files",
    "dump-log-version",
    "get-offsets-bad-time",
    "groups-no-action",
    "perf-producer-no-args",
    "transactions-no-action",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("txt")
}

struct Recording {
    args: Vec<String>,
    exit: u8,
    /// Kafka's own help followed; ours has its own words.
    help: bool,
    out: String,
    err: String,
}

fn recording(name: &str) -> Recording {
    let bytes = std::fs::read(golden(name)).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let stream = |name: &str| {
        let at = text.find(&format!("\n{name}: ")).unwrap() + name.len() + 3;
        let (len, rest) = text[at..].split_once('\n').unwrap();
        rest[..len.parse::<usize>().unwrap()].to_owned()
    };
    Recording {
        args: line("command: ").split(' ').map(str::to_owned).collect(),
        exit: line("exit: ").parse().unwrap(),
        help: text.contains("\nhelp: left out\n"),
        out: stream("stdout"),
        err: stream("stderr"),
    }
}

/// Without the lines that say where in Java something happened.
fn without_trace(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("\tat ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_was_recorded_is_said_again() {
    let mut wrong = Vec::new();
    for name in CASES {
        if !golden(name).exists() {
            continue;
        }
        let recorded = recording(name);
        let tool = tools::find(&recorded.args[0]).unwrap_or_else(|| panic!("no tool {}", recorded.args[0]));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = (tool.main)(&recorded.args[1..], &mut Terminal { out: &mut out, err: &mut err });
        let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
        let expected = without_trace(&recorded.err);
        // Where help follows it may stand on either stream.
        let same = match recorded.help {
            true => (err.starts_with(&expected) || out.starts_with(&expected)) && out.starts_with(&recorded.out),
            false => err == expected && out == recorded.out,
        };
        if exit != recorded.exit || !same {
            wrong.push(format!(
                "{name}: exit {exit}\n{out}{err}-- recorded: {}\n{}{expected}",
                recorded.exit, recorded.out
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

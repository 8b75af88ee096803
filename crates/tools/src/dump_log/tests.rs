//! The recorded directories of Apache Kafka, dumped and compared with what its own tool said of them.

use std::path::{Path, PathBuf};

use super::*;

/// `command: …`, then the exit code, then each stream with its length.
struct Recording {
    args: Vec<String>,
    out: Vec<u8>,
    err: String,
}

fn recording(path: &Path) -> Recording {
    let bytes = std::fs::read(path).unwrap();
    let find = |needle: &str, from: usize| {
        from + bytes[from..].windows(needle.len()).position(|w| w == needle.as_bytes()).unwrap()
    };
    let line_end = find("\n", 0);
    let command = String::from_utf8(bytes[9..line_end].to_vec()).unwrap();
    let stream = |name: &str, from: usize| {
        let at = find(name, from) + name.len();
        let end = find("\n", at);
        let len: usize = std::str::from_utf8(&bytes[at..end]).unwrap().parse().unwrap();
        (bytes[end + 1..end + 1 + len].to_vec(), end + 1 + len)
    };
    let (out, end) = stream("\nstdout: ", 0);
    let (err, _) = stream("\nstderr: ", end);
    let args = command.split(' ').skip(1).map(str::to_owned).collect();
    Recording { args, out, err: String::from_utf8(err).unwrap() }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/disk")
}

/// Runs the recorded command with its files taken from `dir`; paths in the output are made as they were.
fn replay(dir: &Path, recorded: &Recording) -> (Vec<u8>, String) {
    let mut args = recorded.args.clone();
    let files = args.last_mut().unwrap();
    *files = files.split(',').map(|file| dir.join(file).display().to_string()).collect::<Vec<_>>().join(",");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(main(&args, &mut Terminal { out: &mut out, err: &mut err }), 0);
    let prefix = format!("{}/", dir.display());
    let text = String::from_utf8_lossy(&out).replace(&prefix, "").into_bytes();
    (text, String::from_utf8(err).unwrap())
}

/// The lines without the directory, sorted: whose turn comes first hangs on where the files lie.
fn findings(err: &str) -> Vec<String> {
    let mut out: Vec<String> = err
        .lines()
        .map(|line| match line.split_once('/') {
            Some((title, path)) => format!("{title}{}", path.rsplit('/').next().unwrap_or(path)),
            None => line.to_owned(),
        })
        .collect();
    out.sort();
    out
}

#[test]
fn every_recorded_directory() {
    let mut compared = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let dir = entry.unwrap().path();
        for name in ["dump-log.txt", "dump-index.txt", "dump-index-sanity-check.txt", "dump-txnindex-snapshot.txt"] {
            let path = dir.join(name);
            if !path.exists() {
                continue;
            }
            let recorded = recording(&path);
            let (out, err) = replay(&dir, &recorded);
            let expected = String::from_utf8_lossy(&recorded.out).into_owned();
            let got = String::from_utf8_lossy(&out).into_owned();
            for (expected, got) in expected.lines().zip(got.lines()) {
                assert_eq!(got, expected, "{}", path.display());
            }
            assert_eq!(got.len(), expected.len(), "{}", path.display());
            assert_eq!(findings(&err), findings(&recorded.err), "{}", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 40, "only {compared} recordings were found");
}

#[test]
fn recorded_mistakes() {
    let run = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = main(&args, &mut Terminal { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (code, out, err) = run(&["--files", "nope.log"]);
    let golden = include_str!("../../tests/golden/dump-log-missing-file.txt");
    assert!(code == 1 && golden.contains(&out) && golden.contains(&err), "{out}{err}");
    let (code, out, err) = run(&["--files", "rich/d1/meta.properties"]);
    let golden = include_str!("../../tests/golden/dump-log-bad-extension.txt");
    assert!(code == 0 && golden.contains(&out) && golden.contains(&err), "{out}{err}");
}

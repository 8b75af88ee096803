//! The recorded directories of Apache Kafka, dumped and compared with what its own tool said of them.

use std::path::{Path, PathBuf};

use protocol::records::HEADER_LEN;

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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every `dump-*.txt` below `dir`.
fn recordings(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            recordings(&path, out);
        } else if name.starts_with("dump-") && name.ends_with(".txt") && path.parent() != Some(&golden()) {
            out.push(path);
        }
    }
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
    let mut found = Vec::new();
    recordings(&golden(), &mut found);
    assert!(found.len() >= 70, "only {} recordings were found", found.len());
    for path in found {
        let recorded = recording(&path);
        let (out, err) = replay(path.parent().unwrap(), &recorded);
        let expected = String::from_utf8_lossy(&recorded.out).into_owned();
        let got = String::from_utf8_lossy(&out).into_owned();
        for (expected, got) in expected.lines().zip(got.lines()) {
            assert_eq!(got, expected, "{}", path.display());
        }
        assert_eq!(got.len(), expected.len(), "{}", path.display());
        assert_eq!(findings(&err), findings(&recorded.err), "{}", path.display());
    }
}

/// What `main` says of a file of these bytes.
fn dumped(name: &str, bytes: &[u8], options: Options) -> (u8, String, String) {
    let dir = std::env::temp_dir().join(format!("zwirn-dump-log-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("00000000000000000000.log");
    std::fs::write(&file, bytes).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = dump(&[file.display().to_string()], options, &mut Terminal { out: &mut out, err: &mut err });
    std::fs::remove_dir_all(&dir).unwrap();
    (code, String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

#[test]
fn damage_is_named_and_passed() {
    let whole = std::fs::read(golden().join("disk/idempotent/00000000000000000000.log")).unwrap();
    let options = Options { deep: true, ..Options::default() };
    let (code, all, err) = dumped("whole", &whole, options);
    assert_eq!((code, err.as_str()), (0, ""));
    let sizes: Vec<usize> = protocol::records::Batches::new(&whole).map(|batch| batch.unwrap().header.size()).collect();
    assert!(sizes.len() > 3, "{sizes:?}");
    let second = sizes[0];
    let third = second + sizes[1];
    let lines = |text: &str| text.lines().filter(|line| line.starts_with("baseOffset")).count();

    // The length of the second batch is gone: it alone is not shown.
    let mut damaged = whole.clone();
    damaged[second + 8..second + 12].fill(0);
    let (code, out, err) = dumped("length", &damaged, options);
    assert_eq!((code, lines(&out)), (1, lines(&all) - 1));
    assert!(
        err.contains(&format!("  position {second}: no batch; the next whole batch is at position {third}")),
        "{err}"
    );

    // Its records are not: its line is there, as invalid, and all others.
    let mut damaged = whole.clone();
    damaged[second + HEADER_LEN] = 0xff;
    let (code, out, err) = dumped("record", &damaged, options);
    assert_eq!((code, lines(&out)), (1, lines(&all)));
    assert!(
        out.contains("isvalid: false") && err.contains(&format!("  position {second}: the batch at offset")),
        "{err}"
    );

    // A torn end is none of Kafka's errors.
    let (code, out, err) = dumped("torn", &whole[..whole.len() - 1], options);
    assert_eq!((code, lines(&out)), (0, lines(&all) - 1));
    let left = sizes[sizes.len() - 1] - 1;
    assert!(out.ends_with(&format!("Found {left} invalid bytes at the end of 00000000000000000000.log\n")), "{out}");
    assert_eq!(err, "");
}

#[test]
fn the_form_of_kafka_2_7() {
    let bytes = std::fs::read(golden().join("disk/plain/00000000000000000000.log")).unwrap();
    let options = Options { deep: true, print_data: true, old_form: true, ..Options::default() };
    let (_, out, _) = dumped("old-form", &bytes, options);
    let mut lines = out.lines().skip(1);
    assert_eq!(lines.next(), Some("Starting offset: 0"));
    let batch = lines.next().unwrap();
    assert!(batch.contains(" isControl: false position: 0 CreateTime: ") && batch.contains(" compresscodec: NONE "));
    assert!(lines.next().unwrap().contains(" keysize: ") && out.contains(" valuesize: "));
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

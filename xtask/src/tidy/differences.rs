//! Where we differ from Apache Kafka on purpose: every `// DIFFERS:` comment, collected into a document.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::Source;

const DOCUMENT: &str = "docs/differences.md";
const MARK: &str = "DIFFERS:";
const HEAD: &str = "# Where Zwirn differs from Apache Kafka\n\n\
                    Collected from the `DIFFERS:` comments in the code by `cargo xtask tidy --write`.\n";

pub fn check(root: &Path, sources: &[Source], write: bool, faults: &mut Vec<String>) -> Result<(), String> {
    renew(root, DOCUMENT, &document(sources), write, faults)
}

/// A document that is made from what is written elsewhere.
pub fn renew(root: &Path, document: &str, text: &str, write: bool, faults: &mut Vec<String>) -> Result<(), String> {
    let path = root.join(document);
    if fs::read_to_string(&path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    if !write {
        faults.push(format!("{document}: is not current; run `cargo xtask tidy --write`"));
        return Ok(());
    }
    let failed = |e| format!("{}: {e}", path.display());
    fs::create_dir_all(root.join("docs")).map_err(failed)?;
    fs::write(&path, text).map_err(failed)
}

fn document(sources: &[Source]) -> String {
    let mut out = HEAD.to_owned();
    let mut krate = "";
    for source in sources.iter().filter(|s| s.is_rust() && s.path.starts_with("crates/") && !s.is_test()) {
        let found = differences(&source.text);
        if found.is_empty() {
            continue;
        }
        if krate != source.krate() {
            krate = source.krate();
            let _ = write!(out, "\n## {krate}\n\n");
        }
        for difference in found {
            let _ = writeln!(out, "- `{}`: {difference}", source.path);
        }
    }
    out
}

/// The rest of the comment's paragraph behind each mark.
fn differences(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let comment = line.trim_start().strip_prefix("//").map(|rest| rest.trim_start_matches(['/', '!']).trim());
        match comment {
            Some(comment) if comment.contains(MARK) => {
                let (_, rest) = comment.split_once(MARK).expect("it contains the mark");
                out.push(rest.trim().to_owned());
                is_open = true;
            }
            Some(comment) if is_open && !comment.is_empty() => {
                if let Some(last) = out.last_mut() {
                    last.push(' ');
                    last.push_str(comment);
                }
            }
            _ => is_open = false,
        }
    }
    out
}

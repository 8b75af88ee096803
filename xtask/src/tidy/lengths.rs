//! Lengths of files and functions. What is too long already stands in `xtask/lengths.txt` with its length: it may only
//! get shorter, and nothing new joins it without a hand's writing it there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Source;

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const RATCHET: &str = "xtask/lengths.txt";
const HEAD: &str = "# Longer than they should be: `path lines` for a file, `path function lines` for a function. Lines are\n\
                    # only ever taken out or lowered; `cargo xtask tidy --write` does so.\n";

pub fn check(root: &Path, sources: &[Source], write: bool, faults: &mut Vec<String>) -> Result<(), String> {
    let path = root.join(RATCHET);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let known = parse(&text)?;
    let found = too_long(sources);
    for (what, &lines) in &found {
        match known.get(what) {
            Some(&max) if lines <= max => {}
            Some(&max) => faults.push(format!("{what}: has grown from {max} to {lines} lines; split it")),
            None => faults.push(format!("{what}: {lines} lines are too long; split it")),
        }
    }
    let lowered: BTreeMap<&String, usize> =
        known.iter().filter_map(|(what, &max)| Some((what, max.min(*found.get(what)?)))).collect();
    if known.iter().any(|(what, max)| lowered.get(what) != Some(max)) {
        if !write {
            faults.push(format!("{RATCHET}: something has become shorter; run `cargo xtask tidy --write`"));
            return Ok(());
        }
        let lines: String = lowered.iter().map(|(what, lines)| format!("{what} {lines}\n")).collect();
        fs::write(&path, format!("{HEAD}{lines}")).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn parse(text: &str) -> Result<BTreeMap<String, usize>, String> {
    let mut out = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let entry = line.rsplit_once(' ').and_then(|(what, lines)| Some((what.to_owned(), lines.parse().ok()?)));
        let (what, lines) = entry.ok_or_else(|| format!("{RATCHET}: malformed line {line:?}"))?;
        out.insert(what, lines);
    }
    Ok(out)
}

fn too_long(sources: &[Source]) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_generated()) {
        let lines = source.code_lines().count();
        if lines > FILE_LINES_MAX {
            out.insert(source.path.clone(), lines);
        }
        for (name, lines) in functions(source) {
            if lines > FUNCTION_LINES_MAX {
                out.insert(format!("{} {name}", source.path), lines);
            }
        }
    }
    out
}

/// Names and lengths of functions: rustfmt puts the brace that ends one at the indentation at which it began.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut out = Vec::new();
    let mut open: Vec<(usize, String, usize)> = Vec::new();
    for (number, line) in source.code_lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code.starts_with('}') {
            if let Some((_, name, first)) = open.pop_if(|(at, _, _)| *at == indent) {
                out.push((name, number + 1 - first));
            }
        } else if let Some(name) = function_name(code) {
            // A declaration without a body has no end of its own.
            open.retain(|(at, _, _)| *at < indent);
            open.push((indent, name.to_owned(), number));
        }
    }
    out
}

fn function_name(code: &str) -> Option<&str> {
    let mut rest = code;
    for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

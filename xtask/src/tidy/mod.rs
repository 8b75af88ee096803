//! `cargo xtask tidy`: what the compiler does not check. Layers between crates, calls that a crate may not make,
//! lengths of files and functions, differences from Kafka collected into a document, traces of one machine.
//!
//! Sources are read as text. That they are formatted by rustfmt is what makes it reliable.

mod differences;
mod forbidden;
mod layers;
mod lengths;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{conversations, stages};

/// A file of the repository, by its path from the root with `/` between.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
    }

    /// The crate's name, or "" for what belongs to none.
    pub fn krate(&self) -> &str {
        match self.path.strip_prefix("crates/") {
            Some(rest) => rest.split('/').next().unwrap_or_default(),
            None => self.path.split('/').next().filter(|first| *first == "xtask").unwrap_or_default(),
        }
    }

    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/benches/")
    }

    /// Numbered lines before the tests at the end of the file, if there are any; none of a file of tests.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = if self.is_test() { "" } else { self.text.as_str() };
        let mut before = "";
        let is_code = move |line: &str| {
            let starts_tests = before == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{');
            before = if line == "#[cfg(test)]" { "#[cfg(test)]" } else { "" };
            !starts_tests
        };
        let mut is_code = is_code;
        (1..).zip(lines.lines()).take_while(move |(_, line)| is_code(line))
    }
}

pub fn run(root: &Path, write: bool) -> Result<(), String> {
    let sources = sources(root)?;
    let mut faults = Vec::new();
    layers::check(root, &mut faults)?;
    forbidden::check(&sources, &mut faults);
    lengths::check(root, &sources, write, &mut faults)?;
    differences::check(root, &sources, write, &mut faults)?;
    let conversations = conversations::document::document(root)?;
    differences::renew(root, conversations::document::PATH, &conversations, write, &mut faults)?;
    traces::check(&sources, &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    faults.sort();
    Err(format!("{}\n{} faults", faults.join("\n"), faults.len()))
}

/// The text files that git knows or would take.
fn sources(root: &Path) -> Result<Vec<Source>, String> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut out = Vec::new();
    for path in stages::output(git)?.split('\0').filter(|path| !path.is_empty()) {
        let full: PathBuf = root.join(path);
        // What is deleted but not committed yet is listed too; what is not text is nothing for us.
        if let Ok(text) = fs::read_to_string(full) {
            out.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(out)
}

/// A line without its comment and without the contents of its string literals.
pub fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            // A quote as a character is not the start of a string.
            '\'' if !in_string && chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

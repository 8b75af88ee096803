//! `docs/conversations.md`: what the scripts ask, and where the answers differ on purpose.

use std::fmt::Write;
use std::path::Path;

use super::codec::Schema;
use super::script::{Request, Script, What};

pub const PATH: &str = "docs/conversations.md";
const HEAD: &str = "# Conversations with Apache Kafka and with Zwirn\n\n\
    `cargo xtask conversations` starts one node of Apache Kafka 4.3.1 and one of Zwirn, sends the same requests to \
    both, and compares the decoded answers field by field. The scripts are in `xtask/conversations`, with what may \
    differ between any two clusters in `rules.txt`. What differs on purpose stands beside its request and is listed \
    here; a difference that is not listed fails the run, and so does one that is listed and has gone. Collected by \
    `cargo xtask tidy --write`.\n";

/// A difference, and where it is.
#[derive(PartialEq)]
struct Line {
    title: String,
    what: String,
    why: String,
}

pub fn document(root: &Path) -> Result<String, String> {
    let schema = super::schema(root)?;
    let (scripts, _) = super::scripts(root)?;
    let mut out = HEAD.to_owned();
    out += "\n| script | requests | APIs |\n|---|---|---|\n";
    for script in &scripts {
        let (count, apis) = asked(script, &schema)?;
        let slow = if script.is_slow { " (not in CI)" } else { "" };
        let _ = writeln!(out, "| `{}`{slow} | {count} | {} |", script.name, apis.join(", "));
    }
    let differences: Vec<Line> = scripts.iter().flat_map(differences).collect();
    out += "\n## Answers that differ on purpose\n\n| asked | field | why |\n|---|---|---|\n";
    for line in &differences {
        let _ = writeln!(out, "| {} | {} | {} |", line.title, line.what, line.why);
    }
    out += "\n## What is not asked\n\n";
    for step in scripts.iter().flat_map(|script| &script.steps) {
        if let What::Unasked(what) = &step.what {
            let _ = writeln!(out, "- {what}");
        }
    }
    Ok(out)
}

/// How many requests the script sends, and of which APIs.
fn asked<'s>(script: &'s Script, schema: &Schema) -> Result<(usize, Vec<&'s str>), String> {
    let mut count = 0;
    let mut apis = Vec::new();
    for step in &script.steps {
        count += match &step.what {
            What::Request(request) => {
                apis.push(request.api.as_str());
                let times = request.each.as_ref().map_or(1, |(_, words)| words.len());
                times * schema.versions(&request.api, &request.versions)?.len()
            }
            What::Frame(_) | What::Bytes(_) => 1,
            _ => 0,
        };
    }
    apis.sort_unstable();
    apis.dedup();
    Ok((count, apis))
}

fn differences(script: &Script) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    let mut title = String::new();
    for step in &script.steps {
        match &step.what {
            What::Title(text) => title.clone_from(text),
            What::Request(request) => {
                for line in lines_of(request, &title) {
                    if !out.contains(&line) {
                        out.push(line);
                    }
                }
            }
            _ => {}
        }
    }
    out
}

fn lines_of(request: &Request, title: &str) -> Vec<Line> {
    let line = |rule: &super::script::Differs| Line {
        title: format!("{}: {title}", request.api),
        what: match (rule.path.as_str(), rule.is_lack) {
            ("*", _) => "the whole answer".to_owned(),
            (path, true) => format!("`{path}`, where Kafka has more"),
            (path, false) => format!("`{path}`"),
        },
        why: rule.why.clone(),
    };
    request.differs.iter().map(line).collect()
}

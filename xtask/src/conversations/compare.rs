//! Two nodes' answers to the same questions.

use std::collections::{BTreeMap, BTreeSet};

use super::Compared;
use super::answer::ELEMENTS;
use super::rules::{self, Rules};
use super::script::{Differs, Script, What};
use super::talk::Said;

/// Where the other one said something.
const MISSING: &str = "nothing";
/// Lines of one answer's differences that are shown.
const SHOWN_MAX: usize = 8;

pub fn script(script: &Script, theirs: &[Said], ours: &[Said], rules: &Rules, result: &mut Compared) {
    let mut seen = BTreeSet::new();
    // The same difference in several versions is told once.
    let mut told: Vec<(usize, Vec<String>, Vec<String>)> = Vec::new();
    for (theirs, ours) in theirs.iter().zip(ours) {
        result.counts.requests += 1;
        let differs = match &script.steps[theirs.step].what {
            What::Request(request) => request.differs.as_slice(),
            _ => &[],
        };
        let mut lines = Vec::new();
        for (path, a, b) in differences(theirs, ours, rules, &mut result.counts.fields) {
            match differs.iter().position(|rule| excuses(rule, &theirs.api, &path, &b)) {
                Some(rule) => {
                    seen.insert((theirs.step, rule));
                    result.counts.deliberate += 1;
                }
                None => lines.push(format!("    {path}: Kafka {a}, Zwirn {b}")),
            }
        }
        if lines.is_empty() {
            continue;
        }
        match told.iter_mut().find(|(step, same, _)| *step == theirs.step && *same == lines) {
            Some((.., requests)) => requests.push(theirs.version.clone()),
            None => told.push((theirs.step, lines, vec![theirs.api.clone(), theirs.version.clone()])),
        }
    }
    for (step, mut lines, request) in told {
        // What is near the root says most.
        lines.sort_by_key(|line| line.split(':').next().unwrap_or_default().matches('.').count());
        let more = lines.len().saturating_sub(SHOWN_MAX);
        lines.truncate(SHOWN_MAX);
        if more > 0 {
            lines.push(format!("    … and {more} more"));
        }
        let line = script.steps[step].line;
        result.faults.push(format!("{}.txt:{line}: {}\n{}", script.name, request.join(" "), lines.join("\n")));
    }
    for (number, step) in script.steps.iter().enumerate() {
        let What::Request(request) = &step.what else { continue };
        for (_, rule) in request.differs.iter().enumerate().filter(|(i, _)| !seen.contains(&(number, *i))) {
            result.faults.push(format!("{}.txt:{}: {} does not differ any more", script.name, step.line, rule.path));
        }
    }
}

fn excuses(rule: &Differs, api: &str, path: &str, ours: &str) -> bool {
    let plain = rules::plain(path);
    let (full, path) = (path, plain.as_str());
    let whole = format!("{api}.{}", rule.path);
    let is_there = rule.path == "*" || full == whole || path == rule.path || rules::matches(&whole, path);
    is_there && (!rule.is_lack || ours == MISSING || ours.ends_with(ELEMENTS))
}

fn differences(theirs: &Said, ours: &Said, rules: &Rules, fields: &mut usize) -> Vec<(String, String, String)> {
    let table = |said: &Said| said.lines.iter().cloned().collect::<BTreeMap<String, String>>();
    let (a, b) = (table(theirs), table(ours));
    let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    *fields += paths.len();
    let mut out = Vec::new();
    for path in paths {
        let missing = MISSING.to_owned();
        let (a, b) = (a.get(path).unwrap_or(&missing), b.get(path).unwrap_or(&missing));
        let plain = rules::plain(path);
        let both_worded = rules.is_worded(&plain) && a.starts_with('"') && b.starts_with('"');
        let is_more = rules.is_told(&plain) && a == "null" && b.starts_with('"');
        let both_ignored = rules.is_ignored(&plain) && a != "null" && b != "null" && *a != missing && *b != missing;
        if a != b && !both_ignored && !is_more && (!both_worded || std::env::var_os("CONVERSATIONS_WORDS").is_some()) {
            out.push((path.clone(), a.clone(), b.clone()));
        }
    }
    out
}

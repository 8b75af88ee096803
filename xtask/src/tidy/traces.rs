//! Nothing here may depend on, or tell of, the machine on which it was written.

use super::Source;

/// Directories that exist on some machine only, and what is none of that machine's: Kafka's own default.
const NOT_A_TRACE: [&str; 2] = ["/tmp/kafka-logs", "/tmp/kraft-combined-logs"];

pub fn check(sources: &[Source], faults: &mut Vec<String>) {
    // Put together here, or this file would have to be left out.
    let traces: Vec<String> = ["tmp", "work", "root", "home"].iter().map(|dir| format!("/{dir}/")).collect();
    for source in sources {
        // What was recorded from Apache Kafka is kept as it is.
        let is_recorded = source.path.contains("/golden/");
        let is_ours = source.is_rust() || source.path.ends_with(".md") || source.path.ends_with(".toml");
        if is_recorded || !is_ours {
            continue;
        }
        for (number, line) in (1..).zip(source.text.lines()) {
            let line = NOT_A_TRACE.iter().fold(line.to_owned(), |line, path| line.replace(path, ""));
            let is_start = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c));
            let hit = traces.iter().find(|trace| line.match_indices(trace.as_str()).any(|(at, _)| is_start(at)));
            if let Some(trace) = hit {
                faults.push(format!("{}:{number}: a path of one machine ({trace})", source.path));
            }
        }
    }
}

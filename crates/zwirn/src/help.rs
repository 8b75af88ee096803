//! What the binary says about itself.

use std::fmt::Write;

/// Commands that Kafka does not have, or has under another name.
const OWN: &[(&str, &str)] =
    &[("server", "run a node: zwirn server server.properties [--override key=value]"), ("help", "this text")];

pub fn overview() -> String {
    let mut out = String::from(
        "zwirn: an Apache Kafka broker and controller, and Kafka's tools, in one program.\n\
         \n\
         Usage: zwirn <command> [arguments]      zwirn <command> --help explains a command\n\
         \n",
    );
    for (name, about) in OWN {
        let _ = writeln!(out, "  {name:<22}{about}");
    }
    out.push_str("\nKafka's tools (same flags and results as Apache Kafka's; kafka-<name> works as well):\n");
    for tool in tools::TOOLS {
        let _ = writeln!(out, "  {:<22}{}", tool.name, tool.about);
    }
    out
}

/// For a command that does not exist: names the nearest one that does.
pub fn unknown(command: &str) -> String {
    let names = OWN.iter().map(|(name, _)| *name).chain(tools::TOOLS.iter().map(|tool| tool.name));
    let nearest = names.map(|name| (distance(command, name), name)).min();
    let mut out = format!("zwirn: there is no command '{command}'");
    if let Some((1..=2, name)) = nearest {
        let _ = write!(out, "; did you mean '{name}'?");
    }
    out.push_str("\nzwirn help lists all commands.\n");
    out
}

/// How many letters to insert, delete or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_nearest_command() {
        assert!(super::unknown("topic").contains("did you mean 'topics'"));
        assert!(!super::unknown("xyzzy").contains("did you mean"));
    }
}

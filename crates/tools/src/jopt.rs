//! The command line as jopt-simple reads it, which most of Kafka's tools use: `--name value` and `--name=value`, no
//! abbreviations, names of several letters also behind one dash, options that may repeat.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::terminal::Terminal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    None,
    Required,
    Optional,
}

/// One option: its name without dashes, whether it takes an argument, and what `--help` says about it.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    pub name: &'static str,
    pub arg: Arg,
    pub help: &'static str,
}

pub const fn flag(name: &'static str, help: &'static str) -> Opt {
    Opt { name, arg: Arg::None, help }
}

pub const fn value(name: &'static str, help: &'static str) -> Opt {
    Opt { name, arg: Arg::Required, help }
}

pub const fn optional(name: &'static str, help: &'static str) -> Opt {
    Opt { name, arg: Arg::Optional, help }
}

/// What a tool is, for its help text.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub about: &'static str,
    pub examples: &'static [&'static str],
    pub options: &'static [Opt],
}

/// Why the tool ends before it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A message, then the help text, then exit 1.
    Usage(String),
    /// A message and exit 1, no help text.
    Message(String),
    /// Everything is said already.
    Exit(u8),
}

impl Stop {
    /// Prints what is to be said and returns the exit code.
    pub fn report(self, usage: &Usage, terminal: &mut Terminal<'_>) -> u8 {
        match self {
            Stop::Usage(message) => {
                terminal.error(message);
                let _ = terminal.err.write_all(usage.text().as_bytes());
                1
            }
            Stop::Message(message) => {
                terminal.error(message);
                1
            }
            Stop::Exit(code) => code,
        }
    }
}

/// Kafka's version whose behaviour the tools have; `--version` prints it.
pub const KAFKA_VERSION: &str = "4.3.1";

#[derive(Clone, Debug, Default)]
pub struct Parsed {
    found: BTreeMap<&'static str, Vec<String>>,
}

impl Usage {
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.about);
        if !self.examples.is_empty() {
            out.push_str("\nExamples:\n");
            for example in self.examples {
                out.push_str(&format!("  {example}\n"));
            }
        }
        out.push_str("\nOptions:\n");
        for opt in self.options.iter().chain(COMMON) {
            let shown = match opt.arg {
                Arg::None => format!("--{}", opt.name),
                Arg::Required => format!("--{} <value>", opt.name),
                Arg::Optional => format!("--{} [value]", opt.name),
            };
            if shown.len() < 34 {
                out.push_str(&format!("  {shown:<34}{}\n", opt.help));
            } else {
                out.push_str(&format!("  {shown}\n  {:<34}{}\n", "", opt.help));
            }
        }
        out
    }

    fn find(&self, name: &str) -> Option<&'static Opt> {
        self.options.iter().chain(COMMON).find(|opt| opt.name == name)
    }

    /// Parses, and answers `--help`, `--version` and an empty command line.
    pub fn parse(&self, args: &[String], terminal: &mut Terminal<'_>) -> Result<Parsed, Stop> {
        if args.is_empty() {
            let _ = terminal.err.write_all(self.text().as_bytes());
            return Err(Stop::Exit(1));
        }
        let parsed = self.parse_options(args).map_err(Stop::Message)?;
        if parsed.has("help") {
            let _ = terminal.err.write_all(self.text().as_bytes());
            return Err(Stop::Exit(1));
        }
        if parsed.has("version") {
            terminal.line(KAFKA_VERSION);
            return Err(Stop::Exit(0));
        }
        Ok(parsed)
    }

    /// The same, for tools that print their help behind a mistake in the options.
    pub fn parse_with_help(&self, args: &[String], terminal: &mut Terminal<'_>) -> Result<Parsed, Stop> {
        self.parse(args, terminal).map_err(|stop| match stop {
            Stop::Message(message) => Stop::Usage(message),
            other => other,
        })
    }

    fn parse_options(&self, args: &[String]) -> Result<Parsed, String> {
        let mut parsed = Parsed::default();
        let mut args = args.iter().peekable();
        while let Some(token) = args.next() {
            if token == "--" {
                break;
            }
            if !looks_like_option(token) {
                continue; // what is no option is ignored, as jopt's users ignore it
            }
            let body = token.trim_start_matches('-');
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(opt) = self.find(name) else {
                return Err(format!("{name} is not a recognized option"));
            };
            let found = parsed.found.entry(opt.name).or_default();
            match (opt.arg, attached) {
                (Arg::None, _) => {}
                (_, Some(value)) => found.push(value),
                (Arg::Required, None) => match args.next() {
                    Some(value) => found.push(value.clone()),
                    None => return Err(format!("Option {name} requires an argument")),
                },
                (Arg::Optional, None) => {
                    if let Some(value) = args.next_if(|next| !looks_like_option(next)) {
                        found.push(value.clone());
                    }
                }
            }
        }
        Ok(parsed)
    }
}

const COMMON: &[Opt] = &[
    flag("help", "Show this text."),
    flag("version", "Show the version of Apache Kafka whose tool this one stands for."),
];

/// A lone dash is a value, a negative number is one only behind an option that takes it.
fn looks_like_option(token: &str) -> bool {
    token.len() > 1 && token.starts_with('-')
}

impl Parsed {
    pub fn has(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    /// Every value of a repeatable option, in the order given.
    pub fn all(&self, name: &str) -> &[String] {
        self.found.get(name).map_or(&[], Vec::as_slice)
    }

    /// The one value of an option.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Stop> {
        match self.all(name) {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(Stop::Message(format!("Found multiple arguments for option {name}, but you asked for only one"))),
        }
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Stop> {
        self.get(name)?
            .map(|text| {
                text.parse().map_err(|_| Stop::Message(format!("Cannot parse argument '{text}' of option {name}")))
            })
            .transpose()
    }

    pub fn require(&self, names: &[&str]) -> Result<(), Stop> {
        match names.iter().find(|name| !self.has(name)) {
            Some(name) => Err(Stop::Usage(format!("Missing required argument \"[{name}]\""))),
            None => Ok(()),
        }
    }

    /// `used` goes with none of `others`.
    pub fn exclude(&self, used: &str, others: &[&str]) -> Result<(), Stop> {
        match others.iter().find(|other| self.has(used) && self.has(other)) {
            Some(other) => Err(Stop::Usage(format!("Option \"[{used}]\" can't be used with option \"[{other}]\""))),
            None => Ok(()),
        }
    }
}

/// `k=v` pairs; without `=` the value is empty, as Kafka's tools have it.
pub fn key_values(args: &[String]) -> Vec<(String, String)> {
    let pairs = args.iter().map(|arg| arg.split_once('=').unwrap_or((arg, "")));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage {
        about: "A tool.",
        examples: &[],
        options: &[value("topic", ""), flag("list", ""), optional("codec", ""), value("config", "")],
    };

    fn parse(args: &[&str]) -> Result<Parsed, String> {
        USAGE.parse_options(&args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn both_ways_to_give_a_value() {
        let parsed = parse(&["--topic=a=b", "--list", "--config", "x=1", "-config", "y=2", "stray"]).unwrap();
        assert_eq!(parsed.get("topic").unwrap(), Some("a=b"));
        assert_eq!(parsed.all("config"), ["x=1", "y=2"]);
        assert!(parsed.has("list") && parsed.get("config").is_err());
    }

    #[test]
    fn an_optional_value_is_no_option() {
        assert_eq!(parse(&["--codec", "--list"]).unwrap().all("codec"), [] as [&str; 0]);
        assert!(parse(&["--codec", "--list"]).unwrap().has("codec"));
        assert_eq!(parse(&["--codec", "zstd"]).unwrap().all("codec"), ["zstd"]);
    }

    #[test]
    fn a_required_value_may_begin_with_a_dash() {
        assert_eq!(parse(&["--topic", "-1"]).unwrap().all("topic"), ["-1"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse(&["--foo"]).unwrap_err(), "foo is not a recognized option");
        assert_eq!(parse(&["--topic"]).unwrap_err(), "Option topic requires an argument");
        let none = Parsed::default();
        assert_eq!(none.require(&["topic"]), Err(Stop::Usage("Missing required argument \"[topic]\"".into())));
        let both = parse(&["--list", "--topic", "x"]).unwrap();
        let message = "Option \"[topic]\" can't be used with option \"[list]\"";
        assert_eq!(both.exclude("topic", &["list"]), Err(Stop::Usage(message.into())));
    }
}

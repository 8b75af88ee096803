//! The command line as argparse4j reads it, which some of Kafka's tools use: sub-commands with options of their own,
//! each with a long and perhaps a short name; `--name value`, `--name=value`, `-n value`, `-n=value`, `-nvalue`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::jopt::KAFKA_VERSION;
use crate::terminal::Terminal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Flag,
    Value,
    Append,
    /// One or more values behind one name.
    Many,
}

#[derive(Clone, Copy, Debug)]
pub struct Option_ {
    pub long: &'static str,
    pub short: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub help: &'static str,
}

pub const fn value(long: &'static str, short: &'static str, help: &'static str) -> Option_ {
    Option_ { long, short, kind: Kind::Value, required: false, help }
}

pub const fn required(long: &'static str, short: &'static str, help: &'static str) -> Option_ {
    Option_ { long, short, kind: Kind::Value, required: true, help }
}

pub const fn append(long: &'static str, short: &'static str, help: &'static str) -> Option_ {
    Option_ { long, short, kind: Kind::Append, required: false, help }
}

pub const fn many(long: &'static str, short: &'static str, help: &'static str) -> Option_ {
    Option_ { long, short, kind: Kind::Many, required: false, help }
}

pub const fn flag(long: &'static str, short: &'static str, help: &'static str) -> Option_ {
    Option_ { long, short, kind: Kind::Flag, required: false, help }
}

pub struct Command {
    pub name: &'static str,
    pub about: &'static str,
    pub options: &'static [Option_],
    /// Groups of options of which one at most may be given.
    pub exclusive: &'static [&'static [&'static str]],
}

pub struct Program {
    pub name: &'static str,
    pub about: &'static str,
    pub examples: &'static [&'static str],
    /// Before, or behind, the sub-command.
    pub options: &'static [Option_],
    /// Empty: the program has no sub-commands.
    pub commands: &'static [Command],
}

#[derive(Debug, Default)]
pub struct Parsed {
    pub command: &'static str,
    found: BTreeMap<&'static str, Vec<String>>,
}

impl Parsed {
    pub fn has(&self, long: &str) -> bool {
        self.found.contains_key(long)
    }

    /// The last one given counts.
    pub fn get(&self, long: &str) -> Option<&str> {
        self.found.get(long).and_then(|all| all.last()).map(String::as_str)
    }

    pub fn all(&self, long: &str) -> &[String] {
        self.found.get(long).map_or(&[], Vec::as_slice)
    }

    pub fn number<T: FromStr>(&self, long: &str) -> Result<Option<T>, String> {
        self.get(long)
            .map(|text| text.parse().map_err(|_| format!("argument --{long}: could not convert '{text}' to a number")))
            .transpose()
    }
}

impl Program {
    /// `Err` holds the exit code; what was to be said has been said.
    pub fn parse(&self, args: &[String], terminal: &mut Terminal<'_>) -> Result<Parsed, u8> {
        self.parse_or(args, terminal, |message, terminal| self.refuse(args, message, terminal))
    }

    /// The same, for tools with words of their own about a mistake.
    pub fn parse_or(
        &self,
        args: &[String],
        terminal: &mut Terminal<'_>,
        refuse: impl Fn(&str, &mut Terminal<'_>) -> u8,
    ) -> Result<Parsed, u8> {
        let wants_help = |arg: &String| arg == "--help" || arg == "-h";
        if args.iter().any(wants_help) {
            let _ = terminal.out.write_all(self.help(args).as_bytes());
            return Err(0);
        }
        if args.first().is_some_and(|arg| arg == "--version") {
            terminal.line(KAFKA_VERSION);
            return Err(0);
        }
        self.read(args).map_err(|message| refuse(&message, terminal))
    }

    /// Usage and a message on stderr, exit 1.
    pub fn refuse(&self, args: &[String], message: &str, terminal: &mut Terminal<'_>) -> u8 {
        let _ = terminal.err.write_all(self.help(args).as_bytes());
        terminal.error(format_args!("{}: error: {message}", self.name));
        1
    }

    fn read(&self, args: &[String]) -> Result<Parsed, String> {
        let mut parsed = Parsed::default();
        let mut command: Option<&'static Command> = None;
        let mut args = args.iter().map(String::as_str).peekable();
        while let Some(arg) = args.next() {
            if !arg.starts_with('-') || arg == "-" {
                if command.is_some() || self.commands.is_empty() {
                    return Err(format!("unrecognized arguments: '{arg}'"));
                }
                command = Some(self.command(arg)?);
                continue;
            }
            let (option, attached) = self.option(arg, command)?;
            let values = parsed.found.entry(option.long).or_default();
            match (option.kind, attached) {
                (Kind::Flag, None) => {}
                (Kind::Flag, Some(_)) => return Err(format!("argument --{}: takes no value", option.long)),
                (_, Some(value)) => values.push(value.to_owned()),
                (_, None) => match args.next() {
                    Some(value) if is_value(value) => values.push(value.to_owned()),
                    _ => return Err(format!("argument --{}: expected one argument", option.long)),
                },
            }
            while option.kind == Kind::Many
                && let Some(value) = args.next_if(|next| is_value(next))
            {
                values.push(value.to_owned());
            }
        }
        match command {
            Some(command) => parsed.command = command.name,
            None if self.commands.is_empty() => {}
            None => return Err("too few arguments".to_owned()),
        }
        self.check(&parsed, command)?;
        Ok(parsed)
    }

    fn command(&self, name: &str) -> Result<&'static Command, String> {
        self.commands.iter().find(|command| command.name == name).ok_or_else(|| {
            let names: Vec<String> = self.commands.iter().map(|command| format!("'{}'", command.name)).collect();
            format!("invalid choice: '{name}' (choose from {})", names.join(", "))
        })
    }

    /// The option and the value that is written together with its name.
    fn option<'a>(
        &self,
        arg: &'a str,
        command: Option<&'static Command>,
    ) -> Result<(&'static Option_, Option<&'a str>), String> {
        let known = || self.options.iter().chain(command.map_or(&[] as &[Option_], |command| command.options));
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg, None),
        };
        let exact = known().find(|option| {
            name.strip_prefix("--") == Some(option.long) || (!option.short.is_empty() && name == option.short)
        });
        if let Some(option) = exact {
            return Ok((option, attached));
        }
        let glued = known().find(|option| {
            option.short.len() == 2
                && option.kind != Kind::Flag
                && !arg.starts_with("--")
                && arg.starts_with(option.short)
        });
        match glued {
            Some(option) => Ok((option, arg.get(2..))),
            None => Err(format!("unrecognized arguments: '{arg}'")),
        }
    }

    fn check(&self, parsed: &Parsed, command: Option<&'static Command>) -> Result<(), String> {
        let options = || self.options.iter().chain(command.map_or(&[] as &[Option_], |command| command.options));
        if let Some(missing) = options().find(|option| option.required && !parsed.has(option.long)) {
            let short = if missing.short.is_empty() { String::new() } else { format!("/{}", missing.short) };
            return Err(format!("argument --{}{short} is required", missing.long));
        }
        for group in command.map_or(&[] as &[&[&str]], |command| command.exclusive) {
            let given: Vec<&&str> = group.iter().filter(|name| parsed.has(name)).collect();
            if let [first, second, ..] = given.as_slice() {
                return Err(format!("argument --{second}: not allowed with argument --{first}"));
            }
        }
        Ok(())
    }

    fn help(&self, args: &[String]) -> String {
        let command = self.commands.iter().find(|command| args.iter().any(|arg| arg == command.name));
        let mut out = match command {
            Some(command) => format!("{} {}: {}\n", self.name, command.name, command.about),
            None => format!("{}: {}\n", self.name, self.about),
        };
        if command.is_none() && !self.examples.is_empty() {
            out.push_str("\nExamples:\n");
            for example in self.examples {
                out.push_str(&format!("  {example}\n"));
            }
        }
        if command.is_none() && !self.commands.is_empty() {
            out.push_str("\nCommands:\n");
            for command in self.commands {
                out.push_str(&format!("  {:<24}{}\n", command.name, command.about));
            }
        }
        let options: Vec<&Option_> =
            self.options.iter().chain(command.map_or(&[] as &[Option_], |command| command.options)).collect();
        if !options.is_empty() {
            out.push_str("\nOptions:\n");
        }
        for option in options {
            let short = if option.short.is_empty() { String::new() } else { format!("{}, ", option.short) };
            let value = if option.kind == Kind::Flag { "" } else { " <value>" };
            let shown = format!("{short}--{}{value}", option.long);
            out.push_str(&format!("  {shown:<34}{}\n", option.help));
        }
        out
    }
}

/// A lone dash and negative numbers are values.
fn is_value(arg: &str) -> bool {
    !arg.starts_with('-') || arg.len() == 1 || arg.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "p",
        about: "",
        examples: &[],
        options: &[value("server", "-s", "")],
        commands: &[Command {
            name: "format",
            about: "",
            options: &[required("id", "-t", ""), append("feature", "-f", ""), flag("a", "", ""), flag("b", "", "")],
            exclusive: &[&["a", "b"]],
        }],
    };

    fn parse(args: &[&str]) -> Result<Parsed, String> {
        PROGRAM.read(&args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_way_to_give_a_value() {
        for args in [["format", "--id=-x"], ["format", "-t=-x"], ["format", "-t-x"]] {
            assert_eq!(parse(&args).unwrap().get("id"), Some("-x"));
        }
        let parsed = parse(&["--server", "h", "format", "-t", "x", "-f", "a=1", "--feature", "b=2"]).unwrap();
        assert_eq!((parsed.get("server"), parsed.command), (Some("h"), "format"));
        assert_eq!(parsed.all("feature"), ["a=1", "b=2"]);
    }

    #[test]
    fn mistakes() {
        assert_eq!(parse(&["format"]).unwrap_err(), "argument --id/-t is required");
        assert_eq!(parse(&[]).unwrap_err(), "too few arguments");
        assert!(parse(&["format", "-t", "-x"]).unwrap_err().contains("expected one argument"));
        assert!(parse(&["format", "-t", "x", "--a", "--b"]).unwrap_err().contains("not allowed with"));
        assert!(parse(&["nope"]).unwrap_err().contains("invalid choice"));
    }
}

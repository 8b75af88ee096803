//! `zwirn dev`: a cluster in the foreground for developing against, and its control from a second terminal.

mod control;
mod place;
mod status;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;

use place::Place;

const HELP: &str = "\
zwirn dev [--brokers 3] [--port 9092] [--dir .zwirn | --ephemeral]

Runs a cluster in the foreground until Ctrl-C. Clients connect to ports 9092, 9192, 9292, …; the data stays in
./.zwirn for the next time. From a second terminal, in the same directory:

  zwirn dev status       the nodes, and whether all partitions are in sync
  zwirn dev kill N       kill -9: see what a crash of node N does
  zwirn dev pause N      freeze node N: it is alive, but answers nobody
  zwirn dev resume N     let it go on
  zwirn dev restart N    stop node N if it runs, and start it
  zwirn dev stop         stop the cluster
  zwirn dev purge        stop the cluster and remove its data

  --brokers N     how many nodes, 1 to 9 (3)
  --port P        port of the first node; the next ones follow at 100 each, controllers at 1 above (9092)
  --dir DIR       where the data is (./.zwirn)
  --ephemeral     data in a temporary directory, removed at the end
";

const BROKERS_MAX: i32 = 9;
pub const PORT_STEP: u16 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Run,
    Status,
    Kill(i32),
    Pause(i32),
    Resume(i32),
    Restart(i32),
    Stop,
    Purge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    action: Action,
    /// `None`: three, or as many as the directory's cluster has.
    brokers: Option<i32>,
    port: u16,
    dir: Option<PathBuf>,
    ephemeral: bool,
}

pub fn run(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let args = match parse(args) {
        Ok(args) => args,
        Err(message) => {
            eprint!("zwirn dev: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let place = Place::of(args.dir.clone(), args.ephemeral);
    let result = match args.action {
        Action::Run => supervisor::run(&args, place),
        Action::Status => status::show(&place.existing()),
        Action::Kill(id) => control::ask(&place.existing(), &format!("kill {id}")),
        Action::Pause(id) => control::ask(&place.existing(), &format!("pause {id}")),
        Action::Resume(id) => control::ask(&place.existing(), &format!("resume {id}")),
        Action::Restart(id) => control::ask(&place.existing(), &format!("restart {id}")),
        Action::Stop => control::ask(&place.existing(), "stop"),
        Action::Purge => place.existing().purge(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("zwirn dev: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Args, String> {
    let mut out = Args { action: Action::Run, brokers: None, port: 9092, dir: None, ephemeral: false };
    let mut words = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || attached.clone().or_else(|| args.next().cloned()).ok_or(format!("{name} needs a value"));
        match name {
            "--brokers" => {
                let text = value()?;
                let count = text.parse().ok().filter(|count| (1..=BROKERS_MAX).contains(count));
                out.brokers = Some(count.ok_or(format!("--brokers {text}: give a number from 1 to {BROKERS_MAX}"))?);
            }
            "--port" => {
                let text = value()?;
                let highest = u16::MAX - PORT_STEP * BROKERS_MAX as u16;
                let port = text.parse().ok().filter(|port| (1..=highest).contains(port));
                out.port = port.ok_or(format!("--port {text}: give a number from 1 to {highest}"))?;
            }
            "--dir" => out.dir = Some(PathBuf::from(value()?)),
            "--ephemeral" => out.ephemeral = true,
            _ if name.starts_with('-') => return Err(format!("unknown option {name}")),
            _ => words.push(arg.as_str()),
        }
    }
    let id = |text: &str| text.parse::<i32>().map_err(|_| format!("{text} is no node's number"));
    out.action = match words.as_slice() {
        [] => Action::Run,
        ["status"] => Action::Status,
        ["kill", n] => Action::Kill(id(n)?),
        ["pause", n] => Action::Pause(id(n)?),
        ["resume", n] => Action::Resume(id(n)?),
        ["restart", n] => Action::Restart(id(n)?),
        ["stop"] => Action::Stop,
        ["purge"] => Action::Purge,
        [verb @ ("kill" | "pause" | "resume" | "restart")] => return Err(format!("{verb} needs a node's number")),
        other => return Err(format!("unknown command {}", other.join(" "))),
    };
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Args, String> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line() {
        assert_eq!(parsed("").unwrap().action, Action::Run);
        assert_eq!(parsed("kill 2").unwrap().action, Action::Kill(2));
        assert_eq!(parsed("--brokers=5 --port 1000").unwrap().brokers, Some(5));
        assert!(parsed("kill").is_err() && parsed("kill x").is_err() && parsed("--brokers 0").is_err());
        assert!(parsed("--port 65500").is_err() && parsed("--foo").is_err() && parsed("kil 2").is_err());
    }
}

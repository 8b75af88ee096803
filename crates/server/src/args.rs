//! The command line of `zwirn server`.

use std::net::SocketAddr;

use crate::logging::LogFormat;

pub const USAGE: &str = "\
Runs a broker, a controller or both, as the configuration file says.

Usage: zwirn server FILE [--override KEY=VALUE]...
         [--http-listen HOST:PORT] [--log-format text|json] [--log-level LEVEL] [--check]

  FILE                    server.properties, as Apache Kafka 4.3 reads it
  --override KEY=VALUE    sets one key over the file; may be given more than once
  --http-listen ADDRESS   serves /healthz, /readyz and /metrics, for example on 127.0.0.1:9404
  --log-format FORMAT     text (default) or json
  --log-level LEVEL       error, warn, info (default), debug or trace; also by ZWIRN_LOG
  --check                 checks the configuration and exits
  --version               prints the version and exits";

#[derive(Debug)]
pub struct Args {
    pub file: String,
    pub overrides: Vec<(String, String)>,
    pub http_listen: Option<SocketAddr>,
    pub log_format: LogFormat,
    pub log_level: Option<String>,
    pub check: bool,
}

pub enum Command {
    Run(Args),
    /// Print this and stop.
    Print(String),
}

pub fn parse(args: &[String]) -> Result<Command, String> {
    let mut file = None;
    let mut parsed = Args {
        file: String::new(),
        overrides: Vec::new(),
        http_listen: None,
        log_format: LogFormat::Text,
        log_level: None,
        check: false,
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || {
            inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| format!("{name} needs a value; see --help"))
        };
        match name {
            "--help" | "-h" => return Ok(Command::Print(USAGE.to_owned())),
            "--version" => return Ok(Command::Print(env!("CARGO_PKG_VERSION").to_owned())),
            // kafka-server-start.sh goes to the background itself; a supervisor does that better.
            "-daemon" | "--daemon" => {}
            "--check" => parsed.check = true,
            "--override" => {
                let value = value()?;
                let (key, value) =
                    value.split_once('=').ok_or_else(|| format!("--override {value} is not KEY=VALUE"))?;
                parsed.overrides.push((key.trim().to_owned(), value.to_owned()));
            }
            "--http-listen" => {
                let value = value()?;
                let address =
                    value.strip_prefix("localhost:").map_or(value.clone(), |port| format!("127.0.0.1:{port}"));
                let address = address.parse().map_err(|_| {
                    format!("--http-listen {value} is not an IP address and a port, for example 127.0.0.1:9404")
                })?;
                parsed.http_listen = Some(address);
            }
            "--log-format" => {
                parsed.log_format = match value()?.as_str() {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    other => return Err(format!("--log-format {other} is neither text nor json")),
                }
            }
            "--log-level" => parsed.log_level = Some(value()?),
            _ if name.starts_with('-') => return Err(format!("{arg} is not an option of zwirn server; see --help")),
            _ if file.is_none() => file = Some(arg.clone()),
            _ => return Err(format!("{arg}: only one configuration file can be given; see --help")),
        }
    }
    parsed.file = file.ok_or_else(|| format!("a configuration file is missing\n\n{USAGE}"))?;
    Ok(Command::Run(parsed))
}

//! The server: one `broker::Node` with real sockets, disks, clocks and signals.
//!
//! Start at [`run`], then `reactor`, the loop.

mod args;
mod channel;
mod clock;
mod creations;
mod dial;
mod frame;
mod http;
mod logging;
mod metrics;
mod output;
mod reactor;
mod sendfile;
mod sockets;
mod workers;

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use broker::Node;
use metadata::config::{NodeConfig, Outside};
use storage::real::RealDisk;

use crate::args::{Args, Command};
use crate::http::Http;
use crate::reactor::Reactor;

/// `zwirn server`: runs until it is told to stop. `args` are those after the word `server`.
pub fn run(args: &[String]) -> ExitCode {
    let args = match args::parse(args) {
        Ok(Command::Run(args)) => args,
        Ok(Command::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => return fail(&message),
    };
    match start(&args) {
        Ok(Some(reactor)) => reactor.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("zwirn server: {message}");
    ExitCode::FAILURE
}

/// `None` after a mere check.
fn start(args: &Args) -> Result<Option<Reactor>, String> {
    let text = std::fs::read_to_string(&args.file).map_err(|error| format!("{}: {error}", args.file))?;
    let outside = Outside { env: &|name| std::env::var(name).ok(), file: &|path| std::fs::read_to_string(path) };
    let (mut config, warnings) = NodeConfig::from_text_and(&text, &args.file, &args.overrides, Some(&outside))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))?;
    if args.check {
        for warning in &warnings {
            println!("warning: {warning}");
        }
        println!("{}: valid for node {}", args.file, config.node_id);
        return Ok(None);
    }
    logging::init(args.log_format, args.log_level.as_deref())?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let files_max = sockets::raise_file_limit();
    if files_max < 10_000 {
        tracing::warn!(files_max, "few files can be open at once; raise the limit (ulimit -n) for production");
    }
    config.set_host_name(&sockets::host_name());
    let listeners = sockets::bind_listeners(&mut config)?;
    let http = args.http_listen.map(Http::open).transpose()?;
    for listener in &config.listeners {
        let host = listener.host.as_deref().unwrap_or("");
        tracing::info!("listening on {}://{host}:{}", listener.name, listener.port);
    }
    if let Some(address) = http.as_ref().and_then(Http::local_addr) {
        tracing::info!("health and metrics on http://{address}");
    }
    let config = Arc::new(config);
    let now = clock::now();
    let node = Node::start(config.clone(), Arc::new(RealDisk), seed(), now).map_err(|error| error.to_string())?;
    let reactor = Reactor::new(node, config, listeners, http, now).map_err(|error| format!("cannot start: {error}"))?;
    Ok(Some(reactor))
}

/// Nodes must not draw the same numbers: election timeouts would collide.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => clock::now().wall_ms as u64 ^ u64::from(std::process::id()).rotate_left(32),
    }
}

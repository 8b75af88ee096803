//! The one binary: the broker, Kafka's tools, the demo and the development cluster.
//!
//! The first argument says what to be. Called through a link with the name of one of Kafka's scripts
//! (`kafka-topics.sh`, `kafka-server-start`) the binary is that script.

mod demo;
mod dev;
mod help;
mod local;

use std::process::ExitCode;

use tools::terminal::Terminal;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let called = args.next().unwrap_or_default();
    let called = called.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<String> = args.collect();
    if called.starts_with("kafka-")
        && let Some(code) = dispatch(&called, &args)
    {
        return code;
    }
    let Some((command, rest)) = args.split_first() else {
        print!("{}", help::overview());
        return ExitCode::from(1);
    };
    match dispatch(command, rest) {
        Some(code) => code,
        None => {
            eprint!("{}", help::unknown(command));
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: &str, args: &[String]) -> Option<ExitCode> {
    match command {
        "help" | "--help" | "-h" => {
            print!("{}", help::overview());
            return Some(ExitCode::SUCCESS);
        }
        "--version" | "-V" | "version" => {
            println!("zwirn {} (Apache Kafka {} protocol)", env!("CARGO_PKG_VERSION"), tools::KAFKA_VERSION);
            return Some(ExitCode::SUCCESS);
        }
        "server" | "kafka-server-start" | "kafka-server-start.sh" => {
            local::follow_parent();
            return Some(server::run(args));
        }
        "demo" => return Some(demo::run(args)),
        "dev" => return Some(dev::run(args)),
        _ => {}
    }
    let tool = tools::find(command)?;
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let code = (tool.main)(args, &mut Terminal { out: &mut out, err: &mut err });
    Some(ExitCode::from(code))
}

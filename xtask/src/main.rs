//! Everything that is run on this repository: `cargo xtask <command>`.

mod bench;
mod ci;
mod clients;
mod cluster;
mod codegen;
mod compaction;
mod conversations;
mod deny;
mod dump_log;
mod fuzz;
mod jars;
mod oracle;
mod stages;
mod stories;
mod tidy;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>
  test [--only STAGE]...  everything CI runs; with --only just these stages
  tidy [--write]          layers, forbidden calls, lengths, differences; --write renews what is generated from the code
  codegen [--check]       the messages of crates/protocol from their schema
  jars                    Apache Kafka's jars into target/kafka, for tests and comparisons
  oracle [--values N] [--seed S] [--only MESSAGE]
                          Kafka's own classes and our codec have to make the same of the same bytes
  compaction [--rounds N] [--seed N]
                          the same logs compacted by Kafka's cleaner and by ours
  conversations [NAME]... the same requests to Apache Kafka and to Zwirn, and the answers compared
  dump-log [DIR]          dump-log of Apache Kafka and of Zwirn on the recorded files, or those below DIR
  clients [--against zwirn|kafka] [--short] [NAME]...
                          real clients of many languages, while a broker is killed and comes back
  tools [--broker HOST:PORT] [NAME]...
                          the command-line tools of Apache Kafka and of Zwirn, and what they say compared
  deny                    licences and advisories, by cargo-deny
  fuzz [TARGET]... [--seconds N]
                          libFuzzer on what comes from sockets and disks; needs cargo-fuzz and a nightly toolchain
  swap [--steps N] [--seed N]
                          nodes of Apache Kafka and of Zwirn take each other's places, at random, under a producer
  bench produce [--seconds N] [--pairs N] [--only kafka|zwirn]
                          produce with RF=3 and acks=all: Apache Kafka against Zwirn";

fn main() -> ExitCode {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["test", ref rest @ ..] => ci::run(&root, rest),
        ["tidy"] => tidy::run(&root, false),
        ["tidy", "--write"] => tidy::run(&root, true),
        ["codegen"] => codegen::run(&root, false),
        ["codegen", "--check"] => codegen::run(&root, true),
        ["jars"] => jars::run(&root),
        ["oracle", ref rest @ ..] => oracle::run(&root, rest),
        ["compaction", ref rest @ ..] => compaction::run(&root, rest),
        ["conversations", ref names @ ..] => conversations::run(&root, names),
        ["dump-log", ref rest @ ..] => dump_log::run(&root, rest),
        ["clients", ref rest @ ..] => clients::run(&root, rest),
        ["tools", ref rest @ ..] => tools::run(&root, rest),
        ["deny"] => deny::run(&root),
        ["fuzz", ref rest @ ..] => fuzz::run(&root, rest),
        ["swap", ref rest @ ..] => stories::swap(&root, rest),
        ["bench", "produce", ref rest @ ..] => bench::run(&root, rest),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

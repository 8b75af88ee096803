//! `kafka-console-producer`: each line of the standard input becomes a record.

mod lines;
mod options;

pub use options::producer_config;

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::producer::{Producer, Record};
use crate::client::{ClientError, Settings};
use crate::terminal::{Terminal, wall_ms};
use lines::LineReader;
use options::{Options, USAGE};

/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 1024;
/// How late a signal may be noticed while there is nothing to do.
const IDLE_WAIT: Duration = Duration::from_millis(100);

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let options = USAGE.parse_with_help(args, terminal).and_then(|parsed| Options::of(&parsed, terminal));
    let options = match options {
        Ok(options) => options,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(options, terminal) {
        Ok(()) => 0,
        Err(exception) => {
            terminal.error(exception);
            1
        }
    }
}

fn run(options: Options, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let mut reader = LineReader::new(&options.reader)?;
    let (settings, config) = options.producer()?;
    check_resolvable(&settings)?;
    let mut producer = Producer::new(settings, config);
    let lines = read_stdin();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first ends the input, so that what was read is still sent; a second one ends the tool. If signals cannot
        // be caught, the first does.
        let _ = signal_hook::flag::register_conditional_default(signal, stop.clone());
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    let prompt = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut number = 0u64;
    let mut show_prompt = true;
    while !stop.load(Ordering::Relaxed) {
        if prompt && std::mem::take(&mut show_prompt) {
            let _ = write!(terminal.out, ">").and_then(|()| terminal.out.flush());
        }
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) if producer.is_idle() => match lines.recv_timeout(IDLE_WAIT) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            },
            Err(TryRecvError::Empty) => {
                producer.poll(Duration::from_millis(5));
                report(&mut producer, &options.topic, terminal);
                continue;
            }
        };
        show_prompt = true;
        number += 1;
        if let Err(exception) = produce(&mut producer, &mut reader, &line, number, &options, terminal) {
            // What was read before the mistake is sent all the same.
            producer.flush();
            report(&mut producer, &options.topic, terminal);
            return Err(exception);
        }
        if number.is_multiple_of(64) {
            producer.poll(Duration::ZERO);
            report(&mut producer, &options.topic, terminal);
        }
    }
    producer.flush();
    report(&mut producer, &options.topic, terminal);
    Ok(())
}

fn produce(
    producer: &mut Producer,
    reader: &mut LineReader,
    line: &[u8],
    number: u64,
    options: &Options,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let parsed = reader.parse(line, number)?;
    let headers: Vec<(&[u8], Option<&[u8]>)> =
        parsed.headers.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
    let record = Record {
        topic: &options.topic,
        key: parsed.key.as_deref(),
        value: parsed.value.as_deref(),
        headers: &headers,
        timestamp_ms: wall_ms(),
        tag: number,
        ..Default::default()
    };
    if let Err(error) = producer.send(&record) {
        if options.sync {
            return Err(error.exception());
        }
        let (key, value) = (record.key.map(<[u8]>::len), record.value.map(<[u8]>::len));
        log_failure(terminal, &options.topic, key, value, &error);
    }
    if options.sync {
        producer.flush();
        if let Some(Err(error)) = producer.outcomes().pop().map(|outcome| outcome.result) {
            return Err(format!("java.util.concurrent.ExecutionException: {}", error.exception()));
        }
    }
    Ok(())
}

fn report(producer: &mut Producer, topic: &str, terminal: &mut Terminal<'_>) {
    for outcome in producer.outcomes() {
        if let Err(error) = outcome.result {
            log_failure(terminal, topic, outcome.key_len, outcome.value_len, &error);
        }
    }
}

/// As Kafka's callback logs a record that could not be sent. The tool goes on, and ends with 0.
fn log_failure(
    terminal: &mut Terminal<'_>,
    topic: &str,
    key: Option<usize>,
    value: Option<usize>,
    error: &ClientError,
) {
    let size = |len: Option<usize>| len.map_or_else(|| "null".to_owned(), |len| format!("{len} bytes"));
    let message = format!(
        "Error when sending message to topic {topic} with key: {}, value: {} with error:",
        size(key),
        size(value)
    );
    terminal.log("ERROR", &message, "org.apache.kafka.clients.producer.internals.ErrorLoggingCallback");
    terminal.error(error.exception());
}

/// A name that no resolver knows is a mistake, not a broker that is down.
fn check_resolvable(settings: &Settings) -> Result<(), String> {
    use std::net::ToSocketAddrs;
    let known = |host: &str, port| (host, port).to_socket_addrs().is_ok_and(|mut all| all.next().is_some());
    if settings.bootstrap.iter().any(|address| known(&address.host, address.port)) {
        return Ok(());
    }
    let all: Vec<String> = settings.bootstrap.iter().map(ToString::to_string).collect();
    Err(format!(
        "org.apache.kafka.common.config.ConfigException: No resolvable bootstrap urls given in bootstrap.servers ({})",
        all.join(",")
    ))
}

/// Reads in a thread of its own, because a read of the standard input cannot be given up.
fn read_stdin() -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

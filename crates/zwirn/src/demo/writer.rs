//! A producer in a thread of its own that writes numbered records with acks=all until it is stopped, and keeps count
//! of what was acknowledged and of its longest silence.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tools::client::Settings;
use tools::client::producer::{Config, Producer, Record};
use tools::terminal::wall_ms;

/// A record per millisecond, as long as no more than this many wait for their acknowledgement.
const PACE: Duration = Duration::from_millis(1);
const UNACKNOWLEDGED_MAX: u64 = 1000;

/// What became of the records.
pub struct Written {
    /// Numbers of the acknowledged records, in the order of their acknowledgement.
    pub acked: Vec<u64>,
    pub failed: u64,
    pub longest_since_mark: Duration,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acked: AtomicU64,
    /// Longest silence since the start, and since [`Writer::mark`], in microseconds.
    longest_us: AtomicU64,
    marked_us: AtomicU64,
    last_ack: Mutex<Option<Instant>>,
}

pub struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<Written>,
}

impl Writer {
    pub fn start(bootstrap: &str, topic: &str) -> Result<Writer, String> {
        let mut settings = Settings::new(bootstrap, "zwirn-demo-writer").map_err(|error| error.to_string())?;
        settings.connect_timeout = Duration::from_secs(1);
        settings.request_timeout = Duration::from_secs(1);
        let config = Config {
            linger: Duration::ZERO,
            // Kafka's default is 100 ms; a demonstration of failover should not measure its own patience.
            retry_backoff: Duration::from_millis(10),
            ..Default::default()
        };
        let producer = Producer::new(settings, config);
        let shared = Arc::new(Shared::default());
        let (theirs, topic) = (shared.clone(), topic.to_owned());
        let thread = std::thread::spawn(move || write(producer, &topic, &theirs));
        Ok(Writer { shared, thread })
    }

    /// Acknowledged records and the longest silence between two of them.
    pub fn so_far(&self) -> (u64, Duration) {
        let longest = Duration::from_micros(self.shared.longest_us.load(Ordering::Relaxed));
        (self.shared.acked.load(Ordering::Relaxed), longest)
    }

    /// From here on the longest silence is counted afresh.
    pub fn mark(&self) {
        self.shared.marked_us.store(0, Ordering::Relaxed);
    }

    pub fn stop(self) -> Result<Written, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the producer's thread has died".to_owned())
    }
}

fn write(mut producer: Producer, topic: &str, shared: &Shared) -> Written {
    let mut written = Written { acked: Vec::new(), failed: 0, longest_since_mark: Duration::ZERO };
    let (mut sent, mut next) = (0, Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        let waiting = sent - written.acked.len() as u64 - written.failed;
        if Instant::now() >= next && waiting < UNACKNOWLEDGED_MAX {
            let value = format!("record {sent}");
            let record = Record {
                topic,
                partition: Some(0),
                value: Some(value.as_bytes()),
                timestamp_ms: wall_ms(),
                tag: sent,
                ..Default::default()
            };
            match producer.send(&record) {
                Ok(()) => sent += 1,
                Err(_) => std::thread::sleep(PACE),
            }
            next += PACE;
            // After a silence it writes on at its pace, rather than all that it has missed at once.
            next = next.max(Instant::now() - 10 * PACE);
        }
        producer.poll(next.saturating_duration_since(Instant::now()).min(PACE));
        collect(&mut producer, &mut written, shared);
    }
    producer.flush();
    collect(&mut producer, &mut written, shared);
    written.longest_since_mark = Duration::from_micros(shared.marked_us.load(Ordering::Relaxed));
    written
}

fn collect(producer: &mut Producer, written: &mut Written, shared: &Shared) {
    for outcome in producer.outcomes() {
        match outcome.result {
            Ok(_) => {
                let mut last = shared.last_ack.lock().expect("no one panics while holding it");
                if let Some(last) = *last {
                    let gap = outcome.done_at.saturating_duration_since(last).as_micros() as u64;
                    shared.longest_us.fetch_max(gap, Ordering::Relaxed);
                    shared.marked_us.fetch_max(gap, Ordering::Relaxed);
                }
                *last = Some(outcome.done_at);
                written.acked.push(outcome.tag);
                shared.acked.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => written.failed += 1,
        }
    }
}

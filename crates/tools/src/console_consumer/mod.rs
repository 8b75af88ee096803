//! `kafka-console-consumer`: prints records.
//!
//! Without `--partition` it is a member of a consumer group, named or made up, as Kafka's tool is.
//!
//! DIFFERS: a member of the classic protocol offers the range assignor only. Where a broker has no groups at all, a consumer without `--group` reads all partitions directly.

pub mod formatter;
mod options;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::consumer::{Consumer, Message};
use crate::client::membership::Member;
use crate::client::{Client, ClientError, Topics};
use crate::terminal::Terminal;
pub use options::member_config;
use options::{Options, USAGE, Wanted};

const CLASS: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";

/// What Kafka's tool says to every member that speaks the classic protocol; scripts that compare streams know it.
const NEW_PROTOCOL: &str = "The consumer rebalance protocol (KIP-848) is production-ready! Set group.protocol=consumer to \
                            try it out. See https://kafka.apache.org/documentation/#consumer_rebalance_protocol";

/// How long one fetch waits for records; bounds how late Ctrl-C is noticed.
const POLL: Duration = Duration::from_millis(250);
/// How often to look whether the cluster has more topics or partitions.
const REFRESH: Duration = Duration::from_secs(30);

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let options = USAGE.parse_with_help(args, terminal).and_then(|parsed| Options::of(&parsed, terminal));
    let options = match options {
        Ok(options) => options,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let settings = match options.settings() {
        Ok(settings) => settings,
        Err(error) => {
            terminal.log("ERROR", "Unknown error when running consumer: ", CLASS);
            terminal.error(error.exception());
            return 1;
        }
    };
    if options.speaks_classic() {
        terminal.error(NEW_PROTOCOL);
    }
    let stop = Arc::new(AtomicBool::new(false));
    // If the signal cannot be caught, Ctrl-C ends the tool without its last line.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone());
    let _ = signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.clone());
    let consumer = Consumer::new(Client::new(settings), options.fetch);
    let member = match options.wanted {
        Wanted::Partition(..) => None,
        _ => Some(Member::new(options.member.clone())),
    };
    let mut run =
        Run { options, consumer, member, count: 0, last_record: Instant::now(), refreshed: None, warned: false };
    let end = run.read(&stop, terminal);
    let _ = terminal.out.flush();
    if let Some(member) = &mut run.member {
        member.leave(&mut run.consumer);
    }
    match end {
        End::Done => {}
        End::Failed(exception) => {
            terminal.log("ERROR", "Error processing message, terminating consumer process: ", CLASS);
            terminal.error(exception);
        }
        End::NobodyListens => terminal.error("Unable to write to standard out, closing consumer."),
        End::BadRecord(exception) => {
            terminal.error(format_args!("Processed a total of {} messages", run.count));
            terminal.log("ERROR", "Unknown error when running consumer: ", CLASS);
            terminal.error(exception);
            return 1;
        }
    }
    terminal.error(format_args!("Processed a total of {} messages", run.count));
    if run.options.systest_events {
        terminal.line("shutdown_complete");
    }
    0
}

enum End {
    Done,
    /// Nothing came in time, or the cluster refuses.
    Failed(String),
    /// The reader of the output is gone.
    NobodyListens,
    /// A record that its deserializer refuses.
    BadRecord(String),
}

struct Run {
    options: Options,
    consumer: Consumer,
    /// `None`: reads partitions directly.
    member: Option<Member>,
    count: u64,
    last_record: Instant,
    refreshed: Option<Instant>,
    warned: bool,
}

impl Run {
    fn read(&mut self, stop: &AtomicBool, terminal: &mut Terminal<'_>) -> End {
        let max = self.options.max_messages;
        while !stop.load(Ordering::Relaxed) && max.is_none_or(|max| self.count < max) {
            if let Err(error) = self.maybe_assign() {
                return End::Failed(error.exception());
            }
            match self.turn().and_then(|ready| if ready { self.poll(terminal) } else { Ok(None) }) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => return End::Failed(error.exception()),
            }
            if terminal.out.flush().is_err() {
                return End::NobodyListens;
            }
            if self.options.timeout.is_some_and(|timeout| self.last_record.elapsed() > timeout) {
                return End::Failed("org.apache.kafka.common.errors.TimeoutException".to_owned());
            }
        }
        End::Done
    }

    /// Lets the member do its part; true if there may be something to read.
    fn turn(&mut self) -> Result<bool, ClientError> {
        let Some(member) = &mut self.member else { return Ok(true) };
        match member.turn(&mut self.consumer) {
            // A broker without a coordinator: the partitions can be read all the same.
            Err(ClientError::Unsupported(_)) if !self.options.group_given => {
                self.member = None;
                self.refreshed = None;
                Ok(false)
            }
            result => result,
        }
    }

    /// One round of fetches; says if it is the last.
    fn poll(&mut self, terminal: &mut Terminal<'_>) -> Result<Option<End>, ClientError> {
        let left = self.options.timeout.map_or(POLL, |timeout| timeout.saturating_sub(self.last_record.elapsed()));
        let (options, count, last) = (&self.options, &mut self.count, &mut self.last_record);
        let mut end = None;
        let mut buffer = Vec::new();
        self.consumer.poll(POLL.min(left).max(Duration::from_millis(1)), |message: &Message<'_>| {
            *count += 1;
            *last = Instant::now();
            let before = buffer.len();
            if let Err(exception) = options.formatter.write(message, &mut buffer) {
                buffer.truncate(before);
                if !options.skip_errors {
                    end = Some(End::BadRecord(exception));
                    return false;
                }
                terminal.log("ERROR", "Error processing message, skipping this message: ", CLASS);
                terminal.error(exception);
            }
            options.max_messages.is_none_or(|max| *count < max)
        })?;
        if terminal.out.write_all(&buffer).is_err() {
            end = Some(End::NobodyListens);
        }
        Ok(end)
    }

    /// Looks for the partitions to read: at the start, while they are missing, and now and then.
    fn maybe_assign(&mut self) -> Result<(), ClientError> {
        let complete = match &self.options.wanted {
            Wanted::Partition(topic, partition, _) => self.consumer.is_assigned(topic, *partition),
            Wanted::Topic(_) | Wanted::Matching(_) => self.refreshed.is_some_and(|at| at.elapsed() < REFRESH),
        };
        if complete {
            return Ok(());
        }
        let result = match &self.options.wanted {
            Wanted::Partition(topic, ..) | Wanted::Topic(topic) => {
                let watched = self.member.iter().flat_map(Member::watched).filter(|other| other != topic);
                let names: Vec<&str> = [topic.as_str()].into_iter().chain(watched).collect();
                self.consumer.client.refresh_once(Topics::Named(&names), true)
            }
            Wanted::Matching(_) => self.consumer.client.refresh_once(Topics::All, false),
        };
        match result {
            Ok(()) => {}
            Err(ClientError::Network(_)) => {
                std::thread::sleep(self.consumer.client.settings.retry_backoff);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.assign_known()
    }

    fn assign_known(&mut self) -> Result<(), ClientError> {
        let mut found = false;
        let mut assign = Vec::new();
        for (name, topic) in &self.consumer.client.metadata.topics {
            match &self.options.wanted {
                Wanted::Partition(wanted, ..) | Wanted::Topic(wanted) if wanted != name => continue,
                Wanted::Matching(regex) if !regex.is_match(name) || topic.internal => continue,
                _ => {}
            }
            use protocol::error::ErrorCode;
            match topic.error {
                ErrorCode::None => {}
                ErrorCode::UnknownTopicOrPartition | ErrorCode::LeaderNotAvailable => {
                    if !std::mem::replace(&mut self.warned, true) {
                        self.consumer.client.warn(&format!(
                            "The metadata response from the cluster reported a recoverable issue with correlation id 2 : \
                             {{{name}={}}}",
                            topic.error.name()
                        ));
                    }
                    continue;
                }
                ErrorCode::InvalidTopicException => {
                    let message = format!("Invalid topics: [{name}]");
                    return Err(ClientError::Server { code: topic.error, message });
                }
                code => return Err(ClientError::server(code, None)),
            }
            found = true;
            match &self.options.wanted {
                Wanted::Partition(_, partition, offset) => {
                    if topic.partitions.contains_key(partition) {
                        assign.push((name.clone(), *partition, *offset));
                    }
                }
                _ => assign.extend(topic.partitions.keys().map(|partition| (name.clone(), *partition, None))),
            }
        }
        if let Some(member) = &mut self.member {
            let mut topics: BTreeSet<String> = assign.into_iter().map(|(topic, ..)| topic).collect();
            // A topic that is yet to come is subscribed to as well.
            if let Wanted::Topic(topic) = &self.options.wanted {
                topics.insert(topic.clone());
            }
            member.subscribe(topics, &mut self.consumer);
            member.check_partitions(&mut self.consumer);
            assign = vec![];
        }
        for (topic, partition, offset) in assign {
            if !self.consumer.is_assigned(&topic, partition) {
                self.consumer.assign(&topic, partition, offset);
            }
        }
        let waiting = !found && !matches!(self.options.wanted, Wanted::Matching(_));
        self.refreshed = if waiting { None } else { Some(Instant::now()) };
        Ok(())
    }
}

//! `zwirn demo`: three brokers, a topic with three replicas, and the death of its leader, told step by step. Nothing
//! is mocked: the brokers are processes of this very program, the client is the one of the tools.

mod checks;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tools::client::consumer::{Consumer, FetchConfig, Reset};
use tools::client::producer::{Config, Producer, Record};
use tools::client::{Client, ClientError, NewTopic, Settings, TopicDescription};
use tools::terminal::wall_ms;

use crate::local::{LocalCluster, NodeSpec, free_ports};
use checks::{logs_equal, sizes};
use writer::Writer;

const TOPIC: &str = "peter-test01";
const MESSAGE: &str = "test message1";
const BROKERS: i32 = 3;

/// Long enough for a machine that is busy with other things; each step says how long it really took.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the producer writes before the leader dies, and on after the next one leads.
const WRITING: Duration = Duration::from_millis(1000);

const HELP: &str = "\
zwirn demo [--keep]

Starts three brokers on this machine, creates a topic with three replicas, writes and reads it, kills the leader's
process while a producer writes, shows that nothing acknowledged is lost, and cleans up. Needs no other software.

  --keep    leave the cluster running at the end, and its directory in place
";

pub fn run(args: &[String]) -> ExitCode {
    let mut keep = false;
    for arg in args {
        match arg.as_str() {
            "--keep" => keep = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprint!("zwirn demo: unknown argument {other}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let cluster = match new_cluster(keep) {
        Ok(cluster) => cluster,
        Err(message) => {
            eprintln!("zwirn demo: {message}");
            return ExitCode::FAILURE;
        }
    };
    let mut story = Story { cluster, step: 0, begun: Instant::now() };
    match story.tell(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nFAILED after step {}: {why}", story.step);
            let _ = story.cluster.stop_all(Duration::from_secs(10));
            eprintln!("The brokers are stopped; their data and logs are kept in {}", story.cluster.dir.display());
            ExitCode::FAILURE
        }
    }
}

fn new_cluster(keep: bool) -> Result<LocalCluster, String> {
    let ports = free_ports(2 * BROKERS as usize)?;
    let nodes =
        ports.chunks(2).zip(1..).map(|(pair, id)| NodeSpec { id, client_port: pair[0], controller_port: pair[1] });
    let nodes = nodes.collect();
    let cluster_id = tools::random::random_uuid().to_string();
    let dir = std::env::temp_dir().join(format!("zwirn-demo-{}", std::process::id()));
    if dir.exists() {
        return Err(format!("{} exists already; remove it", dir.display()));
    }
    let mut cluster = LocalCluster::new(dir, cluster_id, nodes);
    cluster.die_with_parent = !keep;
    Ok(cluster)
}

struct Story {
    cluster: LocalCluster,
    step: u32,
    begun: Instant,
}

fn text(error: ClientError) -> String {
    error.to_string()
}

fn ids(list: &[i32]) -> String {
    list.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn seconds(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        format!("{} ms", span.as_millis())
    } else {
        format!("{:.1} s", span.as_secs_f64())
    }
}

impl Story {
    /// One line for what happened, one for how to do the same by hand.
    fn say(&mut self, what: &str, by_hand: &str) {
        self.step += 1;
        println!("{:>2}. {what}", self.step);
        for line in by_hand.lines() {
            println!("      $ {line}");
        }
    }

    fn tell(&mut self, keep: bool) -> Result<(), String> {
        println!("Three brokers, one topic, and a leader that dies. Data and logs: {}", self.cluster.dir.display());
        if let Ok(exe) = std::env::current_exe() {
            println!("To do the same by hand: alias zwirn={}; B={}\n", exe.display(), self.cluster.bootstrap());
        }
        self.start()?;
        self.create_topic()?;
        self.produce_and_consume()?;
        self.dump()?;
        self.kill_the_leader()?;
        self.finish(keep)
    }

    fn start(&mut self) -> Result<(), String> {
        self.cluster.prepare()?;
        let config = self.cluster.config_path(1).display().to_string();
        let id = self.cluster.cluster_id.clone();
        self.say(
            &format!("The directories of three nodes are formatted for the new cluster {id}."),
            &format!("zwirn storage format -t {id} -c {config}    # and server-2, server-3"),
        );
        let begun = Instant::now();
        self.cluster.start_all()?;
        self.cluster.wait_ready(PATIENCE)?;
        let took = seconds(begun.elapsed());
        let pids: Vec<String> =
            (1..=BROKERS).filter_map(|id| self.cluster.pid(id)).map(|pid| pid.to_string()).collect();
        self.say(
            &format!("Three processes (pid {}) have formed a cluster and serve, after {took}.", pids.join(", ")),
            &format!("zwirn server {config}    # and server-2, server-3"),
        );
        Ok(())
    }

    fn client(&self) -> Result<Client, String> {
        let mut settings = Settings::new(&self.cluster.bootstrap(), "zwirn-demo").map_err(text)?;
        settings.api_timeout = PATIENCE;
        // A dead broker must not hold up the questions to the others.
        settings.connect_timeout = Duration::from_secs(1);
        Ok(Client::new(settings))
    }

    fn create_topic(&mut self) -> Result<(), String> {
        let mut client = self.client()?;
        let topic = NewTopic { name: TOPIC.to_owned(), partitions: 1, replication_factor: 3, ..Default::default() };
        client.create_topic(&topic).map_err(text)?;
        self.say(
            &format!("Topic {TOPIC} is created: 1 partition, 3 replicas."),
            &format!(
                "zwirn topics --bootstrap-server $B --create --topic {TOPIC} --partitions 1 --replication-factor 3"
            ),
        );
        let topic =
            self.wait_for(&mut client, |topic| topic.partitions[0].isr.len() == 3, "all replicas are in sync")?;
        let partition = &topic.partitions[0];
        self.say(
            &format!(
                "Broker {} leads; replicas on {}, in sync {}.",
                partition.leader,
                ids(&partition.replicas),
                ids(&partition.isr)
            ),
            &format!("zwirn topics --bootstrap-server $B --describe --topic {TOPIC}"),
        );
        Ok(())
    }

    fn describe(client: &mut Client) -> Result<TopicDescription, String> {
        let topics = client.describe_topics(&[TOPIC.to_owned()], 2000).map_err(text)?;
        topics.into_iter().find(|topic| !topic.partitions.is_empty()).ok_or_else(|| format!("topic {TOPIC} is gone"))
    }

    /// Describes the topic until it is as it should be.
    fn wait_for(
        &mut self,
        client: &mut Client,
        done: impl Fn(&TopicDescription) -> bool,
        what: &str,
    ) -> Result<TopicDescription, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let described = Story::describe(client);
            if let Ok(topic) = &described
                && done(topic)
            {
                return described;
            }
            if Instant::now() >= deadline {
                let state = match described {
                    Ok(topic) => format!("{:?}", topic.partitions[0]),
                    Err(error) => error,
                };
                return Err(format!("waited {} s until {what}; the last answer was: {state}", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn produce_and_consume(&mut self) -> Result<(), String> {
        let settings = self.client()?.settings;
        let mut producer = Producer::new(settings, Config { linger: Duration::ZERO, ..Default::default() });
        let record =
            Record { topic: TOPIC, value: Some(MESSAGE.as_bytes()), timestamp_ms: wall_ms(), ..Default::default() };
        producer.send(&record).map_err(text)?;
        producer.flush();
        let outcome = producer.outcomes().pop().ok_or("the producer lost its record")?;
        let offset = outcome.result.map_err(text)?.offset;
        self.say(
            &format!("Produced \"{MESSAGE}\"; all in-sync replicas have it, it got offset {offset}."),
            &format!("echo '{MESSAGE}' | zwirn console-producer --bootstrap-server $B --topic {TOPIC}"),
        );
        let read = self.read_all(1)?;
        if read != [MESSAGE.as_bytes()] {
            return Err(format!("consumed {} records, not the one that was produced", read.len()));
        }
        self.say(
            &format!("Consumed \"{MESSAGE}\"."),
            &format!("zwirn console-consumer --bootstrap-server $B --topic {TOPIC} --from-beginning --max-messages 1"),
        );
        Ok(())
    }

    /// The values of the topic from its beginning, as many as are asked for.
    fn read_all(&self, count: usize) -> Result<Vec<Vec<u8>>, String> {
        let mut client = self.client()?;
        client.refresh("describeTopics", tools::client::Topics::Named(&[TOPIC]), false).map_err(text)?;
        let config = FetchConfig { reset: Reset::Earliest, ..Default::default() };
        let mut consumer = Consumer::new(client, config);
        consumer.assign(TOPIC, 0, None);
        let mut out = Vec::new();
        let mut last_news = Instant::now();
        while out.len() < count && last_news.elapsed() < PATIENCE {
            let before = out.len();
            consumer
                .poll(Duration::from_millis(200), |message| {
                    out.push(message.record.value.unwrap_or_default().to_vec());
                    true
                })
                .map_err(text)?;
            if out.len() > before {
                last_news = Instant::now();
            }
        }
        Ok(out)
    }

    fn segment(&self, id: i32) -> PathBuf {
        self.cluster.data_dir(id).join(format!("{TOPIC}-0")).join("00000000000000000000.log")
    }

    fn dump(&mut self) -> Result<(), String> {
        self.wait_for_equal_logs()?;
        let first = self.segment(1);
        self.say(
            "What each replica has on its disk:",
            &format!("zwirn dump-log --print-data-log --files {}    # and node-2, node-3", first.display()),
        );
        for id in 1..=BROKERS {
            let line =
                checks::dumped_record(&self.segment(id)).ok_or_else(|| format!("node {id} has no record on disk"))?;
            println!("        node {id}: {line}");
        }
        let bytes = self.segment_bytes();
        self.say(
            &format!("The segment files of the three replicas are byte-equal ({bytes} bytes)."),
            &format!("cmp {} {}", first.display(), self.segment(2).display()),
        );
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        sizes(&self.cluster.data_dir(1).join(format!("{TOPIC}-0")))
    }

    /// Followers fetch what the leader has, a moment later.
    fn wait_for_equal_logs(&self) -> Result<(), String> {
        let dirs: Vec<PathBuf> = (1..=BROKERS).map(|id| self.cluster.data_dir(id).join(format!("{TOPIC}-0"))).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match logs_equal(&dirs) {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() >= deadline => return Err(format!("the replicas differ: {why}")),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn kill_the_leader(&mut self) -> Result<(), String> {
        let mut client = self.client()?;
        let leader = Story::describe(&mut client)?.partitions[0].leader;
        let writer = Writer::start(&self.cluster.bootstrap(), TOPIC)?;
        std::thread::sleep(WRITING);
        let (acked, pause) = writer.so_far();
        if acked == 0 {
            return Err(format!("the producer got no acknowledgement within {}", seconds(WRITING)));
        }
        self.say(
            &format!("A producer writes all the time, acks=all: {acked} records so far, longest pause {}.", seconds(pause)),
            &format!("zwirn producer-perf-test --bootstrap-server $B --topic {TOPIC} --num-records 100000 --record-size 100 --throughput 1000"),
        );
        let pid = self.cluster.pid(leader).ok_or("the leader has no process")?;
        writer.mark();
        let killed = Instant::now();
        self.cluster.kill(leader)?;
        self.say(&format!("The leader's process is killed: broker {leader}, pid {pid}."), &format!("kill -9 {pid}"));
        let topic = self.wait_for(
            &mut client,
            |topic| {
                let partition = &topic.partitions[0];
                partition.leader >= 0 && partition.leader != leader && !partition.isr.contains(&leader)
            },
            "another broker leads",
        )?;
        let took = seconds(killed.elapsed());
        let partition = &topic.partitions[0];
        self.say(
            &format!(
                "Broker {} leads now, in sync {}; seen {took} after the kill.",
                partition.leader,
                ids(&partition.isr)
            ),
            &format!("zwirn topics --bootstrap-server $B --describe --topic {TOPIC}"),
        );
        std::thread::sleep(WRITING);
        let written = writer.stop()?;
        self.say(
            &format!(
                "The producer wrote on: {} records acknowledged, {} failed. Its longest silence: {}.",
                written.acked.len(),
                written.failed,
                seconds(written.longest_since_mark)
            ),
            "",
        );
        self.verify(&written)?;
        self.bring_back(&mut client, leader)
    }

    fn verify(&mut self, written: &writer::Written) -> Result<(), String> {
        let expected = written.acked.len() + 1;
        let values = self.read_all(expected)?;
        let summary = checks::acknowledged_are_there(&written.acked, &values[1..])?;
        self.say(
            &format!("Read back: {summary}"),
            &format!("zwirn console-consumer --bootstrap-server $B --topic {TOPIC} --from-beginning --timeout-ms 2000 | wc -l"),
        );
        Ok(())
    }

    fn bring_back(&mut self, client: &mut Client, dead: i32) -> Result<(), String> {
        let begun = Instant::now();
        self.cluster.start(dead)?;
        let topic =
            self.wait_for(client, |topic| topic.partitions[0].isr.len() == 3, "all replicas are in sync again")?;
        let took = seconds(begun.elapsed());
        self.say(
            &format!(
                "Broker {dead} is started again and has caught up after {took}: in sync {}.",
                ids(&topic.partitions[0].isr)
            ),
            &format!("zwirn server {}", self.cluster.config_path(dead).display()),
        );
        self.wait_for_equal_logs()?;
        let bytes = self.segment_bytes();
        self.say(&format!("The three replicas are byte-equal again ({bytes} bytes)."), "");
        Ok(())
    }

    fn finish(&mut self, keep: bool) -> Result<(), String> {
        let pids: Vec<String> =
            (1..=BROKERS).filter_map(|id| self.cluster.pid(id)).map(|pid| pid.to_string()).collect();
        let pids = pids.join(" ");
        let dir = self.cluster.dir.display().to_string();
        if keep {
            println!("\nThe cluster keeps running at {}", self.cluster.bootstrap());
            println!("To stop it: kill {pids}; then: rm -r {dir}");
            return Ok(());
        }
        self.cluster.stop_all(PATIENCE)?;
        self.say("All three have stopped cleanly.", &format!("kill {pids}"));
        std::fs::remove_dir_all(&self.cluster.dir).map_err(|error| format!("{dir} cannot be removed: {error}"))?;
        self.say("Their directory is removed.", &format!("rm -r {dir}"));
        println!("\nAll is well, in {}.", seconds(self.begun.elapsed()));
        Ok(())
    }
}

//! Holds a conversation with one node.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::answer::{self, Seen};
use super::codec::{Names, Schema, Value};
use super::node::Node;
use super::rules::Rules;
use super::script::{self, Listener, Script, What};

/// Nobody needs that long.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const AWAIT_MAX: Duration = Duration::from_secs(20);
/// From here on an answer has been waited for, not merely been slow.
const WAITED_FROM: Duration = Duration::from_millis(700);
const ANSWER_BYTES_MAX: i32 = 100 << 20;

/// An answer, and what it was an answer to.
pub struct Said {
    /// The step in the script.
    pub step: usize,
    pub api: String,
    pub version: String,
    pub line: usize,
    pub lines: Vec<(String, String)>,
}

impl Said {
    pub fn shown(&self) -> String {
        let lines: String = self.lines.iter().map(|(path, value)| format!("    {path} = {value}\n")).collect();
        format!("{} {} (line {})\n{lines}", self.api, self.version, self.line)
    }
}

/// What was said, and why no more than that if the script could not be followed to its end.
pub fn hold(script: &Script, schema: &Schema, rules: &Rules, node: &Node) -> (Vec<Said>, Result<(), String>) {
    let mut talk = Talk {
        schema,
        rules,
        node,
        listener: Listener::Broker,
        streams: BTreeMap::new(),
        who: String::new(),
        due: BTreeMap::new(),
        correlation_id: 0,
        names: Names::default(),
        word: String::new(),
        seen: Seen::default(),
        said: Vec::new(),
    };
    for (step, said) in script.steps.iter().enumerate() {
        if let Err(why) = talk.step(step, said) {
            let last = talk.said.last().map(Said::shown).unwrap_or_default();
            return (talk.said, Err(format!("{}; the last answer was to {last}", script::Wrong(said.line, why))));
        }
    }
    (talk.said, Ok(()))
}

struct Talk<'a> {
    schema: &'a Schema,
    rules: &'a Rules,
    node: &'a Node,
    listener: Listener,
    /// Connections by their names, and which of them is used.
    streams: BTreeMap<String, TcpStream>,
    who: String,
    /// What was sent and not yet taken, by connection.
    due: BTreeMap<String, Due>,
    correlation_id: i32,
    names: Names,
    /// What `each` is about now, for whoever reads of it.
    word: String,
    seen: Seen,
    said: Vec<Said>,
}

/// A request whose answer is awaited.
struct Due {
    step: usize,
    line: usize,
    version: i16,
    id: i32,
    request: script::Request,
}

/// What comes back.
enum Heard {
    Frame(Vec<u8>),
    Closed,
    Nothing,
}

impl Talk<'_> {
    fn step(&mut self, number: usize, step: &script::Step) -> Result<(), String> {
        match &step.what {
            What::Title(_) | What::Unasked(_) | What::Slow => {}
            What::New => drop(self.streams.remove(&self.who)),
            What::At(listener) => {
                self.listener = *listener;
                self.streams.clear();
            }
            What::As(who) => self.who.clone_from(who),
            What::Take(who) => self.take(who)?,
            What::PauseMs(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            What::Await(topics) => topics.iter().try_for_each(|topic| self.until(topic, true))?,
            What::Gone(topics) => topics.iter().try_for_each(|topic| self.until(topic, false))?,
            What::Frame(bytes) => {
                let whole = [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat();
                self.raw(number, step.line, &whole)?;
            }
            What::Bytes(bytes) => self.raw(number, step.line, bytes)?,
            What::Request(request) => self.request(number, step.line, request)?,
            What::Settle(request) => self.settle(request)?,
        }
        Ok(())
    }

    fn request(&mut self, step: usize, line: usize, request: &script::Request) -> Result<(), String> {
        if let Some((name, words)) = &request.each {
            let once = script::Request { each: None, ..request.clone() };
            for word in words {
                self.names.variables.insert(name.clone(), word.clone());
                self.word = format!(" {word}");
                self.request(step, line, &once)?;
            }
            self.word.clear();
            return Ok(());
        }
        for version in self.versions(request)? {
            self.names.variables.insert("v".to_owned(), version.to_string());
            self.correlation_id += 1;
            let frame = self.schema.request(&request.api, version, self.correlation_id, &request.body, &self.names)?;
            let whole = [&(frame.len() as i32).to_be_bytes()[..], &frame].concat();
            let due = Due { step, line, version, id: self.correlation_id, request: request.clone() };
            if request.is_sent {
                let mut stream = self.connection()?;
                stream.write_all(&whole).map_err(|e| e.to_string())?;
                self.streams.insert(self.who.clone(), stream);
                self.due.insert(self.who.clone(), due);
                continue;
            }
            let started = Instant::now();
            let heard = self.exchange(&whole, request.is_quiet)?;
            self.on_answer(&due, heard, started.elapsed() >= WAITED_FROM)?;
        }
        Ok(())
    }

    /// The answer to what was sent over the connection by this name.
    fn take(&mut self, who: &str) -> Result<(), String> {
        let due = self.due.remove(who).ok_or_else(|| format!("nothing was sent as {who}"))?;
        let stream = self.streams.remove(who).ok_or_else(|| format!("{who} has no connection"))?;
        let now = std::mem::replace(&mut self.who, who.to_owned());
        let started = Instant::now();
        let heard = self.read(stream);
        self.who = now;
        self.on_answer(&due, heard, started.elapsed() >= WAITED_FROM)
    }

    fn on_answer(&mut self, due: &Due, heard: Heard, waited: bool) -> Result<(), String> {
        let request = &due.request;
        let mut lines = Vec::new();
        if let Heard::Frame(frame) = &heard {
            match self.decode(due, frame)? {
                Some(value) => {
                    for (name, path) in &request.lets {
                        let found = find(&value, path).ok_or_else(|| format!("no {path} in the answer"))?;
                        self.names.variables.insert(self.names.resolve(name)?, found);
                    }
                    self.learn_ids(&value);
                    lines = answer::lines(&request.api, &value, self.rules, &mut self.seen);
                }
                None => lines.push((request.api.clone(), format!("cannot be decoded: {frame:02x?}"))),
            }
        }
        if request.is_timed {
            lines.push(("time".to_owned(), if waited { "waited for" } else { "at once" }.to_owned()));
        }
        self.note((due.step, due.line), (&request.api, format!("{}{}", due.version, self.word)), &heard, lines);
        Ok(())
    }

    fn versions(&self, request: &script::Request) -> Result<Vec<i16>, String> {
        self.schema.versions(&request.api, &request.versions)
    }

    /// The answer; that of ApiVersions may have version 0 whatever was asked.
    fn decode(&self, due: &Due, frame: &[u8]) -> Result<Option<Value>, String> {
        let (api, version) = (due.request.api.as_str(), due.version);
        if frame.get(..4) != Some(&due.id.to_be_bytes()) {
            return Ok(None);
        }
        let known = self.schema.message(&format!("{api}Response"))?.versions.contains(version);
        let decoded = if known { self.schema.response(api, version, frame).ok() } else { None };
        match decoded {
            None if api == "ApiVersions" => Ok(self.schema.response(api, 0, frame).ok()),
            decoded => Ok(decoded),
        }
    }

    /// Ids of topics, wherever they stand beside a name.
    fn learn_ids(&mut self, value: &Value) {
        match value {
            Value::List(items) => items.iter().for_each(|item| self.learn_ids(item)),
            Value::Struct(fields) => {
                let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
                if let (Some(Value::Text(name)), Some(Value::Uuid(id))) = (get("Name"), get("TopicId")) {
                    if *id != [0; 16] {
                        self.names.topic_ids.insert(name.clone(), *id);
                    }
                }
                fields.iter().for_each(|(_, field)| self.learn_ids(field));
            }
            _ => {}
        }
    }

    fn raw(&mut self, step: usize, line: usize, bytes: &[u8]) -> Result<(), String> {
        let heard = self.exchange(bytes, false)?;
        // What is in it is a matter of the moment.
        let lines = Vec::new();
        self.note((step, line), ("bytes", String::new()), &heard, lines);
        Ok(())
    }

    fn note(&mut self, at: (usize, usize), asked: (&str, String), heard: &Heard, mut lines: Vec<(String, String)>) {
        let what = match heard {
            Heard::Frame(_) => "an answer",
            Heard::Closed => "the connection was closed",
            Heard::Nothing => "no answer",
        };
        lines.insert(0, ("answer".to_owned(), what.to_owned()));
        let ((step, line), (api, version)) = (at, asked);
        self.said.push(Said { step, line, api: api.to_owned(), version, lines });
    }

    /// The present one, or a new one.
    fn connection(&mut self) -> Result<TcpStream, String> {
        let port = match self.listener {
            Listener::Broker => self.node.broker_port,
            Listener::Controller => self.node.controller_port,
        };
        let fail = |e: std::io::Error| format!("port {port}: {e}");
        let stream = match self.streams.remove(&self.who) {
            Some(stream) => stream,
            None => TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).map_err(fail)?,
        };
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(fail)?;
        Ok(stream)
    }

    /// Sends bytes and waits for what comes. With `is_quiet` a second request shows that the first has no answer.
    fn exchange(&mut self, bytes: &[u8], is_quiet: bool) -> Result<Heard, String> {
        let mut stream = self.connection()?;
        const PROBE_ID: i32 = -7;
        if stream.write_all(bytes).is_err() {
            return Ok(Heard::Closed);
        }
        if !is_quiet {
            return Ok(self.read(stream));
        }
        let nothing = script::Node::Struct(Vec::new());
        let probe = self.schema.request("ApiVersions", 0, PROBE_ID, &nothing, &self.names)?;
        let whole = [&(probe.len() as i32).to_be_bytes()[..], &probe].concat();
        if stream.write_all(&whole).is_err() {
            return Ok(Heard::Closed);
        }
        let heard = self.read(stream);
        match &heard {
            Heard::Frame(frame) if frame.get(..4) == Some(&PROBE_ID.to_be_bytes()) => return Ok(Heard::Nothing),
            Heard::Frame(_) => {
                let stream = self.connection()?;
                self.read(stream);
            }
            _ => {}
        }
        Ok(heard)
    }

    /// The next frame; the connection is kept if there was one.
    fn read(&mut self, mut stream: TcpStream) -> Heard {
        match read_frame(&mut stream) {
            Ok(frame) => {
                self.streams.insert(self.who.clone(), stream);
                Heard::Frame(frame)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Heard::Nothing,
            Err(_) => Heard::Closed,
        }
    }

    /// Asks until the topic is there and its leaders answer, or until it is gone.
    fn until(&mut self, topic: &str, wanted: bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let about = format!("{{Topics:[{{Name:{topic}}}] AllowAutoTopicCreation:false}}");
            let value = self.ask("Metadata", 12, &about)?;
            self.learn_ids(&value);
            let is_there = find(&value, "Topics[0].ErrorCode").as_deref() == Some("0");
            let leader = |i: usize| find(&value, &format!("Topics[0].Partitions[{i}].LeaderId"));
            let leaders: Vec<String> = (0..).map_while(leader).collect();
            // Apache Kafka's metadata runs ahead of its replicas.
            let can_be_read = is_there && leaders.iter().all(|l| l == "1") && {
                let part = |i: usize| format!("{{PartitionIndex:{i} Timestamp:-2}}");
                let parts: String = (0..leaders.len()).map(part).collect();
                let about = format!("{{ReplicaId:-1 Topics:[{{Name:{topic} Partitions:[{parts}]}}]}}");
                let value = self.ask("ListOffsets", 7, &about)?;
                let error = |i: usize| find(&value, &format!("Topics[0].Partitions[{i}].ErrorCode"));
                (0..leaders.len()).all(|i| error(i).as_deref() == Some("0"))
            };
            if if wanted { can_be_read } else { !is_there } {
                return Ok(());
            }
            if started.elapsed() > AWAIT_MAX {
                return Err(format!("{topic} is not as awaited"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn settle(&mut self, request: &script::Request) -> Result<(), String> {
        let version = *self.versions(request)?.first().ok_or("no version")?;
        let started = Instant::now();
        while find(&self.ask_for(&request.api, version, &request.body)?, "ErrorCode").as_deref() != Some("0") {
            if started.elapsed() > AWAIT_MAX {
                return Err(format!("{} goes on to fail", request.api));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn ask(&mut self, api: &str, version: i16, body: &str) -> Result<Value, String> {
        match script::parse(api, &format!("{api} {version} {body}"))?.steps.remove(0).what {
            What::Request(request) => self.ask_for(api, version, &request.body),
            _ => Err(format!("{body} is no request")),
        }
    }

    fn ask_for(&mut self, api: &str, version: i16, body: &script::Node) -> Result<Value, String> {
        self.correlation_id += 1;
        let frame = self.schema.request(api, version, self.correlation_id, body, &self.names)?;
        let whole = [&(frame.len() as i32).to_be_bytes()[..], &frame].concat();
        match self.exchange(&whole, false)? {
            Heard::Frame(answer) => self.schema.response(api, version, &answer),
            _ => Err(format!("no answer to {api}")),
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = i32::from_be_bytes(length);
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// The value at `Field[1].Field`.
fn find(value: &Value, path: &str) -> Option<String> {
    let mut value = value;
    for part in path.split('.') {
        let (name, index) =
            part.split_once('[').map_or((part, None), |(n, i)| (n, i.trim_end_matches(']').parse().ok()));
        let Value::Struct(fields) = value else { return None };
        value = &fields.iter().find(|(n, _)| n == name)?.1;
        if let Some(index) = index {
            let index: usize = index;
            let Value::List(items) = value else { return None };
            value = items.get(index)?;
        }
    }
    match value {
        Value::Word(word) => Some(word.clone()),
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

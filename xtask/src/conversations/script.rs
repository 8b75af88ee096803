//! The notation of a conversation: what is said, in which versions, and which answers may differ.
//!
//! ```text
//! title What the steps below are about
//! slow                 anywhere: the script is left out of CI
//! unasked What is never asked, since Kafka suffers from it, and what each of the two makes of it
//! CreateTopics 2-7 {Topics:[{Name:a-$v NumPartitions:1 ReplicationFactor:1}] TimeoutMs:9000}
//!   each k = a b         the request again and again, with $k in it
//!   let id = Topics[0].TopicId
//!   differs Topics.ErrorCode why it does
//!   lacks Topics.Configs why Kafka says more
//! await a-2 a-3        the topics are in the metadata, with a leader
//! as b                 from here on another connection is used, until another name comes or nothing behind `as`
//! send JoinGroup 9 {…} the answer is read later,
//! take b               here, wherever it was asked for
//! ```
//!
//! A step starts in the first column and goes on in indented lines. Versions are `5`, `0-3`, `0,2-4` or `all`. Fields have
//! the names of the schema; what is not named has its default, and what a version does not carry is left out. `$v` is
//! the version, `$name` what `let` took from an earlier answer (`$m$v` of the same version's, if it was `let m$v`),
//! `#topic` the id of a topic.

use std::fmt;

/// A value as it is written, before it is known of which type it has to be.
#[derive(Clone, Debug)]
pub enum Node {
    Null,
    Word(String),
    List(Vec<Node>),
    /// `{…}`, or `batch{…}`; what it has to be is known where it stands.
    Struct(Vec<(String, Node)>),
}

#[derive(Debug)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Step>,
    /// Too long for every run of CI.
    pub is_slow: bool,
}

#[derive(Debug)]
pub struct Step {
    pub line: usize,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// For the reader of the script, and of the document.
    Title(String),
    Unasked(String),
    Slow,
    Request(Request),
    /// A frame by its bytes behind the length.
    Frame(Vec<u8>),
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// Wait until the topics are there.
    Await(Vec<String>),
    Gone(Vec<String>),
    /// Ask until there is no error.
    Settle(Request),
    PauseMs(u64),
    /// A new connection.
    New,
    /// The connection by this name.
    As(String),
    /// The answer that is due on the connection by this name.
    Take(String),
    /// From here on requests go to the controller's listener, or back to the broker's.
    At(Listener),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Broker,
    Controller,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub api: String,
    /// As written: the schema says what `all` is.
    pub versions: String,
    pub body: Node,
    /// A variable, and what it is in each repetition.
    pub each: Option<(String, Vec<String>)>,
    /// Variables and where in the answer their values are.
    pub lets: Vec<(String, String)>,
    pub differs: Vec<Differs>,
    /// Whether an answer comes at all is asked by a second request.
    pub is_quiet: bool,
    /// The answer is taken later.
    pub is_sent: bool,
    /// Whether the answer came at once or was waited for belongs to it.
    pub is_timed: bool,
}

/// Paths of the answer, without indexes, that differ on purpose; `*` for the whole answer.
#[derive(Clone, Debug)]
pub struct Differs {
    pub path: String,
    pub why: String,
    /// Only what Kafka has and we have not.
    pub is_lack: bool,
}

#[derive(Debug)]
pub struct Wrong(pub usize, pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.0, self.1)
    }
}

pub fn parse(name: &str, text: &str) -> Result<Script, String> {
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    let mut open: Option<(usize, Vec<&str>)> = None;
    loop {
        let next = lines.next();
        match (next, &mut open) {
            (Some((_, line)), Some((_, step))) if line.starts_with(' ') => step.push(line.trim()),
            (next, current) => {
                if let Some((number, step)) = current.take() {
                    let what = parse_step(&step).map_err(|why| format!("{name}, {}", Wrong(number + 1, why)))?;
                    steps.push(Step { line: number + 1, what });
                }
                match next {
                    Some((number, line)) => open = Some((number, vec![line])),
                    None => {
                        let is_slow = steps.iter().any(|step: &Step| matches!(step.what, What::Slow));
                        return Ok(Script { name: name.to_owned(), steps, is_slow });
                    }
                }
            }
        }
    }
}

fn parse_step(lines: &[&str]) -> Result<What, String> {
    let (first, rest) = lines.split_first().ok_or("an empty step")?;
    let (word, tail) = first.split_once(' ').unwrap_or((first, ""));
    let tail = tail.trim();
    let words = || tail.split_whitespace().map(str::to_owned).collect();
    let joined = || [&[tail], rest].concat().join(" ");
    Ok(match word {
        "title" => What::Title(joined()),
        "unasked" => What::Unasked(joined()),
        "slow" => What::Slow,
        "await" => What::Await(words()),
        "gone" => What::Gone(words()),
        "pause" => What::PauseMs(tail.parse().map_err(|_| "pause takes milliseconds")?),
        "new" => What::New,
        "as" => What::As(tail.to_owned()),
        "take" => What::Take(tail.to_owned()),
        "at" if tail == "controller" => What::At(Listener::Controller),
        "at" if tail == "broker" => What::At(Listener::Broker),
        "frame" => What::Frame(hex(&joined())?),
        "bytes" => What::Bytes(hex(&joined())?),
        "quiet" | "timed" | "send" | "settle" => match parse_step(&[&[tail], rest].concat())? {
            What::Request(mut request) => {
                request.is_quiet |= word == "quiet";
                request.is_timed |= word == "timed";
                request.is_sent |= word == "send";
                if word == "settle" { What::Settle(request) } else { What::Request(request) }
            }
            _ => return Err(format!("{word} what?")),
        },
        _ => What::Request(parse_request(word, tail, rest)?),
    })
}

fn parse_request(api: &str, tail: &str, rest: &[&str]) -> Result<Request, String> {
    let (versions, body) = tail.split_once(' ').unwrap_or((tail, ""));
    let mut body = body.to_owned();
    let (mut each, mut lets, mut differs) = (None, Vec::new(), Vec::<Differs>::new());
    for line in rest {
        let is_lack = line.starts_with("lacks ");
        if let Some(rule) = line.strip_prefix("differs ").or(line.strip_prefix("lacks ")) {
            let (path, why) = rule.trim().split_once(' ').ok_or("differs PATH why")?;
            differs.push(Differs { path: path.to_owned(), why: why.trim().to_owned(), is_lack });
        } else if let Some((name, words)) = line.strip_prefix("each ").and_then(|l| l.split_once('=')) {
            each = Some((name.trim().to_owned(), words.split_whitespace().map(str::to_owned).collect()));
        } else if let Some((name, path)) = line.strip_prefix("let ").and_then(|l| l.split_once('=')) {
            lets.push((name.trim().to_owned(), path.trim().to_owned()));
        } else if let Some(last) = differs.last_mut() {
            last.why = format!("{} {line}", last.why);
        } else {
            body = format!("{body} {line}");
        }
    }
    let mut parser = Parser { rest: body.trim() };
    let body = if parser.rest.is_empty() { Node::Struct(Vec::new()) } else { parser.value()? };
    if !parser.rest.trim().is_empty() {
        return Err(format!("behind the request: {:?}", parser.rest));
    }
    let versions = versions.to_owned();
    Ok(Request {
        api: api.to_owned(),
        versions,
        body,
        each,
        lets,
        differs,
        is_quiet: false,
        is_sent: false,
        is_timed: false,
    })
}

pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte =
        |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).map_err(|e| format!("{pair:?}: {e}"));
    digits.chunks(2).map(byte).collect()
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn skip(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.starts_with(token);
        if found {
            self.rest = &self.rest[token.len_utf8()..];
        }
        found
    }

    fn value(&mut self) -> Result<Node, String> {
        if self.skip('[') {
            let mut items = Vec::new();
            while !self.skip(']') {
                items.push(self.value()?);
            }
            return Ok(Node::List(items));
        }
        if self.skip('{') {
            return self.fields();
        }
        if self.skip('"') {
            let end = self.rest.find('"').ok_or("a string without end")?;
            let word = self.rest[..end].to_owned();
            self.rest = &self.rest[end + 1..];
            return Ok(Node::Word(word));
        }
        let word = self.word()?;
        if self.rest.starts_with('{') {
            self.rest = &self.rest[1..];
            return self.fields();
        }
        Ok(if word == "null" { Node::Null } else { Node::Word(word) })
    }

    fn fields(&mut self) -> Result<Node, String> {
        let mut fields = Vec::new();
        while !self.skip('}') {
            let field = self.word()?;
            if !self.skip(':') {
                return Err(format!("a colon is missing behind {field}"));
            }
            fields.push((field, self.value()?));
        }
        Ok(Node::Struct(fields))
    }

    fn word(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| c.is_whitespace() || "{}[]:\"".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(format!("a word is missing at {:?}", self.rest));
        }
        self.rest = rest;
        Ok(word.to_owned())
    }
}

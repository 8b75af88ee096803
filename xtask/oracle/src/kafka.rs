//! The JVM that holds Kafka's classes: questions go to its standard input, answers come from its standard output in
//! the same order. What they look like is said in `Oracle.java`.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

/// An answer is never longer than this; more means that the two sides no longer speak of the same thing.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A message that Kafka's jars have.
pub struct KafkaMessage {
    pub name: String,
    pub versions: std::ops::RangeInclusive<i16>,
    /// -1 if it has none.
    pub api_key: i16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bytes asked for, and how many bytes of the question the decoder did not look at.
    Done {
        bytes: Vec<u8>,
        left: usize,
    },
    NotDecoded(String),
    NotEncoded(String),
}

#[derive(Clone)]
pub struct Question {
    op: u8,
    message: i16,
    version: i16,
    second: i16,
    payload: Vec<u8>,
}

impl Question {
    pub fn reencode(message: i16, from: i16, to: i16, bytes: &[u8]) -> Question {
        Question { op: b'R', message, version: from, second: to, payload: bytes.to_vec() }
    }

    pub fn json(message: i16, version: i16, bytes: &[u8]) -> Question {
        Question { op: b'J', message, version, second: 0, payload: bytes.to_vec() }
    }

    /// The bytes of a random value.
    pub fn generate(message: i16, version: i16, seed: u64) -> Question {
        Question { op: b'G', message, version, second: 0, payload: seed.to_be_bytes().to_vec() }
    }

    /// A metadata record in its frame.
    pub fn metadata_value(bytes: &[u8]) -> Question {
        Question { op: b'M', message: 0, version: 0, second: 0, payload: bytes.to_vec() }
    }

    /// An entry of a transaction index, from its four fields.
    pub fn aborted_txn(fields: &[u8]) -> Question {
        Question { op: b'A', message: 0, version: 0, second: 0, payload: fields.to_vec() }
    }

    /// The file quorum-state, to be written again for this kraft.version.
    pub fn quorum_state(kraft_version: i16, bytes: &[u8]) -> Question {
        Question { op: b'Q', message: 0, version: 0, second: kraft_version, payload: bytes.to_vec() }
    }

    pub fn producer_snapshot(bytes: &[u8]) -> Question {
        Question { op: b'P', message: 0, version: 0, second: 0, payload: bytes.to_vec() }
    }

    pub fn header_versions(api_key: i16, version: i16) -> Question {
        Question { op: b'H', message: api_key, version, second: 0, payload: Vec::new() }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let len = i32::try_from(self.payload.len() + 7).map_err(io::Error::other)?;
        out.write_all(&len.to_be_bytes())?;
        out.write_all(&[self.op])?;
        for number in [self.message, self.version, self.second] {
            out.write_all(&number.to_be_bytes())?;
        }
        out.write_all(&self.payload)
    }
}

pub struct Kafka {
    child: Child,
    questions: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub messages: Vec<KafkaMessage>,
}

impl Kafka {
    pub fn start(mut command: Command) -> Result<Kafka, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to the JVM".to_owned());
        };
        let mut kafka =
            Kafka { child, questions: BufWriter::new(stdin), answers: BufReader::new(stdout), messages: Vec::new() };
        kafka.hello().map_err(|e| format!("the JVM said no hello: {e}"))?;
        Ok(kafka)
    }

    fn hello(&mut self) -> io::Result<()> {
        for _ in 0..i32::from_be_bytes(self.read()?) {
            let len = u16::from_be_bytes(self.read()?) as usize;
            let name = String::from_utf8(self.read_vec(len)?).map_err(io::Error::other)?;
            let [lo, hi, api_key] = [self.read()?, self.read()?, self.read()?].map(i16::from_be_bytes);
            self.messages.push(KafkaMessage { name, versions: lo..=hi, api_key });
        }
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_vec(&mut self, len: usize) -> io::Result<Vec<u8>> {
        if len > ANSWER_BYTES_MAX {
            return Err(io::Error::other(format!("an answer of {len} bytes")));
        }
        let mut bytes = vec![0; len];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Asks everything at once, since a pipe holds little: one thread writes while the other reads.
    pub fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, String> {
        let Kafka { questions: out, answers, .. } = self;
        let (sent, received) = thread::scope(|scope| {
            let writer = scope.spawn(move || {
                questions.iter().try_for_each(|question| question.write(out))?;
                out.flush()
            });
            let received: io::Result<Vec<_>> = questions.iter().map(|_| receive(answers)).collect();
            (writer.join().expect("writing does not panic"), received)
        });
        sent.map_err(|e| format!("to the JVM: {e}"))?;
        received.map_err(|e| format!("from the JVM: {e}"))?.into_iter().collect()
    }

    pub fn stop(mut self) -> Result<(), String> {
        drop(self.questions);
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the JVM ended with {status}")) }
    }
}

/// The outer error is the pipe's, the inner one the oracle's own: it was asked something that it does not understand.
fn receive(answers: &mut impl Read) -> io::Result<Result<Answer, String>> {
    let mut head = [0; 9];
    answers.read_exact(&mut head)?;
    let [status, a, b, c, d, e, f, g, h] = head;
    let (left, len) = (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]) as usize);
    if len > ANSWER_BYTES_MAX {
        return Err(io::Error::other(format!("an answer of {len} bytes")));
    }
    let mut bytes = vec![0; len];
    answers.read_exact(&mut bytes)?;
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    Ok(match status {
        0 => Ok(Answer::Done { bytes, left }),
        1 => Ok(Answer::NotDecoded(text())),
        2 => Ok(Answer::NotEncoded(text())),
        _ => Err(text()),
    })
}

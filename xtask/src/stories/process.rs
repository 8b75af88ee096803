//! Processes with a limit on their time: tools that run to their end, and ones whose output is followed.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Env;

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    pub command: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The command must have exited with 0.
    pub fn good(self) -> Result<Output, String> {
        if self.code == Some(0) { Ok(self) } else { Err(self.complaint("it should exit with 0")) }
    }

    pub fn has(self, text: &str) -> Result<Output, String> {
        if self.stdout.contains(text) { Ok(self) } else { Err(self.complaint(&format!("stdout should hold {text:?}"))) }
    }

    pub fn stdout_is(self, text: &str) -> Result<Output, String> {
        if self.stdout == text { Ok(self) } else { Err(self.complaint(&format!("stdout should be {text:?}"))) }
    }

    pub fn code_is(self, code: i32) -> Result<Output, String> {
        if self.code == Some(code) { Ok(self) } else { Err(self.complaint(&format!("it should exit with {code}"))) }
    }

    pub fn complaint(&self, what: &str) -> String {
        let head = |text: &str| text.chars().take(1_200).collect::<String>();
        format!(
            "{what}\n  command: {}\n  exit: {:?}\n  stdout: {}\n  stderr: {}",
            self.command,
            self.code,
            head(&self.stdout),
            head(&self.stderr)
        )
    }
}

impl Env {
    pub fn zwirn(&self, args: &[&str]) -> Result<Output, String> {
        self.zwirn_with_input(args, "")
    }

    /// A command line without paths: words between blanks.
    pub fn line(&self, line: &str) -> Result<Output, String> {
        self.zwirn(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn zwirn_with_input(&self, args: &[&str], input: &str) -> Result<Output, String> {
        let mut command = Command::new(&self.binary);
        command.args(args);
        finish(command, input, Duration::from_secs(60))
    }

    /// A tool of Apache Kafka, by its main class.
    pub fn kafka(&self, class: &str, args: &[&str], input: &str) -> Result<Output, String> {
        finish(self.kafka_command(class, args)?, input, Duration::from_secs(90))
    }

    /// As [`Env::line`], with a tool of Apache Kafka.
    pub fn kafka_line(&self, class: &str, line: &str) -> Result<Output, String> {
        self.kafka(&format!("org.apache.kafka.tools.{class}"), &line.split_whitespace().collect::<Vec<_>>(), "")
    }

    pub fn kafka_command(&self, class: &str, args: &[&str]) -> Result<Command, String> {
        let kafka = self.kafka.as_ref().map_err(String::clone)?;
        // Tools live for a second or two: a quick start is worth more than fast code.
        let options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx256m"];
        let mut command = kafka.java(class, &options);
        command.args(args);
        Ok(command)
    }
}

pub fn finish(mut command: Command, input: &str, limit: Duration) -> Result<Output, String> {
    let shown = show(&command);
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| format!("{shown}: {e}"))?;
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let started = Instant::now();
    let (status, in_time) = loop {
        match child.try_wait().map_err(|e| format!("{shown}: {e}"))? {
            Some(status) => break (status, true),
            None if started.elapsed() > limit => {
                let _ = child.kill();
                break (child.wait().map_err(|e| format!("{shown}: {e}"))?, false);
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let _ = writer.join();
    let text = |reader: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    let output = Output { command: shown, code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    if in_time { Ok(output) } else { Err(output.complaint(&format!("it did not end within {limit:?}"))) }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// The command as somebody would type it, without the long class path.
fn show(command: &Command) -> String {
    let name = |text: &std::ffi::OsStr| Path::new(text).file_name().unwrap_or(text).to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    let args: Vec<String> = args
        .filter(|arg| !arg.starts_with("-X") && !arg.starts_with("-D") && !arg.ends_with("/*") && arg != "-cp")
        .collect();
    format!("{} {}", name(command.get_program()), args.join(" "))
}

/// A process whose standard output is read while it runs, each line with the time it came.
pub struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    reader: Option<JoinHandle<()>>,
    command: String,
}

impl Follower {
    pub fn start(mut command: Command, stderr: &Path) -> Result<Follower, String> {
        let shown = show(&command);
        let errors = std::fs::File::create(stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|e| format!("{shown}: {e}"))?;
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                sink.lock().expect("no panic while it is held").push((Instant::now(), line));
            }
        });
        Ok(Follower { child, lines, reader: Some(reader), command: shown })
    }

    pub fn count(&self) -> usize {
        self.lines.lock().expect("no panic while it is held").len()
    }

    /// Waits for its end and hands out all lines.
    pub fn finish(mut self, limit: Duration) -> Result<Vec<(Instant, String)>, String> {
        let started = Instant::now();
        while self.child.try_wait().map_err(|e| e.to_string())?.is_none() {
            if started.elapsed() > limit {
                return Err(format!("{}: did not end within {limit:?}, {} lines came", self.command, self.count()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(std::mem::take(&mut *self.lines.lock().expect("no panic while it is held")))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that answers one line at a time: with lines that begin with "| ", and then "ok" or "failed: why".
pub struct Dialogue {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Dialogue {
    pub fn start(mut command: Command, stderr: &Path) -> Result<Dialogue, String> {
        let shown = show(&command);
        let errors = std::fs::File::create(stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|e| format!("{shown}: {e}"))?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Dialogue { child, stdin, lines })
    }

    /// The answer's lines.
    pub fn ask(&mut self, question: &str, limit: Duration) -> Result<String, String> {
        writeln!(self.stdin, "{question}").map_err(|e| format!("{question}: {e}"))?;
        let end = Instant::now() + limit;
        let mut answer = String::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|e| format!("{question}: no answer: {e}"))?;
            if let Some(text) = line.strip_prefix("| ") {
                answer.push_str(text);
                answer.push('\n');
            } else if line == "ok" {
                return Ok(answer);
            } else if let Some(why) = line.strip_prefix("failed: ") {
                return Err(format!("{question}: {why}"));
            }
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! How a second terminal talks to the process that runs the cluster: one line over a Unix socket, lines back; the
//! first says `ok` or `error`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::place::Place;

/// A command is a word and a number.
const COMMAND_BYTES_MAX: u64 = 100;
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// A restart waits for the node to stop, a stop for all of them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub fn is_running(place: &Place) -> bool {
    UnixStream::connect(place.socket()).is_ok()
}

/// Asks and returns the lines of the answer.
pub fn query(place: &Place, command: &str) -> Result<Vec<String>, String> {
    let none = || {
        format!(
            "no cluster runs in {}; start one with zwirn dev, or name its directory with --dir",
            place.dir.display()
        )
    };
    let mut stream = UnixStream::connect(place.socket()).map_err(|_| none())?;
    let lost = |error: std::io::Error| format!("the running cluster does not answer: {error}");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(lost)?;
    stream.write_all(format!("{command}\n").as_bytes()).map_err(lost)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(lost)?;
    let mut lines = text.lines().map(str::to_owned);
    match lines.next().as_deref() {
        Some("ok") => Ok(lines.collect()),
        Some("error") => Err(lines.collect::<Vec<_>>().join(" ")),
        _ => Err("the running cluster went away without an answer".to_owned()),
    }
}

/// Asks and prints the answer.
pub fn ask(place: &Place, command: &str) -> Result<(), String> {
    for line in query(place, command)? {
        println!("{line}");
    }
    Ok(())
}

/// The supervisor's side.
pub struct Door {
    listener: UnixListener,
    place: Place,
}

/// Who asked; the answer closes the connection.
pub struct Asked {
    pub command: String,
    stream: UnixStream,
}

impl Door {
    pub fn open(place: &Place) -> Result<Door, String> {
        if is_running(place) {
            return Err(format!("a cluster runs in {} already; zwirn dev status shows it", place.dir.display()));
        }
        // Left behind by one that was killed.
        let path = place.socket();
        let _ = std::fs::remove_file(&path);
        let bound = UnixListener::bind(&path).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener =
            bound.map_err(|error| format!("{} cannot be made: {error}; choose a shorter --dir", path.display()))?;
        Ok(Door { listener, place: place.clone() })
    }

    /// The next command, if someone has one.
    pub fn next(&self) -> Option<Asked> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(READ_TIMEOUT)).ok()?;
        let mut command = String::new();
        BufReader::new((&stream).take(COMMAND_BYTES_MAX)).read_line(&mut command).ok()?;
        Some(Asked { command: command.trim().to_owned(), stream })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.place.socket());
    }
}

impl Asked {
    /// Whoever asked may have gone; that changes nothing.
    pub fn answer(mut self, result: &Result<String, String>) {
        let text = match result {
            Ok(text) => format!("ok\n{text}\n"),
            Err(text) => format!("error\n{text}\n"),
        };
        let _ = self.stream.write_all(text.as_bytes());
    }
}

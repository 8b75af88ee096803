//! Stages of a run: each has a name, takes its time, and passes, fails or is left out for a reason. The table at the
//! end says all of that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What came of a stage that did not fail.
pub enum Outcome {
    Passed,
    /// Passed, with something worth a place in the table.
    Note(String),
    LeftOut(String),
}

struct Line {
    name: String,
    seconds: f64,
    result: Result<Outcome, String>,
}

pub struct Stages {
    pub root: PathBuf,
    /// If not empty, only these run.
    only: Vec<String>,
    lines: Vec<Line>,
}

impl Stages {
    pub fn new(root: &Path, only: Vec<String>) -> Self {
        Self { root: root.to_owned(), only, lines: Vec::new() }
    }

    /// Runs a stage. A failure does not stop the run: whoever reads the table wants to know all that is wrong.
    pub fn run(&mut self, name: &str, stage: impl FnOnce(&Path) -> Result<Outcome, String>) {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
            return;
        }
        println!("=== {name}");
        let start = Instant::now();
        let result = stage(&self.root);
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(Outcome::LeftOut(reason)) => println!("    left out: {reason}"),
            Ok(_) => println!("    passed in {seconds:.1} s"),
            Err(message) => println!("    FAILED in {seconds:.1} s: {message}"),
        }
        self.lines.push(Line { name: name.to_owned(), seconds, result });
    }

    /// Prints the table; `Err` if a stage failed or none was known by the names asked for.
    pub fn finish(self) -> Result<(), String> {
        println!("\n{:<28} {:>8}", "stage", "seconds");
        for line in &self.lines {
            let what = match &line.result {
                Ok(Outcome::Passed) => "passed".to_owned(),
                Ok(Outcome::Note(note)) => format!("passed: {note}"),
                Ok(Outcome::LeftOut(reason)) => format!("left out: {reason}"),
                Err(message) => format!("FAILED: {}", message.lines().next().unwrap_or_default()),
            };
            println!("{:<28} {:>8.1}  {what}", line.name, line.seconds);
        }
        let total: f64 = self.lines.iter().map(|line| line.seconds).sum();
        println!("{:<28} {total:>8.1}", "all");
        let failed: Vec<&str> =
            self.lines.iter().filter(|line| line.result.is_err()).map(|line| line.name.as_str()).collect();
        if !failed.is_empty() {
            return Err(format!("failed: {}", failed.join(", ")));
        }
        if self.lines.is_empty() {
            return Err(format!("no stage is called {}", self.only.join(", ")));
        }
        Ok(())
    }
}

/// Runs cargo in the repository; its output goes through.
pub fn cargo(root: &Path, args: &[&str]) -> Result<Outcome, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(args);
    run(command).map(|()| Outcome::Passed)
}

/// Runs a command to its end; an exit other than 0 is an error that names it.
pub fn run(mut command: Command) -> Result<(), String> {
    let shown = shown(&command);
    let status = command.status().map_err(|e| format!("cannot run {shown}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}")) }
}

/// As [`run`], with what the command wrote to its standard output.
pub fn output(mut command: Command) -> Result<String, String> {
    let shown = shown(&command);
    let output = command.output().map_err(|e| format!("cannot run {shown}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{shown}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program()).to_string_lossy();
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    format!("{program} {}", args.join(" "))
}

/// Whether a program can be found on the path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Where cargo puts what it builds.
pub fn target_dir(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

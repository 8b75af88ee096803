//! `cargo xtask clients`: real clients of many languages, unchanged, against three nodes of which one is killed in the
//! middle. The programs are in `tests/clients`; each plays the same ledger in its language's idiom (see the README
//! there), this side installs their clients, runs the cluster, kills and restarts its nodes, and prints the table.

mod install;
mod rows;
mod run;

use std::path::Path;
use std::time::Instant;

use crate::stages::Outcome;
use crate::stories::Env;
use install::Installed;
use rows::{ROWS, Row};
use run::{Run, Size};

/// Each program plays those that its client can.
const PARTS: &str = "ledger,consumer,shapes,admin,transactions,streams,connect";
/// What CI runs every time.
const EVERY_TIME: [&str; 3] = ["java", "librdkafka", "franz-go"];

const USAGE: &str = "\
usage: cargo xtask clients [--against zwirn|kafka] [--short] [--parts LIST] [NAME]...
  parts: ledger, consumer (the ledger with group.protocol=consumer), shapes, admin, transactions, streams, connect";

/// Whose brokers the clients talk to.
#[derive(Clone, Copy, PartialEq)]
pub enum Against {
    Zwirn,
    Kafka,
}

/// What came of one row.
struct Line<'a> {
    row: &'a Row,
    seconds: f64,
    result: Result<run::Report, Failure>,
}

#[derive(Clone)]
pub enum Failure {
    /// It cannot be had or run here.
    LeftOut(String),
    Failed(String),
}

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let mut against = Against::Zwirn;
    let mut size = Size::Long;
    let mut parts = None;
    let mut names = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--short" => size = Size::Short,
            "--against" => match rest.next() {
                Some(&"zwirn") => against = Against::Zwirn,
                Some(&"kafka") => against = Against::Kafka,
                _ => return Err(USAGE.to_owned()),
            },
            "--parts" => parts = Some(*rest.next().ok_or(USAGE)?),
            name if !name.starts_with('-') => names.push(name),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let rows = chosen(&names)?;
    let parts = parts.unwrap_or(PARTS);
    let lines = play(root, against, size, parts, &rows)?;
    print_table(&lines);
    match lines.iter().filter(|line| matches!(line.result, Err(Failure::Failed(_)))).count() {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} failed", lines.len())),
    }
}

/// As a stage of CI: the rows of [`EVERY_TIME`], in their short form.
pub fn stage(root: &Path) -> Result<Outcome, String> {
    let lines = play(root, Against::Zwirn, Size::Short, PARTS, &chosen(&EVERY_TIME)?)?;
    print_table(&lines);
    let said: Vec<String> = lines.iter().map(Line::in_short).collect();
    let said = said.join("; ");
    if lines.iter().any(|line| matches!(line.result, Err(Failure::Failed(_)))) {
        return Err(said);
    }
    let all_left_out = lines.iter().all(|line| line.result.is_err());
    Ok(if all_left_out { Outcome::LeftOut(said) } else { Outcome::Note(said) })
}

fn chosen(names: &[&str]) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("no client is called {unknown}; there are {}\n{USAGE}", known.join(", ")));
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.contains(&row.name)).collect())
}

fn play<'a>(root: &Path, against: Against, size: Size, parts: &str, rows: &[&'a Row]) -> Result<Vec<Line<'a>>, String> {
    let env = Env::new(root)?;
    // All are installed before the cluster starts: its nodes have nothing to wait for then.
    let installed: Vec<Result<Installed, Failure>> = rows.iter().map(|row| row.install(root, &env)).collect();
    let mut run = None;
    let mut lines = Vec::new();
    for (row, installed) in rows.iter().zip(installed) {
        let started = Instant::now();
        let result = installed.and_then(|installed| {
            let parts = row.parts(parts)?;
            // No cluster for nobody.
            let run = match &mut run {
                Some(run) => run,
                none => none.insert(Run::start(&env, against, size).map_err(Failure::Failed)?),
            };
            run.play(row, &installed, &parts).map_err(Failure::Failed)
        });
        let line = Line { row, seconds: started.elapsed().as_secs_f64(), result };
        match &line.result {
            Err(Failure::Failed(why)) => println!("    {}: FAILED: {why}", row.name),
            _ => println!("    {}", line.in_short()),
        }
        lines.push(line);
    }
    if lines.iter().all(|line| !matches!(line.result, Err(Failure::Failed(_)))) {
        run.into_iter().for_each(Run::done);
    }
    Ok(lines)
}

impl Line<'_> {
    fn in_short(&self) -> String {
        let name = self.row.name;
        match &self.result {
            Ok(report) => format!("{name} {}: silent for {} ms at most", report.version, report.silence.as_millis()),
            Err(Failure::LeftOut(why)) => format!("{name}: left out: {why}"),
            Err(Failure::Failed(why)) => format!("{name}: FAILED: {}", why.lines().next().unwrap_or_default()),
        }
    }
}

fn print_table(lines: &[Line<'_>]) {
    println!("\n{:<14} {:<10} {:>7} {:>8} {:>9}  what passed", "client", "version", "seconds", "records", "silent ms");
    for line in lines {
        let name = line.row.name;
        match &line.result {
            Ok(report) => {
                let silence = report.silence.as_millis();
                println!(
                    "{name:<14} {:<10} {:>7.1} {:>8} {silence:>9}  {}",
                    report.version, line.seconds, report.records, report.checked
                );
                for why in &report.left_out {
                    println!("{:<52}  left out: {why}", "");
                }
            }
            Err(Failure::LeftOut(why)) => println!("{name:<14} {:<10} left out: {why}", ""),
            Err(Failure::Failed(why)) => {
                println!(
                    "{name:<14} {:<10} {:>7.1} FAILED: {}",
                    "",
                    line.seconds,
                    why.lines().next().unwrap_or_default()
                );
            }
        }
    }
}

//! `cargo xtask fuzz`: the targets of crates/fuzzing under libFuzzer. What it finds is made as small as possible and
//! kept in `fuzz/regressions`, from where a test of crates/fuzzing replays it with any toolchain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stages::{Outcome, has_program, output, run as run_command};

/// Mutated inputs for each target in CI, which takes about a minute. libFuzzer finds more, but cargo-fuzz and a
/// nightly build of everything cost more time than all of that.
const CI_INPUTS: &str = "1500";
/// No input of a few kilobytes takes a second, not even in a build that checks everything.
const TIMEOUT_SECONDS: u32 = 20;
const MEMORY_MB: u32 = 4096;
const SMALLER_RUNS: u32 = 20_000;

pub fn stage(root: &Path) -> Result<Outcome, String> {
    // A child of its own, since the number is handed over in the environment.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("FUZZ_INPUTS", CI_INPUTS);
    command.args(["test", "--quiet", "-p", "fuzzing"]);
    run_command(command)?;
    Ok(Outcome::Note(format!("{CI_INPUTS} mutated inputs for each target")))
}

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let usage = || "usage: cargo xtask fuzz [TARGET]... [--seconds N]".to_owned();
    let mut seconds = "60";
    let mut wanted = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--seconds" => seconds = rest.next().copied().filter(|n| n.parse::<u32>().is_ok()).ok_or_else(usage)?,
            target if !target.starts_with('-') => wanted.push(target.to_owned()),
            _ => return Err(usage()),
        }
    }
    if !has_program("cargo-fuzz") {
        return Err("cargo-fuzz is not installed (cargo install --locked cargo-fuzz)".to_owned());
    }
    let mut list = Command::new("cargo");
    list.current_dir(root).args(["+nightly", "fuzz", "list"]);
    let list =
        output(list).map_err(|e| format!("{e}\nlibFuzzer needs a nightly toolchain: rustup toolchain add nightly"))?;
    let targets: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !targets.contains(&name.as_str())) {
        return Err(format!("there is no target {unknown}; there are {}", targets.join(", ")));
    }
    let mut failed = Vec::new();
    for target in targets.iter().filter(|target| wanted.is_empty() || wanted.iter().any(|name| name == *target)) {
        println!("=== {target}");
        let before = artifacts(root, target);
        let corpus = root.join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).map_err(|e| format!("{}: {e}", corpus.display()))?;
        let mut fuzz = fuzz_command(root, &["run", target]);
        fuzz.env("FUZZ_SEEDS", &corpus);
        fuzz.args(["--", &format!("-max_total_time={seconds}"), &format!("-timeout={TIMEOUT_SECONDS}")]);
        fuzz.args([&format!("-rss_limit_mb={MEMORY_MB}"), "-print_final_stats=1", "-verbosity=0"]);
        if let Err(error) = run_command(fuzz) {
            println!("{error}");
            failed.push((*target).to_owned());
            for artifact in artifacts(root, target).iter().filter(|path| !before.contains(path)) {
                keep(root, target, artifact)?;
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}; see fuzz/regressions", failed.join(", "))) }
}

/// Nothing of ours is unsafe: without a sanitizer more inputs are tried.
fn fuzz_command(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["+nightly", "fuzz", args[0], "--sanitizer", "none", "--debug-assertions"]);
    command.args(&args[1..]);
    command
}

fn artifacts(root: &Path, target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("fuzz/artifacts").join(target)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.display().to_string().contains("minimized")).collect()
}

/// The smallest input that still fails goes to the regressions; if none is found, the one that was.
fn keep(root: &Path, target: &str, artifact: &Path) -> Result<(), String> {
    let before = all_in(artifact.parent().unwrap_or(root));
    let mut shrink = fuzz_command(root, &["tmin", target]);
    shrink.arg("--runs").arg(SMALLER_RUNS.to_string()).arg(artifact);
    // It ends with an error as soon as nothing smaller is found.
    let _ = run_command(shrink);
    let mut made: Vec<PathBuf> = all_in(artifact.parent().unwrap_or(root));
    made.retain(|path| !before.contains(path));
    made.sort_by_key(|path| fs::metadata(path).map_or(u64::MAX, |meta| meta.len()));
    let smallest = made.first().map_or(artifact, PathBuf::as_path);
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take("crash-".len() + 12).collect();
    let to = root.join("fuzz/regressions").join(target);
    fs::create_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
    let to = to.join(name);
    fs::copy(smallest, &to).map_err(|e| format!("{}: {e}", to.display()))?;
    println!("kept as {}", to.display());
    Ok(())
}

fn all_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

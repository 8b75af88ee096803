//! `zwirn dev` as somebody uses it who has just heard of it, from two terminals.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{Output, finish};
use super::{Env, expect, wait_until, wire};

/// The first of three ports a hundred apart, each with the next one for controllers, that are free now.
fn free_base() -> Result<u16, String> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut candidates = (21_092..60_000u16).step_by(307).skip(std::process::id() as usize % 50);
    let all = |base: &u16| (0..3).all(|i| is_free(base + 100 * i) && is_free(base + 100 * i + 1));
    candidates.find(all).ok_or_else(|| "no six free ports".to_owned())
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let dir = env.stories.join(format!("dev-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let base = free_base()?;
    let port = base.to_string();
    let log = fs::File::create(dir.join("dev.log")).map_err(|e| e.to_string())?;
    let errors = log.try_clone().map_err(|e| e.to_string())?;
    let mut command = Command::new(&env.binary);
    command.args(["dev", "--port", &port]).current_dir(&dir).stdin(Stdio::null()).stdout(log).stderr(errors);
    let started = Instant::now();
    let mut first = command.spawn().map_err(|e| format!("zwirn dev: {e}"))?;
    let told = second_terminal(env, &dir, base, started, notes);
    // Ctrl-C in the first terminal, if it is still there; whatever happened, nothing stays behind.
    let _ = Command::new("kill").arg("-INT").arg(first.id().to_string()).stderr(Stdio::null()).status();
    let ended = wait_until(Duration::from_secs(20), "zwirn dev to end", || {
        let status = first.try_wait().map_err(|e| e.to_string())?.ok_or("it still runs")?;
        expect(status.success(), || format!("it ended with {status}"))
    });
    let _ = first.kill();
    let _ = first.wait();
    let text = fs::read_to_string(dir.join("dev.log")).unwrap_or_default();
    told.and(ended.map(drop)).map_err(|why| format!("{why}\n  zwirn dev said: {text}"))?;
    expect(text.contains(&format!("localhost:{base},")), || format!("no bootstrap list in {text}"))?;
    wait_until(Duration::from_secs(5), "the nodes to be gone", || {
        let open = (0..3).find(|i| wire::connect(base + 100 * i).is_ok());
        expect(open.is_none(), || format!("somebody still listens on {:?}", open.map(|i| base + 100 * i)))
    })?;
    let _ = fs::remove_dir_all(&dir);
    Ok(())
}

fn second_terminal(
    env: &Env,
    dir: &std::path::Path,
    base: u16,
    started: Instant,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let dev = |line: &str| -> Result<Output, String> {
        let mut command = Command::new(&env.binary);
        command.arg("dev").args(line.split_whitespace()).current_dir(dir);
        finish(command, "", Duration::from_secs(30))
    };
    let see = |count: usize, asked: u16| {
        wait_until(Duration::from_secs(20), &format!("{count} brokers"), || {
            let brokers = wire::metadata(asked, "dev")?.brokers;
            expect(brokers.len() == count, || format!("there are {brokers:?}"))
        })
    };
    see(3, base)?;
    notes.push(format!("ready {} ms after the start", started.elapsed().as_millis()));
    wait_until(Duration::from_secs(5), "zwirn dev status", || dev("status")?.good().map(drop))?;
    let servers = format!("127.0.0.1:{base},127.0.0.1:{},127.0.0.1:{}", base + 100, base + 200);
    let create = format!("topics --bootstrap-server {servers} --create --topic dev --replication-factor 3");
    env.line(&create)?.good()?;
    dev("kill 2")?.good()?;
    see(2, base)?;
    dev("restart 2")?.good()?;
    see(3, base)?;
    dev("pause 3")?.good()?;
    dev("resume 3")?.good()?;
    see(3, base + 200)?;
    let again = dev(&format!("--port {base}"))?;
    expect(again.code != Some(0), || again.complaint("a second cluster on the same ports should be refused"))?;
    dev("stop")?.good()?;
    notes.push("status, kill, restart, pause, resume, stop".to_owned());
    Ok(())
}

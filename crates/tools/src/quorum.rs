//! `kafka-metadata-quorum`: who votes on the cluster's metadata, who leads, how far each has come.

use crate::argparse::{Command, Parsed, Program, flag, required, value};
use crate::client::{Client, Quorum, QuorumMember, Settings};
use crate::props::Props;
use crate::quorum_voters;
use crate::terminal::{Terminal, wall_ms};

const PROGRAM: Program = Program {
    name: "metadata-quorum",
    about: "Shows the quorum of controllers, leader, voters, observers and how far each has come, and changes its voters.",
    examples: &[
        "zwirn metadata-quorum --bootstrap-server localhost:9092 describe --status",
        "zwirn metadata-quorum --bootstrap-controller localhost:9093 describe --replication --human-readable",
        "zwirn metadata-quorum --bootstrap-server localhost:9092 --command-config server-4.properties add-controller",
        "zwirn metadata-quorum --bootstrap-server localhost:9092 remove-controller -i 4 -d M0_d6kXpTzqjJ1XHWxU1jA",
    ],
    options: &[
        value("bootstrap-server", "", "Brokers to start from."),
        value("bootstrap-controller", "", "Controllers to start from, instead of brokers."),
        value("command-config", "", "Properties file for the client; for add-controller that of the new controller."),
    ],
    commands: &[
        Command {
            name: "describe",
            about: "Show the quorum's status, or the progress of each of its members.",
            options: &[
                flag("status", "", "Leader, epoch, high watermark, lag, members."),
                flag("replication", "", "A table with each member's log end and lag."),
                flag("human-readable", "", "With --replication: how long ago, rather than milliseconds since 1970."),
            ],
            exclusive: &[],
        },
        Command {
            name: "add-controller",
            about: "Make a controller that runs and follows the quorum one of its voters.",
            options: &[flag("dry-run", "", "Only show what would be done.")],
            exclusive: &[],
        },
        Command {
            name: "remove-controller",
            about: "Take a controller out of the voters; it may be gone for good.",
            options: &[
                required("controller-id", "-i", "The controller's node.id."),
                required("controller-directory-id", "-d", "Its directory id, as describe --replication shows it."),
                flag("dry-run", "", "Only show what would be done."),
            ],
            exclusive: &[],
        },
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    if parsed.has("bootstrap-server") == parsed.has("bootstrap-controller") {
        let message = "one of the arguments --bootstrap-server --bootstrap-controller is required, and only one";
        return PROGRAM.refuse(args, message, terminal);
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    match parsed.command {
        "add-controller" => return quorum_voters::add(&mut connect(parsed)?, parsed, terminal),
        "remove-controller" => return quorum_voters::remove(&mut connect(parsed)?, parsed, terminal),
        _ => {}
    }
    match (parsed.has("status"), parsed.has("replication")) {
        (true, true) => {
            return Err(
                "Only one of --status or --replication should be specified with describe sub-command".to_owned()
            );
        }
        (false, false) => {
            return Err("One of --status or --replication must be specified with describe sub-command".to_owned());
        }
        (true, false) if parsed.has("human-readable") => {
            return Err("The option --human-readable is only supported along with --replication".to_owned());
        }
        _ => {}
    }
    let mut client = connect(parsed)?;
    let quorum = client.describe_quorum().map_err(|error| error.exception())?;
    let text = if parsed.has("status") {
        let cluster = client.describe_cluster(false).map_err(|error| error.exception())?;
        status(&quorum, &cluster.id)
    } else {
        let now = parsed.has("human-readable").then(wall_ms);
        replication(&quorum, now)
    };
    let _ = terminal.out.write_all(text.as_bytes());
    Ok(())
}

/// A client for brokers or controllers, as the options say.
pub fn connect(parsed: &Parsed) -> Result<Client, String> {
    let props = match parsed.get("command-config").or(parsed.get("config")) {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    let controllers = parsed.has("bootstrap-controller");
    let bootstrap = parsed.get("bootstrap-controller").or(parsed.get("bootstrap-server")).unwrap_or_default();
    let mut settings = Settings::admin(bootstrap, &props).map_err(|error| error.to_string())?;
    settings.controllers = controllers;
    Ok(Client::new(settings))
}

fn status(quorum: &Quorum, cluster_id: &str) -> String {
    let leader = quorum.voters.iter().find(|voter| voter.id == quorum.leader);
    let slowest = quorum.voters.iter().min_by_key(|voter| voter.log_end_offset);
    let (lag, lag_ms) = match (leader, slowest) {
        (Some(leader), Some(slowest)) => {
            let ms = match (leader.last_caught_up_ms, slowest.last_caught_up_ms) {
                _ if leader.id == slowest.id => 0,
                (..0, _) | (_, ..0) => -1,
                (leader, slowest) => leader - slowest,
            };
            (leader.log_end_offset - slowest.log_end_offset, ms)
        }
        _ => (-1, -1),
    };
    format!(
        "ClusterId:              {cluster_id}\nLeaderId:               {}\nLeaderEpoch:            {}\n\
         HighWatermark:          {}\nMaxFollowerLag:         {lag}\nMaxFollowerLagTimeMs:   {lag_ms}\n\
         CurrentVoters:          {}\nCurrentObservers:       {}\n",
        quorum.leader,
        quorum.leader_epoch,
        quorum.high_watermark,
        members(&quorum.voters),
        members(&quorum.observers)
    )
}

fn members(members: &[QuorumMember]) -> String {
    let one = |member: &QuorumMember| {
        let mut fields = vec![format!("\"id\": {}", member.id)];
        if !member.directory_id.is_zero() {
            fields.push(format!("\"directoryId\": \"{}\"", member.directory_id));
        }
        if !member.endpoints.is_empty() {
            let quoted: Vec<String> = member.endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
            fields.push(format!("\"endpoints\": [{}]", quoted.join(", ")));
        }
        format!("{{{}}}", fields.join(", "))
    };
    format!("[{}]", members.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// `now_ms`: show times as how long ago.
fn replication(quorum: &Quorum, now_ms: Option<i64>) -> String {
    let (leaders, followers): (Vec<_>, Vec<_>) = quorum.voters.iter().partition(|voter| voter.id == quorum.leader);
    let leader_end = leaders.first().map_or(0, |leader| leader.log_end_offset);
    let time = |ms: i64| match now_ms {
        Some(now) if ms >= 0 => format!("{} ms ago", now - ms),
        _ => ms.to_string(),
    };
    let row = |member: &QuorumMember, status: &str| {
        vec![
            member.id.to_string(),
            member.directory_id.to_string(),
            member.log_end_offset.to_string(),
            (leader_end - member.log_end_offset).to_string(),
            time(member.last_fetch_ms),
            time(member.last_caught_up_ms),
            status.to_owned(),
        ]
    };
    let mut rows = Vec::new();
    rows.extend(leaders.iter().map(|member| row(member, "Leader")));
    rows.extend(followers.iter().map(|member| row(member, "Follower")));
    rows.extend(quorum.observers.iter().map(|member| row(member, "Observer")));
    let headers =
        ["NodeId", "DirectoryId", "LogEndOffset", "Lag", "LastFetchTimestamp", "LastCaughtUpTimestamp", "Status"];
    table(&headers, &rows)
}

/// Cells padded to the width of their column, each followed by a tab.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let mut out = String::new();
    for row in all {
        for (cell, width) in row.iter().zip(&widths) {
            out.push_str(&format!("{cell:<width$}\t"));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::wire::Uuid;

    fn member(id: i32, end: i64, ms: i64) -> QuorumMember {
        QuorumMember {
            id,
            directory_id: Uuid::ZERO,
            log_end_offset: end,
            last_fetch_ms: ms,
            last_caught_up_ms: ms,
            endpoints: vec![format!("CONTROLLER://127.0.0.1:1929{}", id + 3)],
        }
    }

    #[test]
    fn as_recorded() {
        let voters = vec![
            member(1, 2319, 1_795_410_883_387),
            member(2, 2319, 1_795_410_883_393),
            member(3, 2319, 1_795_410_883_648),
        ];
        let quorum = Quorum { leader: 3, leader_epoch: 1, high_watermark: 2319, voters, observers: vec![] };
        assert!(include_str!("../tests/golden/quorum-replication.txt").contains(&replication(&quorum, None)));
        let voters = vec![member(1, 2313, 1_000), member(2, 2313, 1_100), member(3, 2313, 1_435)];
        let quorum = Quorum { leader: 3, leader_epoch: 1, high_watermark: 2313, voters, observers: vec![] };
        let text = status(&quorum, "Z29sZGVuLWthZmthLTQzMQ");
        assert!(include_str!("../tests/golden/quorum-status.txt").contains(&text), "{text}");
    }
}

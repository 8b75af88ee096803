//! Garbage on hundreds of connections, while others are served as if nothing happened.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::{Env, expect, wire};

const OFFENDERS_PER_KIND: usize = 60;
/// Far above what a node needs at rest, far below what the announced frames would take.
const RESIDENT_MB_MAX: u64 = 400;

/// What an offender sends; then it keeps its connection open and says no more.
fn offences() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |length: i32, body: &[u8]| [&length.to_be_bytes()[..], body].concat();
    let header = |api: i16, version: i16| {
        [&api.to_be_bytes()[..], &version.to_be_bytes(), &1i32.to_be_bytes(), &(-1i16).to_be_bytes()].concat()
    };
    let mut noise = Vec::new();
    let mut x: u32 = 12_345;
    for _ in 0..4_096 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((x >> 24) as u8);
    }
    let whole = |body: &[u8]| frame(body.len() as i32, body);
    vec![
        ("noise", noise.clone()),
        ("text", b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n".to_vec()),
        ("negative length", frame(-1, b"")),
        ("length above the limit", frame(i32::MAX, &[0; 100])),
        ("50 MB announced, 1 KB sent", frame(50_000_000, &[0; 1024])),
        ("half a length", vec![0, 0]),
        ("half a header", frame(100, &header(18, 3)[..5])),
        ("an empty frame", frame(0, b"")),
        ("an unknown API", whole(&header(9_999, 0))),
        ("an unknown version", whole(&header(1, 99))),
        ("a Produce request of noise", whole(&[&header(0, 9)[..], &[0], &noise].concat())),
        ("a Fetch request of noise", whole(&[&header(1, 12)[..], &[0], &noise].concat())),
        ("a huge array", whole(&[&header(3, 4)[..], &i32::MAX.to_be_bytes()].concat())),
        ("a controller's request", whole(&[&header(62, 4)[..], &[0], &noise].concat())),
    ]
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::start(env, "bad-input", "")?;
    let servers = cluster.bootstrap();
    let create = [
        "topics",
        "--bootstrap-server",
        &servers,
        "--create",
        "--topic",
        "served",
        "--partitions",
        "1",
        "--replication-factor",
        "3",
    ];
    env.zwirn(&create)?.good()?;
    cluster.wait_for_isr("served", 3, Duration::from_secs(10))?;
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.port).collect();
    let mut open: Vec<TcpStream> = Vec::new();
    let mut slowest = Duration::ZERO;
    for (kind, bytes) in offences() {
        for i in 0..OFFENDERS_PER_KIND {
            let mut stream = wire::connect(ports[i % ports.len()]).map_err(|e| format!("{kind}: {e}"))?;
            // Whoever is cut off while still writing has got what it deserves.
            let _ = stream.write_all(&bytes);
            open.push(stream);
        }
        let asked = Instant::now();
        for port in &ports {
            let brokers = wire::metadata(*port, "served").map_err(|e| format!("after {kind}: {e}"))?.brokers;
            expect(brokers.len() == 3, || format!("after {kind}: port {port} sees brokers {brokers:?}"))?;
        }
        slowest = slowest.max(asked.elapsed());
    }
    notes.push(format!(
        "{} offenders connected; slowest three metadata requests {} ms",
        open.len(),
        slowest.as_millis()
    ));
    expect(slowest < Duration::from_secs(2), || format!("others waited {slowest:?}"))?;
    for round in 0..3 {
        let produce = ["console-producer", "--bootstrap-server", &servers, "--topic", "served", "--sync"];
        env.zwirn_with_input(&produce, &format!("message {round}\n"))?.good()?;
    }
    let consume = [
        "console-consumer",
        "--bootstrap-server",
        &servers,
        "--topic",
        "served",
        "--partition",
        "0",
        "--offset",
        "earliest",
        "--max-messages",
        "3",
    ];
    env.zwirn(&consume)?.good()?.stdout_is("message 0\nmessage 1\nmessage 2\n")?;
    expect(cluster.running().len() == 3, || "a node died of it".to_owned())?;
    let resident: Vec<u64> = (1..=3).filter_map(|id| cluster.resident_mb(id)).collect();
    notes.push(format!("resident memory {resident:?} MB"));
    if env.binary.file_name().is_some_and(|name| name == "zwirn") {
        expect(resident.iter().all(|mb| *mb < RESIDENT_MB_MAX), || format!("{resident:?} MB are held for offenders"))?;
    }
    notes.push(format!("{} offenders were cut off", open.iter_mut().filter_map(is_closed).count()));
    drop(open);
    cluster.done();
    Ok(())
}

fn is_closed(stream: &mut TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_millis(1))).ok()?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Some(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return None,
            Err(_) => return Some(()),
        }
    }
}

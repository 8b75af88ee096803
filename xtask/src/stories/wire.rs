//! Just enough of Kafka's protocol, by hand: the stories must not trust the code that they test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Metadata {
    pub brokers: Vec<i32>,
    pub partitions: Vec<Partition>,
}

pub struct Partition {
    pub index: i32,
    pub leader: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

/// Metadata, version 4, of one topic that is not to be created by asking.
pub fn metadata(port: u16, topic: &str) -> Result<Metadata, String> {
    let mut body = Vec::new();
    body.extend(1i32.to_be_bytes());
    string(&mut body, topic);
    body.push(0);
    let answer = request(port, 3, 4, &body)?;
    let mut r = Reader { bytes: &answer };
    r.i32()?;
    let mut brokers = Vec::new();
    for _ in 0..r.i32()? {
        brokers.push(r.i32()?);
        r.string()?;
        r.i32()?;
        r.string()?;
    }
    r.string()?;
    r.i32()?;
    let mut partitions = Vec::new();
    for _ in 0..r.i32()? {
        r.take(2)?;
        r.string()?;
        r.take(1)?;
        for _ in 0..r.i32()? {
            r.take(2)?;
            let (index, leader) = (r.i32()?, r.i32()?);
            partitions.push(Partition { index, leader, replicas: r.ids()?, isr: r.ids()? });
        }
    }
    partitions.sort_by_key(|p| p.index);
    Ok(Metadata { brokers, partitions })
}

/// Produce, version 8, acks=all, of one batch to partition 0: error code and base offset.
pub fn produce(port: u16, topic: &str, records: &[u8]) -> Result<(i16, i64), String> {
    let mut body = Vec::new();
    body.extend((-1i16).to_be_bytes());
    body.extend((-1i16).to_be_bytes());
    body.extend(5_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    string(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend((records.len() as i32).to_be_bytes());
    body.extend(records);
    let answer = request(port, 0, 8, &body)?;
    let mut r = Reader { bytes: &answer };
    r.i32()?;
    r.string()?;
    r.i32()?;
    r.i32()?;
    let error = i16::from_be_bytes(r.take(2)?.try_into().expect("two bytes"));
    let offset = i64::from_be_bytes(r.take(8)?.try_into().expect("eight bytes"));
    Ok((error, offset))
}

/// The body of the answer to one request with a header of version 1.
pub fn request(port: u16, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = connect(port)?;
    let mut frame = Vec::new();
    frame.extend(api.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7i32.to_be_bytes());
    string(&mut frame, "stories");
    frame.extend(body);
    let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
    bytes.extend(frame);
    stream.write_all(&bytes).map_err(|e| format!("port {port}: {e}"))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(|e| format!("port {port}: {e}"))?;
    let length = i32::from_be_bytes(length);
    if !(4..=10_000_000).contains(&length) {
        return Err(format!("port {port}: an answer of {length} bytes"));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).map_err(|e| format!("port {port}: {e}"))?;
    if answer[..4] != 7i32.to_be_bytes() {
        return Err(format!("port {port}: the answer is to another request"));
    }
    Ok(answer.split_off(4))
}

pub fn connect(port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|e| format!("port {port}: {e}"))?;
    let limit = Some(Duration::from_secs(5));
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.bytes.split_at_checked(n).ok_or("the answer ends early")?;
        self.bytes = tail;
        Ok(head)
    }

    fn i32(&mut self) -> Result<i32, String> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn string(&mut self) -> Result<(), String> {
        let length = i16::from_be_bytes(self.take(2)?.try_into().expect("two bytes"));
        self.take(length.max(0) as usize).map(|_| ())
    }

    fn ids(&mut self) -> Result<Vec<i32>, String> {
        (0..self.i32()?).map(|_| self.i32()).collect()
    }
}

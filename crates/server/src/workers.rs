//! Threads for what may block: fsync, and the names of other nodes. Results come back through the loop's waker.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use broker::{FlushId, LinkId};
use mio::Waker;
use storage::FlushWork;

/// Disks take a few fsyncs at once well; more threads only wait for one another.
const THREADS: usize = 4;

pub enum Job {
    Flush { id: FlushId, work: FlushWork },
    Resolve { link: LinkId, host: String, port: u16 },
}

pub enum Done {
    Flushed { id: FlushId, result: io::Result<()> },
    Resolved { link: LinkId, addresses: io::Result<Vec<SocketAddr>> },
}

struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    wanted: Condvar,
    done: Mutex<Vec<Done>>,
    waker: Waker,
}

/// The threads end with the process: a flush that hangs must not keep the node from stopping.
pub struct Workers {
    shared: Arc<Shared>,
}

impl Workers {
    pub fn start(waker: Waker) -> io::Result<Workers> {
        let shared = Arc::new(Shared {
            jobs: Mutex::new(VecDeque::new()),
            wanted: Condvar::new(),
            done: Mutex::new(Vec::new()),
            waker,
        });
        for at in 0..THREADS {
            let shared = shared.clone();
            thread::Builder::new().name(format!("worker-{at}")).spawn(move || shared.work())?;
        }
        Ok(Workers { shared })
    }

    /// Waiting jobs are bounded by their makers: one flush per log, one dial per link.
    pub fn submit(&self, job: Job) {
        self.shared.jobs.lock().expect("no worker panics with the lock").push_back(job);
        self.shared.wanted.notify_one();
    }

    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.shared.done.lock().expect("no worker panics with the lock"))
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock().expect("no worker panics with the lock");
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => jobs = self.wanted.wait(jobs).expect("no worker panics with the lock"),
                }
            };
            drop(jobs);
            let done = match job {
                Job::Flush { id, work } => Done::Flushed { id, result: work.run() },
                Job::Resolve { link, host, port } => {
                    Done::Resolved { link, addresses: (host.as_str(), port).to_socket_addrs().map(Iterator::collect) }
                }
            };
            let mut all = self.done.lock().expect("no worker panics with the lock");
            let is_first = all.is_empty();
            all.push(done);
            drop(all);
            // One wake-up serves everything that comes before the loop looks.
            if is_first && self.waker.wake().is_err() {
                return;
            }
        }
    }
}

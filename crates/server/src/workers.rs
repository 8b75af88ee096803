//! Threads for what may block or take long: fsync, the names of other nodes, and compaction. Results come back through the loop's waker.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use broker::{CleanId, FlushId, LinkId};
use mio::Waker;
use storage::{CleanStep, CleanWork, FlushWork};

/// Disks take a few fsyncs at once well; more threads only wait for one another.
const FLUSHERS: usize = 4;
/// Apart from the flushers: a name server that does not answer must not hold up an fsync.
const RESOLVERS: usize = 2;

pub enum Job {
    Flush { id: FlushId, work: FlushWork },
    Clean { id: CleanId, work: Box<CleanWork>, bytes_per_second: f64 },
    Resolve { link: LinkId, host: String, port: u16 },
}

pub enum Done {
    Flushed { id: FlushId, result: io::Result<()> },
    Cleaned { id: CleanId, work: Box<CleanWork>, result: io::Result<CleanStep> },
    Resolved { link: LinkId, addresses: io::Result<Vec<SocketAddr>> },
}

/// The threads end with the process: a flush that hangs must not keep the node from stopping.
pub struct Workers {
    flushes: Arc<Queue>,
    names: Arc<Queue>,
    cleanings: Arc<Queue>,
    results: Arc<Results>,
    cleaners: usize,
}

/// Waiting jobs are bounded by their makers: one flush and one cleaning per log, one dial per link.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    wanted: Condvar,
}

struct Results {
    done: Mutex<Vec<Done>>,
    waker: Waker,
}

impl Workers {
    /// `cleaners` is `log.cleaner.threads`.
    pub fn start(waker: Waker, cleaners: usize) -> io::Result<Workers> {
        let results = Arc::new(Results { done: Mutex::new(Vec::new()), waker });
        let queue = Arc::<Queue>::default;
        let mut workers = Workers { flushes: queue(), names: queue(), cleanings: queue(), results, cleaners: 0 };
        for at in 0..FLUSHERS {
            workers.spawn(&workers.flushes, format!("flusher-{at}"))?;
        }
        for at in 0..RESOLVERS {
            workers.spawn(&workers.names, format!("resolver-{at}"))?;
        }
        workers.want_cleaners(cleaners)?;
        Ok(workers)
    }

    fn spawn(&self, queue: &Arc<Queue>, name: String) -> io::Result<()> {
        let (queue, results) = (queue.clone(), self.results.clone());
        let work = move || while results.put(queue.take().run()) {};
        thread::Builder::new().name(name).spawn(work).map(drop)
    }

    /// There are at least so many; who is too many waits for work that does not come.
    pub fn want_cleaners(&mut self, count: usize) -> io::Result<()> {
        while self.cleaners < count {
            self.spawn(&self.cleanings, format!("cleaner-{}", self.cleaners))?;
            self.cleaners += 1;
        }
        Ok(())
    }

    pub fn submit(&self, job: Job) {
        let queue = match job {
            Job::Flush { .. } => &self.flushes,
            Job::Resolve { .. } => &self.names,
            Job::Clean { .. } => &self.cleanings,
        };
        queue.jobs.lock().expect("no worker panics with the lock").push_back(job);
        queue.wanted.notify_one();
    }

    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.results.done.lock().expect("no worker panics with the lock"))
    }
}

impl Queue {
    fn take(&self) -> Job {
        let mut jobs = self.jobs.lock().expect("no worker panics with the lock");
        loop {
            match jobs.pop_front() {
                Some(job) => return job,
                None => jobs = self.wanted.wait(jobs).expect("no worker panics with the lock"),
            }
        }
    }
}

impl Job {
    fn run(self) -> Done {
        match self {
            Job::Flush { id, work } => Done::Flushed { id, result: work.run() },
            Job::Clean { id, mut work, bytes_per_second } => {
                let mut pace = Pace::new(bytes_per_second);
                let result = work.run(&mut |bytes| pace.spend(bytes));
                Done::Cleaned { id, work, result }
            }
            Job::Resolve { link, host, port } => {
                Done::Resolved { link, addresses: (host.as_str(), port).to_socket_addrs().map(Iterator::collect) }
            }
        }
    }
}

impl Results {
    /// Whether the loop is still there to take results.
    fn put(&self, done: Done) -> bool {
        let mut all = self.done.lock().expect("no worker panics with the lock");
        let is_first = all.is_empty();
        all.push(done);
        drop(all);
        // One wake-up serves everything that comes before the loop looks.
        !is_first || self.waker.wake().is_ok()
    }
}

/// Holds a step of the cleaner to `log.cleaner.io.max.bytes.per.second` on average.
struct Pace {
    bytes_per_second: f64,
    begun: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: f64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1.0), begun: Instant::now(), bytes: 0 }
    }

    fn spend(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = Duration::try_from_secs_f64(self.bytes as f64 / self.bytes_per_second).unwrap_or(Duration::ZERO);
        let early = due.saturating_sub(self.begun.elapsed());
        if !early.is_zero() {
            thread::sleep(early);
        }
    }
}

//! Where new replicas go (`StripedReplicaPlacer`): in stripes over racks and, inside a rack, over brokers, from random
//! starting points, leaders only on unfenced brokers, and followers on fenced ones only if a rack has no other.

use crate::image::MetadataImage;

/// A broker that may hold new replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsableBroker {
    pub id: i32,
    pub rack: Option<String>,
    pub fenced: bool,
}

pub struct Placer {
    /// Sorted by name; brokers without a rack are one rack.
    racks: Vec<Rack>,
    brokers: usize,
    unfenced: usize,
    /// How many partitions were placed since the lists were last shuffled.
    round: usize,
    /// The rack that the next partition starts at.
    start: usize,
}

struct Rack {
    name: Option<String>,
    fenced: Stripe,
    unfenced: Stripe,
}

/// Brokers in a ring. Each round starts one further.
#[derive(Default)]
struct Stripe {
    brokers: Vec<i32>,
    used: usize,
    start: usize,
    round: usize,
}

impl Stripe {
    fn begin(&mut self, rng: &mut fastrand::Rng) {
        self.brokers.sort_unstable();
        self.start = if self.brokers.is_empty() { 0 } else { rng.usize(..self.brokers.len()) };
    }

    /// The next broker that this round has not used, if there is one.
    fn next(&mut self, round: usize) -> Option<i32> {
        if self.brokers.is_empty() {
            return None;
        }
        if self.round != round {
            self.round = round;
            self.used = 0;
            self.start = (self.start + 1) % self.brokers.len();
        }
        if self.used >= self.brokers.len() {
            return None;
        }
        let broker = self.brokers[(self.start + self.used) % self.brokers.len()];
        self.used += 1;
        Some(broker)
    }
}

impl Placer {
    pub fn new(usable: Vec<UsableBroker>, rng: &mut fastrand::Rng) -> Self {
        let mut racks: Vec<Rack> = Vec::new();
        let brokers = usable.len();
        let unfenced = usable.iter().filter(|b| !b.fenced).count();
        for broker in usable {
            let at = racks.iter().position(|r| r.name == broker.rack).unwrap_or_else(|| {
                let rack = Rack { name: broker.rack.clone(), fenced: Stripe::default(), unfenced: Stripe::default() };
                racks.push(rack);
                racks.len() - 1
            });
            let stripe = if broker.fenced { &mut racks[at].fenced } else { &mut racks[at].unfenced };
            stripe.brokers.push(broker.id);
        }
        racks.sort_by(|a, b| a.name.cmp(&b.name));
        for rack in &mut racks {
            rack.fenced.begin(rng);
            rack.unfenced.begin(rng);
        }
        let start = if racks.is_empty() { 0 } else { rng.usize(..racks.len()) };
        Self { racks, brokers, unfenced, round: 0, start }
    }

    /// The reason why no partition can be placed, in Kafka's words: tools print them.
    pub fn refusal(&self, replication_factor: i32) -> Option<String> {
        if replication_factor <= 0 {
            return Some(format!(
                "Invalid replication factor {replication_factor}: the replication factor must be positive."
            ));
        }
        if self.unfenced == 0 {
            return Some("All brokers are currently fenced, or have all their log directories cordoned.".to_owned());
        }
        (replication_factor as usize > self.brokers).then(|| {
            format!(
                "The target replication factor of {replication_factor} cannot be reached because only {} broker(s) \
                 are registered or some brokers have all their log directories cordoned.",
                self.brokers
            )
        })
    }

    /// The replicas of the next partition, preferred leader first. [`Placer::refusal`] must have nothing against it.
    pub fn place(&mut self, replication_factor: usize, rng: &mut fastrand::Rng) -> Vec<i32> {
        assert!(replication_factor >= 1 && replication_factor <= self.brokers && self.unfenced > 0);
        // After as many partitions as there are unfenced brokers the same assignments would come again. With a single
        // one there is nothing to shuffle, and the round must go on so that its stripe is fresh.
        if self.round == self.unfenced && self.unfenced > 1 {
            self.shuffle(rng);
            self.round = 0;
        }
        let racks = self.racks.len();
        let first = (0..racks).map(|i| (self.start + i) % racks);
        let round = self.round;
        let (mut leader_rack, leader) = first
            .filter_map(|i| self.racks[i].unfenced.next(round).map(|broker| (Some(i), broker)))
            .next()
            .expect("an unfenced broker exists and each round begins with a fresh stripe");
        let mut replicas = vec![leader];
        let mut at = self.start;
        while replicas.len() < replication_factor {
            // The rack that gave the leader is passed over once: it has had its turn.
            if leader_rack == Some(at) {
                leader_rack = None;
            } else {
                let rack = &mut self.racks[at];
                replicas.extend(rack.unfenced.next(round).or_else(|| rack.fenced.next(round)));
            }
            at = (at + 1) % racks;
        }
        self.round += 1;
        self.start = (self.start + 1) % racks;
        replicas
    }

    fn shuffle(&mut self, rng: &mut fastrand::Rng) {
        rng.shuffle(&mut self.racks);
        for rack in &mut self.racks {
            for stripe in [&mut rack.fenced, &mut rack.unfenced] {
                rng.shuffle(&mut stripe.brokers);
                // Rounds start again at 0: a stripe last used in the old round 0 must not pass for used up.
                stripe.round = usize::MAX;
            }
        }
    }
}

/// Registered brokers that may take replicas: not shutting down, and with a directory that is not cordoned (KIP-1066).
pub(super) fn usable_brokers(image: &MetadataImage, is_shutting_down: impl Fn(i32) -> bool) -> Vec<UsableBroker> {
    let has_room = |b: &crate::image::BrokerRegistration| match &b.cordoned_log_dirs {
        Some(cordoned) if !b.log_dirs.is_empty() => b.log_dirs.iter().any(|d| !cordoned.contains(d)),
        _ => true,
    };
    let usable = image.brokers.values().filter(|b| !is_shutting_down(b.id) && has_room(b));
    usable.map(|b| UsableBroker { id: b.id, rack: b.rack.clone(), fenced: b.fenced }).collect()
}

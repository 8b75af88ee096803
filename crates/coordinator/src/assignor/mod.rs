//! Who shall own which partition of a consumer group (KIP-848): pure functions of members, subscriptions and what is
//! assigned already. As in Kafka 4.3 neither assignor looks at racks.

mod balance;
mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};

use protocol::wire::Uuid;

use crate::consumer::Partitions;

/// What an assignor is told of a member.
#[derive(Clone, Debug)]
pub struct MemberSpec<'a> {
    pub id: &'a str,
    pub instance: Option<&'a str>,
    /// Topics that exist.
    pub topics: BTreeSet<Uuid>,
    /// Its target so far.
    pub assigned: &'a Partitions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Balanced first, then as few moves as possible.
    Uniform,
    /// Neighbouring partitions of each topic, so that topics of the same size are assigned alike.
    Range,
}

impl Assignor {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// An assignment for every member. `counts` has every topic that a member subscribes to.
    pub fn assign(self, members: &[MemberSpec<'_>], counts: &BTreeMap<Uuid, i32>) -> BTreeMap<String, Partitions> {
        let alike = members.windows(2).all(|pair| match pair {
            [one, other] => one.topics == other.topics,
            _ => true,
        });
        let mut assigned = match self {
            Self::Range => range::assign(members, counts),
            Self::Uniform if alike => uniform::assign(members, counts),
            Self::Uniform => balance::assign(members, counts),
        };
        for member in members {
            assigned.entry(member.id.to_owned()).or_default();
        }
        assigned
    }
}

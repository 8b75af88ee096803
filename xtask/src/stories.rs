//! What a user does, with real processes: the stories of the README, with our own tools and with Apache Kafka's.
//!
//! Every stage says in the table what it left out and why, such as the tools of Kafka where there is no JDK.

use crate::stages::Stages;

/// Each story is a stage; add them here.
pub fn run(_stages: &mut Stages) {}

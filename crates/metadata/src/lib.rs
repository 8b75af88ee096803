//! The cluster's state and the controller that decides how it changes.

pub mod config;
pub mod controller;
pub mod features;
pub mod image;
pub mod quotas;
mod scram;
mod snapshot;

pub use controller::{Bootstrap, Controller, ControllerResult, ControllerSettings, INTACT_INCARNATIONS_TAG};
pub use features::MetadataVersion;
pub use image::{ConfigResource, MetadataDelta, MetadataImage, NO_LEADER, ReplayError};

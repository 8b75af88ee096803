//! `cargo xtask deny`: licences and advisories of what we depend on, by cargo-deny and `deny.toml`.

use std::path::Path;

use crate::stages::{Outcome, cargo, has_program};

pub fn run(root: &Path) -> Result<(), String> {
    match stage(root)? {
        Outcome::LeftOut(reason) => Err(reason),
        _ => Ok(()),
    }
}

pub fn stage(root: &Path) -> Result<Outcome, String> {
    if !has_program("cargo-deny") {
        return Ok(Outcome::LeftOut("cargo-deny is not installed (cargo install --locked cargo-deny)".to_owned()));
    }
    cargo(root, &["deny", "--log-level", "error", "check", "licenses", "advisories", "bans", "sources"])
}

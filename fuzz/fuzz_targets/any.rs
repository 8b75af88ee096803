//! Every target: the binary's name says which. With FUZZ_SEEDS it first writes the target's seeds into that directory.

#![no_main]

use std::sync::OnceLock;

use fuzzing::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn begin() {
    let program = std::env::args().next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    let target = fuzzing::find(name).unwrap_or_else(|| panic!("there is no target {name}"));
    let _ = TARGET.set(target);
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else { return };
    let dir = std::path::PathBuf::from(dir);
    std::fs::create_dir_all(&dir).expect("a directory for the seeds");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{number}")), seed).expect("a seed");
    }
}

libfuzzer_sys::fuzz_target!(init: begin(), |data: &[u8]| {
    (TARGET.get().expect("set at the start").run)(data);
});

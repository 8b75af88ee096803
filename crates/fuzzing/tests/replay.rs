//! The targets on inputs that once found something, on their seeds, and on mutations of these; with any toolchain.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzzing::{TARGETS, Target, mutate};

/// Mutated inputs for each target, unless `FUZZ_INPUTS` says how many.
const INPUTS: usize = 150;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs one input. One that fails is kept where nothing cleans up, and named.
fn try_one(target: &Target, input: &[u8], what: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if result.is_err() {
        let dir = repository().join("target/fuzz-failures");
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join(format!("{}-{}", target.name, what.replace(['/', ' '], "-")));
        std::fs::write(&path, input).expect("a file");
        panic!("{}: {what} fails; the input is {}", target.name, path.display());
    }
}

#[test]
fn what_once_failed_does_not_fail_again() {
    for target in TARGETS {
        let Ok(entries) = std::fs::read_dir(repository().join("fuzz/regressions").join(target.name)) else { continue };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        for path in paths {
            let input = std::fs::read(&path).expect("a regression");
            try_one(target, &input, &format!("regression {}", path.file_name().unwrap_or_default().display()));
        }
    }
}

#[test]
fn seeds_and_their_mutations_are_harmless() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let inputs = number("FUZZ_INPUTS").map_or(INPUTS, |n| n as usize);
    let only = std::env::var("FUZZ_TARGET").ok();
    for target in TARGETS.iter().filter(|t| only.as_deref().is_none_or(|only| only == t.name)) {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}: no seeds", target.name);
        let mut rng = fastrand::Rng::with_seed(number("FUZZ_SEED").unwrap_or(1));
        let step = seeds.len().div_ceil(inputs).max(1);
        for (i, seed) in seeds.iter().enumerate().step_by(step) {
            try_one(target, seed, &format!("seed {i}"));
        }
        for i in 0..inputs {
            let seed = rng.choice(&seeds).expect("seeds");
            let other = rng.choice(&seeds).expect("seeds");
            let input = mutate::mutated(&mut rng, seed, other);
            try_one(target, &input, &format!("mutation {i}"));
        }
    }
}

/// A bound that nothing can break would prove nothing.
#[test]
fn memory_beyond_its_bound_is_noticed() {
    let hog = fuzzing::Bound { anyway: 1000, per_byte: 1 };
    let kept = catch_unwind(|| hog.hold(10, || vec![0u8; 1000].len()));
    assert_eq!(kept.ok(), Some(1000));
    assert!(catch_unwind(|| hog.hold(10, || vec![0u8; 1011].len())).is_err());
}

//! Clients from their registries, in the versions that the lock files beside the programs name. What is there already
//! in these versions is taken as it is. A client that cannot be had is left out with the reason; a program of ours that
//! cannot be built has failed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use crate::stages::{self, has_program};

/// Without it the clients of Kafka complain that they cannot log.
pub const SLF4J: &str = "org.slf4j:slf4j-simple:1.7.36";

/// Warnings and worse.
const QUIET: &str = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn";

/// A program that is ready to run.
pub struct Installed {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub envs: Vec<(&'static str, OsString)>,
}

/// Compiles the sources; the first has `main`.
pub fn java(sources: &[PathBuf], libs: &Path, place: &Path) -> Result<Installed, Failure> {
    need("javac", "there is no JDK")?;
    let classes = place.join("classes");
    let mut javac = Command::new("javac");
    javac.arg("-nowarn").arg("-d").arg(&classes).arg("-cp").arg(libs.join("*")).args(sources);
    stages::output(javac).map_err(Failure::Failed)?;
    // Short lives: a quick start is worth more than fast code.
    let mut args: Vec<OsString> =
        ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m", QUIET, "-cp"].iter().map(OsString::from).collect();
    args.push(format!("{}:{}", classes.display(), libs.join("*").display()).into());
    args.extend(sources.first().and_then(|main| main.file_stem()).map(OsString::from));
    Ok(Installed { program: "java".into(), args, envs: Vec::new() })
}

/// Jars and what they need, from Maven Central.
pub fn jars(place: &Path, coordinates: &[&str]) -> Result<(), Failure> {
    need("java", "there is no JDK")?;
    once(place, &coordinates.join("\n"), || {
        if !has_program("mvn") {
            return Err("the jars are not here, and mvn is not on the path".to_owned());
        }
        let pom = place.join("pom.xml");
        fs::write(&pom, pom_text(coordinates)).map_err(|e| format!("{}: {e}", pom.display()))?;
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        mvn.arg(format!("-DoutputDirectory={}", place.join("libs").display()));
        stages::output(mvn).map(drop)
    })
}

fn pom_text(coordinates: &[&str]) -> String {
    let mut dependencies = String::new();
    for coordinate in coordinates {
        let mut parts = coordinate.split(':');
        let [group, artifact, version] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        dependencies += &format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        );
    }
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>zwirn</groupId><artifactId>client-jars</artifactId><version>1</version>\
         <dependencies>\n{dependencies}</dependencies></project>\n"
    )
}

/// `program` is without its extension.
pub fn python(program: &Path, place: &Path) -> Result<Installed, Failure> {
    need("python3", "there is no Python")?;
    let requirements = program.with_extension("txt");
    let venv = place.join("venv");
    once(place, &read(&requirements)?, || {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        stages::output(make)?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
        stages::output(pip).map(drop)
    })?;
    let args = vec!["-B".into(), program.with_extension("py").into_os_string()];
    Ok(Installed { program: venv.join("bin/python3"), args, envs: Vec::new() })
}

/// The go tool itself knows what has changed.
pub fn go(source: &Path, place: &Path) -> Result<Installed, Failure> {
    need("go", "there is no Go")?;
    let program = place.join("ledger");
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(source).env("GOTOOLCHAIN", "local");
        go
    };
    let mut download = go();
    download.args(["mod", "download"]);
    stages::output(download).map_err(Failure::LeftOut)?;
    let mut build = go();
    build.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".");
    stages::output(build).map_err(Failure::Failed)?;
    Ok(Installed { program, args: Vec::new(), envs: Vec::new() })
}

pub fn node(source: &Path, place: &Path) -> Result<Installed, Failure> {
    need("node", "there is no Node.js")?;
    need("npm", "there is no npm")?;
    once(place, &read(&source.join("package-lock.json"))?, || {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source.join(file), place.join(file)).map_err(|e| format!("{file}: {e}"))?;
        }
        let mut npm = Command::new("npm");
        npm.current_dir(place).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        stages::output(npm).map(drop)
    })?;
    let args = vec![source.join("ledger.js").into_os_string()];
    let modules = place.join("node_modules").into_os_string();
    Ok(Installed { program: "node".into(), args, envs: vec![("NODE_PATH", modules)] })
}

fn need(program: &str, why: &str) -> Result<(), Failure> {
    if has_program(program) {
        return Ok(());
    }
    Err(Failure::LeftOut(format!("{why} ({program} is not on the path)")))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
}

/// Installs into an empty directory, unless what is there was installed from the same lock to its end.
fn once(place: &Path, lock: &str, install: impl FnOnce() -> Result<(), String>) -> Result<(), Failure> {
    let stamp = place.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    println!("    installing into {}", place.display());
    let failed = |e: std::io::Error| Failure::Failed(format!("{}: {e}", place.display()));
    if place.exists() {
        fs::remove_dir_all(place).map_err(failed)?;
    }
    fs::create_dir_all(place).map_err(failed)?;
    install().map_err(Failure::LeftOut)?;
    fs::write(stamp, lock).map_err(failed)
}

//! `zwirn links DIR`: a link to this program under the name of each of Kafka's scripts that it stands for.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::TOOLS;
use crate::terminal::Terminal;

const HELP: &str = "\
zwirn links DIR [--force]

Makes links to this program in DIR, named as Kafka's scripts: kafka-topics.sh and kafka-topics, and so on for every
tool. Called through such a link the program is that tool.

  --force    replace what has such a name already
";

/// Of the node itself; the others are the tools' own.
const SERVER: &str = "kafka-server-start";

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let force = args.iter().any(|arg| arg == "--force");
    let dirs: Vec<&String> = args.iter().filter(|arg| *arg != "--force").collect();
    let dir = match dirs.as_slice() {
        [dir] if *dir == "--help" || *dir == "-h" => {
            let _ = terminal.out.write_all(HELP.as_bytes());
            return 0;
        }
        [dir] if !dir.starts_with('-') => Path::new(dir),
        _ => {
            let _ = terminal.err.write_all(HELP.as_bytes());
            return 1;
        }
    };
    match make(dir, force) {
        Ok(count) => {
            terminal.line(format_args!("Made {count} links in {}.", dir.display()));
            0
        }
        Err(message) => {
            terminal.error(format_args!("zwirn links: {message}"));
            1
        }
    }
}

fn make(dir: &Path, force: bool) -> Result<usize, String> {
    let exe = std::env::current_exe().map_err(|error| format!("cannot find this program's own file: {error}"))?;
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let scripts = TOOLS.iter().map(|tool| tool.script).filter(|script| !script.is_empty()).chain([SERVER]);
    let mut count = 0;
    for script in scripts {
        for name in [script.to_owned(), format!("{script}.sh")] {
            let path = dir.join(name);
            if force && path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            match symlink(&exe, &path) {
                Ok(()) => count += 1,
                // Made before, by this very program.
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists && path.read_link().is_ok_and(|to| to == exe) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(format!("{} exists already; --force replaces it", path.display()));
                }
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
    }
    Ok(count)
}

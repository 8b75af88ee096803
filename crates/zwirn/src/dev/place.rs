//! Where a development cluster lives: its directory, what the directory says of it, and the socket by which the
//! process that runs it is reached.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tools::props::Props;
use tools::random::random_uuid;

use super::control;

/// Beside the data: whose directory it is. Nothing is removed from a directory without it.
const MARK: &str = "dev.properties";
const SOCKET: &str = "dev.sock";
const DEFAULT: &str = ".zwirn";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub dir: PathBuf,
    pub ephemeral: bool,
    chosen: bool,
}

/// The cluster that a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub cluster_id: String,
    pub brokers: i32,
    pub port: u16,
}

impl Place {
    pub fn of(dir: Option<PathBuf>, ephemeral: bool) -> Place {
        let chosen = dir.is_some() || ephemeral;
        let dir = match dir {
            Some(dir) => dir,
            None if ephemeral => Place::ephemeral_dir(),
            None => PathBuf::from(DEFAULT),
        };
        Place { dir, ephemeral, chosen }
    }

    /// One per user, so that a second terminal finds it.
    fn ephemeral_dir() -> PathBuf {
        std::env::temp_dir().join(format!("zwirn-dev-{}", rustix::process::getuid().as_raw()))
    }

    /// The place that a command from a second terminal means: this directory's, or else the temporary one.
    pub fn existing(self) -> Place {
        let temporary = Place { dir: Place::ephemeral_dir(), ephemeral: true, chosen: true };
        let other = !self.chosen && !self.dir.join(MARK).exists() && temporary.dir.join(MARK).exists();
        if other { temporary } else { self }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// `None` if there is no cluster yet; a directory of something else is an error.
    pub fn known(&self) -> Result<Option<Known>, String> {
        let path = self.dir.join(MARK);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match fs::read_dir(&self.dir).map(|mut entries| entries.next().is_some()) {
                    Ok(true) => Err(format!(
                        "{} was not made by zwirn dev, so nothing is changed in it; choose another with --dir",
                        self.dir.display()
                    )),
                    _ => Ok(None),
                };
            }
            Err(error) => return Err(cannot(&path, &error)),
        };
        let props = Props::parse(&text);
        let known = || {
            Some(Known {
                cluster_id: props.get("cluster.id")?.to_owned(),
                brokers: props.get("brokers")?.parse().ok()?,
                port: props.get("port")?.parse().ok()?,
            })
        };
        let broken = format!("{} is damaged; zwirn dev purge removes the directory", path.display());
        known().map(Some).ok_or(broken)
    }

    /// The directory's cluster, or a new one. The number of nodes is for good, the ports are not.
    pub fn claim(&self, brokers: Option<i32>, port: u16) -> Result<Known, String> {
        let known = match self.known()? {
            Some(known) if brokers.is_some_and(|wanted| wanted != known.brokers) => {
                return Err(format!(
                    "{} holds a cluster of {} nodes, not {}; leave --brokers out, or remove its data with zwirn dev purge",
                    self.dir.display(),
                    known.brokers,
                    brokers.unwrap_or_default()
                ));
            }
            Some(known) => Known { port, ..known },
            None => Known { cluster_id: random_uuid().to_string(), brokers: brokers.unwrap_or(3), port },
        };
        self.check_owner(&known)?;
        fs::create_dir_all(&self.dir).map_err(|error| cannot(&self.dir, &error))?;
        let text = format!(
            "# The development cluster in this directory, made by zwirn dev.\ncluster.id={}\nbrokers={}\nport={}\n",
            known.cluster_id, known.brokers, known.port
        );
        let path = self.dir.join(MARK);
        fs::write(&path, text).map_err(|error| cannot(&path, &error))?;
        Ok(known)
    }

    /// Node directories that were put there from another cluster are left alone.
    fn check_owner(&self, known: &Known) -> Result<(), String> {
        for id in 1..=known.brokers {
            let path = self.dir.join(format!("node-{id}/meta.properties"));
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let found = Props::parse(&text).get("cluster.id").unwrap_or_default().to_owned();
            if found != known.cluster_id {
                return Err(format!(
                    "{} belongs to cluster {found}, not to {}; move the directory away or choose another with --dir",
                    path.parent().unwrap_or(&path).display(),
                    known.cluster_id
                ));
            }
        }
        Ok(())
    }

    pub fn purge(&self) -> Result<(), String> {
        if self.known()?.is_none() {
            println!("There is no cluster in {}.", self.dir.display());
            return Ok(());
        }
        if control::is_running(self) {
            control::ask(self, "stop")?;
        }
        if self.dir.exists() {
            self.remove()?;
        }
        println!("Removed {}.", self.dir.display());
        Ok(())
    }

    pub fn remove(&self) -> Result<(), String> {
        fs::remove_dir_all(&self.dir).map_err(|error| cannot(&self.dir, &error))
    }
}

fn cannot(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("no permission to use {}; choose another directory with --dir", path.display())
        }
        _ => format!("{} cannot be used: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_cluster() {
        let dir = std::env::temp_dir().join(format!("zwirn-place-{}", std::process::id()));
        let place = Place::of(Some(dir.clone()), false);
        assert_eq!(place.known(), Ok(None));
        let known = place.claim(Some(3), 9092).unwrap();
        assert_eq!(place.claim(None, 9500).unwrap(), Known { port: 9500, ..known.clone() });
        assert!(place.claim(Some(5), 9092).unwrap_err().contains("a cluster of 3 nodes"));
        fs::create_dir_all(dir.join("node-2")).unwrap();
        fs::write(dir.join("node-2/meta.properties"), "version=1\ncluster.id=another\n").unwrap();
        assert!(place.claim(None, 9092).unwrap_err().contains("belongs to cluster another"));
        fs::remove_file(dir.join(MARK)).unwrap();
        assert!(place.claim(None, 9092).unwrap_err().contains("not made by zwirn dev"));
        fs::remove_dir_all(dir).unwrap();
    }
}

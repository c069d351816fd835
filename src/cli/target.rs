//! Whom a command is about: one lifecycle directory, one process, or every Sidekiq that can be seen from here.

use std::env;
use std::path::{self, Path, PathBuf};

use crate::store::directory::{DEFAULT, Directory};
use crate::store::error::Error;
use crate::store::lookup::{self, Found, Sight};
use crate::sys::procfs::Snapshot;

/// Where to look.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The lifecycle directory [default: $SIDEKIQ_LIFECYCLE_DIR, else tmp/sidekiq]
    #[arg(long = "dir", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Place {
    /// As Ruby finds it; absolute, for whoever reads the answer may not know where it was asked.
    #[must_use]
    pub fn directory(self) -> Directory {
        let from_environment = || env::var_os("SIDEKIQ_LIFECYCLE_DIR").filter(|path| !path.is_empty());
        let path = self.directory.or_else(|| from_environment().map(PathBuf::from)).unwrap_or_else(|| DEFAULT.into());
        Directory::new(&path::absolute(&path).unwrap_or(path), None)
    }
}

/// Whom to ask or to tell.
#[derive(Clone, Debug, clap::Args)]
pub struct Whom {
    #[command(flatten)]
    place: Place,
    /// One process, wherever its directory is
    #[arg(long, value_name = "PID", conflicts_with_all = ["directory", "all"], value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Every Sidekiq that runs here, those in containers as well
    #[arg(long, conflicts_with = "directory")]
    all: bool,
}

/// The same, decided.
#[derive(Clone, Debug)]
pub enum Who {
    /// All of a directory.
    Directory(Directory),
    /// One process; where its record is if it tells no other place.
    Pid(i32, Directory),
    /// Every one.
    All,
}

impl Whom {
    /// All of a directory; `None` is the default one.
    #[must_use]
    pub fn of_directory(directory: Option<PathBuf>) -> Self {
        Self { place: Place { directory }, pid: None, all: false }
    }
}

impl From<Whom> for Who {
    fn from(whom: Whom) -> Self {
        match whom {
            Whom { all: true, .. } => Self::All,
            Whom { pid: Some(pid), place, .. } => Self::Pid(pid, place.directory()),
            Whom { place, .. } => Self::Directory(place.directory()),
        }
    }
}

impl Who {
    /// The directory, if it is about one.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(directory) => Some(directory.path()),
            Self::Pid(..) | Self::All => None,
        }
    }

    /// All that is known of them now. A directory that has not been made yet is a failure only if it has to be there.
    ///
    /// # Errors
    /// Why nothing is, in one sentence.
    pub fn sights(&self, has_to_be_there: bool) -> Result<Vec<Sight>, String> {
        match self {
            Self::Directory(directory) => match directory.read() {
                Ok(entries) => Ok(entries.into_iter().map(Sight::from).collect()),
                Err(Error::Missing(_)) if !has_to_be_there => Ok(Vec::new()),
                Err(error) => Err(error.to_string()),
            },
            Self::Pid(..) | Self::All => Ok(self.find()?.into_iter().map(Sight::from).collect()),
        }
    }

    /// Those that live, by /proc.
    ///
    /// # Errors
    /// Why none is found, in one sentence.
    pub fn find(&self) -> Result<Vec<Found>, String> {
        if !matches!(self, Self::Directory(_)) && Snapshot::caller().is_none() {
            return Err("--pid and --all need /proc, and there is none here".to_owned());
        }
        match self {
            Self::Directory(directory) => match lookup::registered(directory) {
                Ok(registered) => Ok(registered.living),
                Err(error) => Err(error.to_string()),
            },
            Self::Pid(pid, default) => match (lookup::with_pid(*pid, default), Snapshot::of(*pid)) {
                (Some(found), _) => Ok(vec![found]),
                (None, Some(snapshot)) if !snapshot.has_ended() => {
                    Err(format!("process {pid} ({}) is no Sidekiq", snapshot.name))
                }
                (None, _) => Err(format!("there is no process {pid}")),
            },
            Self::All => Ok(lookup::among(&Snapshot::living())),
        }
    }
}

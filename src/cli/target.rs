//! What a command is about: one lifecycle directory, one process, or every Sidekiq that can be seen from here.

use std::env;
use std::path::{self, Path, PathBuf};

use crate::model::variables;
use crate::store;
use crate::store::directory::{DEFAULT, Directory};
use crate::store::lookup::{self, ObservedProcess};
use crate::sys::procfs::Snapshot;

/// Where to look.
#[derive(Clone, Debug, clap::Args)]
pub struct DirArg {
    /// The lifecycle directory [default: $SIDEKIQ_LIFECYCLE_DIR, else tmp/sidekiq]
    #[arg(long = "dir", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl DirArg {
    /// As Ruby finds it; absolute, because a reader of the output may not know the working directory.
    #[must_use]
    pub fn directory(self) -> Directory {
        let from_environment = || env::var_os(variables::DIRECTORY).filter(|path| !path.is_empty());
        let path = self.directory.or_else(|| from_environment().map(PathBuf::from)).unwrap_or_else(|| DEFAULT.into());
        Directory::new(&path::absolute(&path).unwrap_or(path), None)
    }
}

/// Which processes.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    #[command(flatten)]
    directory: DirArg,
    /// One process, whatever its lifecycle directory
    #[arg(long, value_name = "PID", conflicts_with_all = ["directory", "all"], value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Every Sidekiq on this machine, including those in containers
    #[arg(long, conflicts_with = "directory")]
    all: bool,
}

/// The same, decided.
#[derive(Clone, Debug)]
pub enum Target {
    /// All of a directory.
    Directory(Directory),
    /// One process; where its record is if it tells no other directory.
    Pid(i32, Directory),
    /// Every one.
    All,
}

impl TargetArgs {
    /// All of a directory; `None` is the default one.
    #[must_use]
    pub fn of_directory(directory: Option<PathBuf>) -> Self {
        Self { directory: DirArg { directory }, pid: None, all: false }
    }
}

impl From<TargetArgs> for Target {
    fn from(args: TargetArgs) -> Self {
        match args {
            TargetArgs { all: true, .. } => Self::All,
            TargetArgs { pid: Some(pid), directory, .. } => Self::Pid(pid, directory.directory()),
            TargetArgs { directory, .. } => Self::Directory(directory.directory()),
        }
    }
}

impl Target {
    /// The directory, if it is about one.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(directory) => Some(directory.path()),
            Self::Pid(..) | Self::All => None,
        }
    }

    /// What can be seen of them now. A directory that has not been created yet is an error only if it `must_exist`.
    ///
    /// # Errors
    /// Why nothing can be seen.
    pub fn observe(&self, must_exist: bool) -> Result<Vec<ObservedProcess>, Error> {
        match self {
            Self::Directory(directory) => match lookup::all_recorded(directory) {
                Ok(processes) => Ok(processes),
                Err(store::error::Error::Missing(_)) if !must_exist => Ok(Vec::new()),
                Err(error) => Err(error.into()),
            },
            Self::Pid(..) | Self::All => self.find(),
        }
    }

    /// Those that live, by /proc.
    ///
    /// # Errors
    /// Why none is found.
    pub fn find(&self) -> Result<Vec<ObservedProcess>, Error> {
        if !matches!(self, Self::Directory(_)) && Snapshot::caller().is_none() {
            return Err(Error::NoProc);
        }
        match self {
            Self::Directory(directory) => Ok(lookup::registered(directory)?.living),
            Self::Pid(pid, default) => match (lookup::with_pid(*pid, default), Snapshot::of(*pid)) {
                (Some(found), _) => Ok(vec![found]),
                (None, Some(snapshot)) if !snapshot.has_ended() => {
                    Err(Error::NotSidekiq { pid: *pid, name: snapshot.name })
                }
                (None, _) => Err(Error::NoProcess(*pid)),
            },
            Self::All => Ok(lookup::among(&Snapshot::living())),
        }
    }
}

/// Why a target cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error(transparent)]
    Directory(#[from] store::error::Error),
    /// /proc is not mounted.
    #[error("--pid and --all need /proc, which is not mounted here")]
    NoProc,
    /// There is another program.
    #[error("process {pid} ({name}) is not a Sidekiq")]
    NotSidekiq {
        /// The process.
        pid: i32,
        /// What it is.
        name: String,
    },
    /// There is none.
    #[error("there is no process {0}")]
    NoProcess(i32),
}

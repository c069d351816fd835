//! The doctor's check of a lifecycle directory: from outside, with the permissions of the process that writes there.

use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use nix::sys::stat::fstat;
use serde::Serialize;

use super::directory::{Directory, PROCESSES};
use super::error::Error;
use super::files::{HALF_WRITTEN, names, open_directory, open_parent};
use super::sentinel::is_ours;
use crate::model::probe::{Facts, Presence, Probe, sentinel};
use crate::model::state::State;
use crate::sys::procfs::Snapshot;

/// The result. The check creates, changes and locks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The user it belongs to; `None` if it cannot be opened.
    pub owner: Option<u32>,
    /// The ready file exists.
    pub ready: bool,
    /// The drained file exists.
    pub drained: bool,
    /// Files of processes that ended without notice: records and half-written files.
    pub leftovers: usize,
    /// What is wrong, in clauses that can be joined.
    pub problems: Vec<String>,
}

impl Directory {
    /// Checks the directory. `worker` is the process that writes there; `facts` cover all registered processes; a
    /// ready file in a place of its own is checked at `ready_file`.
    #[must_use]
    pub fn health(&self, worker: &Snapshot, facts: &[Facts], ready_file: Option<&Path>) -> Health {
        let mut health = Health::default();
        let looked = self.look(&mut health, worker, facts, ready_file);
        health.problems.extend(looked.err().map(|error| error.to_string()));
        health
    }

    fn look(
        &self,
        health: &mut Health,
        worker: &Snapshot,
        facts: &[Facts],
        ready_file: Option<&Path>,
    ) -> Result<(), Error> {
        let top = open_directory(&self.path)?;
        let processes = self.open_processes(&top)?;
        for (directory, path) in [(&top, self.path.clone()), (&processes, self.path.join(PROCESSES))] {
            let stat = fstat(directory).map_err(|errno| Error::new(&path, errno))?;
            health.owner.get_or_insert(stat.st_uid);
            if !may_write(worker, &stat) {
                let (uid, mode) = (worker.uid, stat.st_mode & 0o7777);
                let what = path.file_name().unwrap_or_default().to_string_lossy();
                let problem =
                    format!("Sidekiq's uid {uid} cannot write to {what} (owned by uid {}, mode {mode:o})", stat.st_uid);
                health.problems.push(problem);
            }
            let all = names(directory).map_err(|errno| Error::new(&path, errno))?;
            health.leftovers += all.iter().filter(|name| name.ends_with(HALF_WRITTEN)).count();
        }
        let is_dead = |facts: &&Facts| facts.presence == Presence::Gone && facts.state != State::Stopped;
        health.leftovers += facts.iter().filter(is_dead).count();
        let stands = |file: PathBuf| open_parent(&file).is_ok_and(|(parent, name)| is_ours(&parent, name) == Ok(true));
        health.ready = stands(ready_file.map_or_else(|| self.path.join(Probe::Ready.to_string()), Path::to_owned));
        health.drained = stands(self.path.join(Probe::Drained.to_string()));
        for (probe, is_there) in [(Probe::Ready, health.ready), (Probe::Drained, health.drained)] {
            match (is_there, sentinel(facts, probe)) {
                (true, false) => {
                    health.problems.push(format!("the file {probe} exists, but not every Sidekiq is {probe}"))
                }
                (false, true) => {
                    health.problems.push(format!("the file {probe} does not exist, but every Sidekiq is {probe}"))
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// According to the file permissions (`path_resolution(7)`); access lists and security modules are not considered.
fn may_write(process: &Snapshot, stat: &FileStat) -> bool {
    let bits = if process.uid == stat.st_uid {
        stat.st_mode >> 6
    } else if process.groups.contains(&stat.st_gid) {
        stat.st_mode >> 3
    } else {
        stat.st_mode
    };
    process.overrides_permissions || bits & 0o3 == 0o3
}

//! A request that a process stops once it has drained: an empty file beside its record, which the process looks for whenever it
//! writes the record. It names the process with its start time, so that no later process with the same pid obeys it.
//! The process removes the file when it has seen it.

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::geteuid;

use super::directory::{PROCESSES, Processes};
use super::error::Error;
use super::files::{Durability, PUBLIC, is_regular, names, publish, remove};
use super::record_name;
use super::writing::OpenDirectory;
use crate::model::probe::Presence;
use crate::sys::identity::Identity;

const SUFFIX: &str = ".stop-when-drained";

fn name_for(identity: &Identity) -> String {
    let place = record_name::long(identity).unwrap_or_else(|| record_name::short(identity));
    format!("{place}.{}{SUFFIX}", identity.start_time.unwrap_or_default())
}

/// The process of this machine and PID namespace that a request is for; `None` if it is for another's, or no request.
fn process_of(name: &str) -> Option<Identity> {
    let (place, start_time) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    let pid = record_name::pid(place)?;
    let identity = Identity { pid, start_time: start_time.parse().ok(), ..Identity::own() };
    (name_for(&identity) == name).then_some(identity)
}

impl Processes {
    /// Requests that a process stops once it has drained.
    ///
    /// # Errors
    /// The request cannot be written.
    pub fn request_stop(&self, identity: &Identity) -> Result<(), Errno> {
        publish(&self.descriptor, name_for(identity).as_str(), b"", PUBLIC, Durability::Whole, &|| true)
    }
}

impl OpenDirectory<'_> {
    /// Whether the process is requested to stop once it has drained. Whoever may signal it may request that: its own user
    /// and root. The request is removed.
    #[must_use]
    pub fn take_stop_request(&self, identity: &Identity) -> bool {
        let name = name_for(identity);
        let Ok(stat) = fstatat(&self.processes, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { return false };
        let _ = remove(&self.processes, name.as_str());
        is_regular(&stat) && [0, geteuid().as_raw()].contains(&stat.st_uid)
    }

    /// Removes requests for processes that have ended.
    pub(super) fn sweep_stop_requests(&self) -> Result<(), Error> {
        let path = || self.directory.path().join(PROCESSES);
        for name in names(&self.processes).map_err(|errno| Error::new(&path(), errno))? {
            if process_of(&name).is_some_and(|identity| identity.presence() == Presence::Gone) {
                remove(&self.processes, name.as_str()).map_err(|errno| Error::new(&path(), errno))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::Directory;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn gone() -> Identity {
        Identity { start_time: Some(1), ..Identity::own() }
    }

    #[test]
    fn a_request_is_for_one_process_and_is_taken_once() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        let own = Identity::own();
        assert!(!open.take_stop_request(&own));
        directory.processes().unwrap().request_stop(&own).unwrap();
        assert!(!open.take_stop_request(&gone()));
        assert!(directory.read().unwrap().is_empty());
        assert_eq!([open.take_stop_request(&own), open.take_stop_request(&own)], [true, false]);
    }

    #[test]
    fn no_request_is_taken_from_a_link() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        let target = home.path().join("target");
        fs::write(&target, "").unwrap();
        symlink(&target, directory.path().join(PROCESSES).join(name_for(&Identity::own()))).unwrap();
        assert!(!open.take_stop_request(&Identity::own()));
        assert!(target.exists());
    }

    #[test]
    fn what_ended_processes_left_is_swept() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        let elsewhere = Identity { pid_namespace: Some(1), ..gone() };
        for identity in [Identity::own(), gone(), elsewhere.clone()] {
            directory.processes().unwrap().request_stop(&identity).unwrap();
        }
        open.sweep_stop_requests().unwrap();
        let mut left = names(&open.processes).unwrap();
        left.retain(|name| name.ends_with(SUFFIX));
        left.sort();
        let mut expected = [name_for(&Identity::own()), name_for(&elsewhere)];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn other_names_are_no_requests() {
        for name in ["7", ".7.half-written", "7.stop-when-drained", "x.1.stop-when-drained", "7.x.stop-when-drained"] {
            assert_eq!(process_of(name), None, "{name}");
        }
    }
}

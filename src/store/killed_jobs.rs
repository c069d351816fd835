//! Jobs that processes of a lifecycle directory had in hand when they were killed: those that wait in recorders, and the
//! history of what became of the others. The history is `recorders/history`, a line of JSON for each job, without arguments;
//! once it is long it becomes `recorders/history.before`, in the place of the last one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

use super::directory::Directory;
use super::error::Error;
use super::files::{PRIVATE, errno, is_regular};
use super::lookup::ObservedProcess;
use super::recorders::{Found, FoundRecorder, RECORDERS, Whose};
use super::writing::OpenDirectory;
use crate::model::killed_job::KilledJob;
use crate::model::recorder;

const HISTORY: &str = "history";
const BEFORE: &str = "history.before";

/// Bytes after which a new history is begun: about 400 jobs.
const LONG: u64 = 128 * 1024;

/// What is known of a directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KilledJobs {
    /// The jobs: those that wait first, then those with the latest news.
    pub jobs: Vec<KilledJob>,
    /// How many jobs cannot be read because the process was killed while it recorded them, by its pid.
    pub torn: Vec<(i32, usize)>,
    /// Recorders that cannot be read, and why.
    pub unusable: Vec<(String, String)>,
    /// A process has recorded its jobs here.
    pub are_recorded: bool,
}

impl Directory {
    /// The jobs that killed processes had in hand.
    ///
    /// # Errors
    /// The directory is missing or cannot be read.
    pub fn killed_jobs(&self) -> Result<KilledJobs, Error> {
        let mut killed = KilledJobs::default();
        for found in self.recorders(Whose::Everybody)? {
            killed.are_recorded = true;
            match found.state {
                Found::InUse(..) => {}
                Found::LeftBehind(owner, contents) => {
                    let pid = owner.identity.pid;
                    if contents.torn > 0 {
                        killed.torn.push((pid, contents.torn));
                    }
                    let waiting = |job: &recorder::Job| KilledJob::waiting(job.named(), pid, job.is_kept());
                    killed.jobs.extend(contents.jobs.iter().map(waiting));
                }
                Found::Unusable(why) => killed.unusable.push((found.name, why)),
            }
        }
        let Some(recorders) = self.open_recorders()? else { return Ok(killed) };
        killed.are_recorded = true;
        for name in [HISTORY, BEFORE] {
            let mut lines = read(&recorders, name).map_err(|errno| self.history_error(name, errno))?;
            lines.reverse();
            killed.jobs.append(&mut lines);
        }
        Ok(killed)
    }

    /// How many jobs wait to be put back; `None`: no process has recorded any here.
    ///
    /// # Errors
    /// The directory is missing or cannot be read.
    pub fn waiting_jobs(&self) -> Result<Option<usize>, Error> {
        let count = |found: FoundRecorder| match found.state {
            Found::LeftBehind(_, contents) => contents.jobs.iter().filter(|job| !job.is_kept()).count(),
            _ => 0,
        };
        let found = self.recorders(Whose::Gone)?;
        let are_recorded = !found.is_empty() || self.open_recorders()?.is_some();
        Ok(are_recorded.then(|| found.into_iter().map(count).sum()))
    }

    fn history_error(&self, name: &str, errno: Errno) -> Error {
        Error::new(&self.path().join(RECORDERS).join(name), errno)
    }
}

impl OpenDirectory<'_> {
    /// Notes what became of jobs.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note_outcomes(&self, jobs: &[KilledJob]) -> Result<(), Error> {
        let recorders = self.recorders().map_err(|errno| self.directory.history_error("", errno))?;
        append(&recorders, jobs).map_err(|errno| self.directory.history_error(HISTORY, errno))
    }
}

/// What a process has in hand at this moment by its flight recorder, which is right also while Ruby is stuck. Without a
/// recorder, or where it cannot be read, `in_hand` stays `None`.
pub fn look_into_recorders(processes: &mut [ObservedProcess]) {
    let mut directories: Vec<Directory> = Vec::new();
    for process in processes.iter() {
        if !directories.iter().any(|known| known.path() == process.directory.path()) {
            directories.push(process.directory.clone());
        }
    }
    for directory in directories {
        for found in directory.recorders(Whose::Everybody).unwrap_or_default() {
            let Found::InUse(owner, Some(contents)) = found.state else { continue };
            let is_its = |process: &&mut ObservedProcess| {
                process.directory.path() == directory.path()
                    && process.record.as_ref().is_ok_and(|record| record.identity == owner.identity)
            };
            if let Some(process) = processes.iter_mut().find(is_its) {
                process.in_hand = Some(contents.jobs.iter().map(recorder::Job::named).collect());
            }
        }
    }
}

/// Not there yet, or of another kind than it should be: nothing.
fn read(recorders: &OwnedFd, name: &str) -> nix::Result<Vec<KilledJob>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(recorders, name, flags, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ELOOP) => return Ok(Vec::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    if is_regular(&fstat(&file)?) {
        File::from(file).take(2 * LONG).read_to_end(&mut bytes).map_err(|error| errno(&error))?;
    }
    // A line that was cut off by a full disk is none.
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| KilledJob::parse(line).ok()).collect())
}

fn append(recorders: &OwnedFd, jobs: &[KilledJob]) -> nix::Result<()> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(recorders, HISTORY, flags, PRIVATE)?;
    let stat = fstat(&file)?;
    // A file with a second name would be written outside of the directory as well.
    if !is_regular(&stat) || stat.st_nlink != 1 || stat.st_uid != geteuid().as_raw() {
        return Err(Errno::EPERM);
    }
    let lines: String = jobs.iter().filter_map(|job| Some(serde_json::to_string(job).ok()? + "\n")).collect();
    File::from(file).write_all(lines.as_bytes()).map_err(|error| errno(&error))?;
    if u64::try_from(stat.st_size).unwrap_or_default() + lines.len() as u64 > LONG {
        renameat(recorders, HISTORY, recorders, BEFORE)?;
    }
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::model::job::Job;
    use crate::model::killed_job::Outcome;

    fn put_back(jid: &str) -> KilledJob {
        let job = Job { jid: Some(jid.to_owned()), ..Job::default() };
        KilledJob { outcome: Outcome::PutBack, ..KilledJob::waiting(job, 7, false) }
    }

    fn jids(directory: &Directory) -> Vec<String> {
        directory.killed_jobs().unwrap().jobs.into_iter().filter_map(|job| job.jid).collect()
    }

    #[test]
    fn the_latest_comes_first() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        assert_eq!(directory.killed_jobs().unwrap(), KilledJobs::default());
        open.note_outcomes(&[put_back("a"), put_back("b")]).unwrap();
        open.note_outcomes(&[put_back("c")]).unwrap();
        assert_eq!(jids(&directory), ["c", "b", "a"]);
        let path = directory.path().join(RECORDERS).join(HISTORY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A line that was cut off.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(jids(&directory), ["b", "a"]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        let line = serde_json::to_string(&put_back("0000")).unwrap().len() as u64 + 1;
        let many = usize::try_from(LONG / line).unwrap() + 1;
        for round in 0..3 {
            let jobs: Vec<KilledJob> = (0..many).map(|job| put_back(&format!("{round}{job:03}"))).collect();
            open.note_outcomes(&jobs).unwrap();
        }
        open.note_outcomes(&[put_back("last")]).unwrap();
        let jids = jids(&directory);
        assert_eq!((jids.len(), jids[0].as_str(), &jids[1][..1], &jids[many][..1]), (many + 1, "last", "2", "2"));
    }

    #[test]
    fn nothing_outside_is_written_or_read() {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let open = directory.open().unwrap();
        open.note_outcomes(&[put_back("a")]).unwrap();
        let path = directory.path().join(RECORDERS).join(HISTORY);
        let outside = home.path().join("outside");
        fs::rename(&path, &outside).unwrap();
        let text = fs::read_to_string(&outside).unwrap();
        for make in
            [|outside: &_, path: &_| symlink(outside, path), |outside: &_, path: &_| fs::hard_link(outside, path)]
        {
            make(&outside, &path).unwrap();
            assert!(open.note_outcomes(&[put_back("b")]).is_err());
            assert_eq!(fs::read_to_string(&outside).unwrap(), text);
            fs::remove_file(&path).unwrap();
        }
        symlink(&outside, &path).unwrap();
        assert_eq!(jids(&directory), [""; 0]);
    }
}

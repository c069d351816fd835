//! The flight recorders in a lifecycle directory: `recorders/PID-ID`, one a process, beside its record.
//!
//! A recorder belongs to its owner until that is gone, and holds after that what the owner had in hand. So do the files of
//! jobs that had no room in it (`job_files.rs`). Mode 0600, because payloads hold the arguments of jobs. No link
//! is followed, and a file of somebody else is left alone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::error::Error;
use super::files::{
    DIRECTORY, HALF_WRITTEN, PRIVATE, distrust, errno, half_written_prefix, names, open_directory, remove,
    remove_half_written,
};
use super::job_files;
use super::writing::OpenDirectory;
use crate::model::probe::{MAX_BEAT_AGE, Presence};
use crate::model::recorder::{self, Contents, Entry, Layout};
use crate::sys::identity::Identity;
use crate::sys::mapping::Mapping;

pub(super) const RECORDERS: &str = "recorders";

/// Who writes a recorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Which process it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// It holds a lock on the file while it lives, which tells other containers that it does.
    pub is_locked: bool,
}

/// A recorder that the calling process writes.
#[derive(Debug)]
pub struct NewRecorder {
    /// Where it is.
    pub directory: Directory,
    /// The name of its file.
    pub name: String,
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Where its parts are.
    pub layout: Layout,
    /// The file in memory.
    pub mapping: Mapping,
}

/// Whose jobs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of processes that are gone, of the calling user only: a file that somebody else wrote puts nothing into Redis.
    Gone,
    /// Everybody's.
    Everybody,
}

/// A recorder that was found in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecorder {
    /// The name of its file.
    pub name: String,
    /// What it is.
    pub state: Found,
}

/// What a file in `recorders` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its owner lives, or may live; what it has in hand, if that was asked for.
    InUse(Owner, Option<Contents>),
    /// Its owner is gone.
    LeftBehind(Owner, Contents),
    /// It cannot be read: why.
    Unusable(String),
}

/// A recorder whose owner is gone.
#[derive(Clone, Debug)]
pub struct LeftBehind {
    /// The name of its file.
    pub name: String,
    /// The owner.
    pub identity: Identity,
    /// What the owner had in hand.
    pub contents: Contents,
}

impl LeftBehind {
    /// `None`: its owner may live, or it cannot be read.
    #[must_use]
    pub fn of(found: FoundRecorder) -> Option<Self> {
        match found.state {
            Found::LeftBehind(owner, contents) => Some(Self { name: found.name, identity: owner.identity, contents }),
            _ => None,
        }
    }
}

impl OpenDirectory<'_> {
    /// Creates the recorder of the calling process, with room for the jobs of so many threads. All of it is written once, so
    /// that a full disk is noticed now: later it would end the process (SIGBUS).
    ///
    /// # Errors
    /// It cannot be created, locked, or mapped.
    pub fn create_recorder(&self, threads: usize) -> Result<NewRecorder, Error> {
        let path = self.directory.path().join(RECORDERS);
        let error = |errno| Error::new(&path, errno);
        let failed = |failure: &std::io::Error| Error::new(&path, errno(failure));
        let recorders = self.recorders().map_err(error)?;
        remove_half_written(&recorders).map_err(error)?;
        let layout = Layout::for_threads(threads);
        let mut random = [0; 16];
        File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).map_err(|it| failed(&it))?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let identity = Identity::own();
        let name = format!("{}-{id}", identity.pid);
        let aside = format!("{}{id}{HALF_WRITTEN}", half_written_prefix(identity.pid));
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&recorders, aside.as_str(), flags, PRIVATE).map_err(error)?;
        let discard = |failure: Error| {
            let _ = unlinkat(&recorders, aside.as_str(), UnlinkatFlags::NoRemoveDir);
            failure
        };
        let file = File::from(file);
        // A file system without locks: what is left behind is known by its silence.
        let lock = file.try_clone().ok().and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        let owner = Owner { identity, is_locked: lock.is_some() };
        let made = fill(&file, layout, random, &owner).map_err(|it| failed(&it));
        let mapped = made.and_then(|()| Mapping::new(&file, layout.size()).map_err(error));
        let mapping = mapped.map_err(discard)?;
        renameat(&recorders, aside.as_str(), &recorders, name.as_str()).map_err(|it| discard(error(it)))?;
        // The lock lasts as long as the process: its descriptor is never closed.
        std::mem::forget(lock);
        Ok(NewRecorder { directory: self.directory.clone(), name, id, layout, mapping })
    }

    /// Removes a recorder, and the files of jobs that had no room in it.
    ///
    /// # Errors
    /// It exists and cannot be removed.
    pub fn remove_recorder(&self, name: &str) -> Result<(), Error> {
        let path = self.directory.path().join(RECORDERS);
        match openat(&self.top, RECORDERS, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(()),
            recorders => recorders.and_then(|recorders| {
                job_files::remove_all(&recorders, name)?;
                remove(&recorders, name)
            }),
        }
        .map_err(|errno| Error::new(&path, errno))
    }

    pub(super) fn recorders(&self) -> nix::Result<OwnedFd> {
        match mkdirat(&self.top, RECORDERS, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => openat(&self.top, RECORDERS, DIRECTORY, Mode::empty()),
            Err(errno) => Err(errno),
        }
    }
}

impl Directory {
    /// All recorders, those of living processes as well. Creates and changes nothing.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn recorders(&self, whose: Whose) -> Result<Vec<FoundRecorder>, Error> {
        let Some(recorders) = self.open_recorders()? else { return Ok(Vec::new()) };
        let names = names(&recorders).map_err(|errno| Error::new(&self.path().join(RECORDERS), errno))?;
        let found = |name: String| Some(FoundRecorder { state: look_at(&recorders, &name, whose)?, name });
        let is_orphan = |name: &&String| {
            job_files::recorder_of(name).is_some_and(is_name) && job_files::is_orphan(&recorders, name)
        };
        let state = || Found::Unusable("its flight recorder is missing".to_owned());
        let orphans = names.iter().filter(is_orphan).map(|name| FoundRecorder { name: name.clone(), state: state() });
        let orphans: Vec<_> = orphans.collect();
        Ok(names.iter().filter(|name| is_name(name)).cloned().filter_map(found).chain(orphans).collect())
    }

    /// Records a job for which a recorder of the calling process has no room.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_job_file(&self, recorder: &str, entry: &Entry, queue: &[u8], payload: &[u8]) -> Result<(), Error> {
        let path = || self.path().join(RECORDERS);
        let recorders = self.open_recorders()?.ok_or_else(|| Error::Missing(path()))?;
        job_files::write(&recorders, recorder, entry, queue, payload).map_err(|errno| Error::new(&path(), errno))
    }

    /// Sidekiq is done with such a job.
    pub fn remove_job_file(&self, recorder: &str, number: u64) {
        if let Ok(Some(recorders)) = self.open_recorders() {
            job_files::remove(&recorders, recorder, number);
        }
    }

    /// The recorders whose owners are gone; none if there is no such directory.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn left_behind(&self) -> Result<Vec<LeftBehind>, Error> {
        match self.recorders(Whose::Gone) {
            Err(Error::Missing(_)) => Ok(Vec::new()),
            found => Ok(found?.into_iter().filter_map(LeftBehind::of).collect()),
        }
    }

    /// The recorders that the calling user cannot read, and why.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn unusable_recorders(&self) -> Result<Vec<(String, String)>, Error> {
        let unusable = |found: FoundRecorder| match found.state {
            Found::Unusable(why) => Some((found.name, why)),
            _ => None,
        };
        match self.recorders(Whose::Gone) {
            Err(Error::Missing(_)) => Ok(Vec::new()),
            found => Ok(found?.into_iter().filter_map(unusable).collect()),
        }
    }

    /// `None`: no process has recorded its jobs here.
    pub(super) fn open_recorders(&self) -> Result<Option<OwnedFd>, Error> {
        let top = open_directory(self.path())?;
        match openat(&top, RECORDERS, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(None),
            recorders => recorders.map(Some).map_err(|errno| Error::new(&self.path().join(RECORDERS), errno)),
        }
    }
}

/// `PID-ID`, as [`OpenDirectory::create_recorder`] makes it.
fn is_name(name: &str) -> bool {
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.split_once('-').is_some_and(|(pid, id)| pid.parse::<u32>().is_ok() && is_id(id))
}

fn fill(mut file: &File, layout: Layout, id: [u8; 16], owner: &Owner) -> std::io::Result<()> {
    let owner = serde_json::to_vec(owner)?;
    let mut bytes = recorder::header(layout, id, &owner, now()).ok_or(std::io::ErrorKind::InvalidData)?;
    bytes.resize(layout.size(), 0);
    file.write_all(&bytes)
}

/// `None`: it is gone meanwhile.
fn look_at(recorders: &OwnedFd, name: &str, whose: Whose) -> Option<Found> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(recorders, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => None,
        Err(Errno::ELOOP) => Some(Found::Unusable("it is a symbolic link".to_owned())),
        Err(errno) => Some(Found::Unusable(errno.desc().to_owned())),
        Ok(file) => {
            let mut found = read(&File::from(file), whose).unwrap_or_else(Found::Unusable);
            // Only now, because an owner that is gone writes no further ones.
            if let Found::LeftBehind(_, contents) | Found::InUse(_, Some(contents)) = &mut found {
                if let Err(errno) = job_files::add_to(contents, recorders, name, whose == Whose::Gone) {
                    return Some(Found::Unusable(errno.desc().to_owned()));
                }
            }
            Some(found)
        }
    }
}

fn read(file: &File, whose: Whose) -> Result<Found, String> {
    let stat = fstat(file).map_err(|errno| errno.desc().to_owned())?;
    if let Some(why) = distrust(&stat, whose == Whose::Gone) {
        return Err(why);
    }
    let mut bytes = Vec::new();
    let more = |limit: usize, bytes: &mut Vec<u8>| {
        let limit = u64::try_from(limit).unwrap_or_default();
        file.take(limit).read_to_end(bytes).map_err(|error| error.to_string())
    };
    more(recorder::HEADER, &mut bytes)?;
    let header = recorder::parse_header(&bytes).map_err(|error| error.to_string())?;
    let owner: Owner = serde_json::from_slice(&header.owner).map_err(|_| recorder::Malformed::Damaged.to_string())?;
    let is_gone = is_gone(&owner, header.beat, file);
    if !is_gone && whose == Whose::Gone {
        return Ok(Found::InUse(owner, None));
    }
    more(header.layout.size(), &mut bytes)?;
    let contents = recorder::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(if is_gone { Found::LeftBehind(owner, contents) } else { Found::InUse(owner, Some(contents)) })
}

/// As with a record: a live owner is never robbed. Where its pid says nothing here, in another container or on another
/// machine, its lock on the file does; a lock of another machine, or none, is believed only after a long silence.
fn is_gone(owner: &Owner, beat: u64, file: &File) -> bool {
    let is_of_another_boot = owner.identity.is_of_another_boot();
    match owner.identity.presence() {
        Presence::Here => return false,
        Presence::Gone if !is_of_another_boot => return true,
        _ => {}
    }
    let lock = file.try_clone().ok().map(|file| Flock::lock(file, FlockArg::LockSharedNonblock));
    let is_free = match lock {
        Some(Ok(_)) => true,
        Some(Err((_, Errno::EAGAIN))) | None => false,
        Some(Err(_)) => !owner.is_locked,
    };
    let is_silent = || now().abs_diff(beat) > u64::try_from(MAX_BEAT_AGE.as_millis()).unwrap_or(u64::MAX);
    is_free && (owner.is_locked && !is_of_another_boot || is_silent())
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or_default()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, Directory) {
        let home = TempDir::new().unwrap();
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        (home, directory)
    }

    fn forge(directory: &Directory, owner: &Owner, beat: u64) -> PathBuf {
        let layout = Layout { blocks: 2 };
        let mut bytes = recorder::header(layout, [7; 16], &serde_json::to_vec(owner).unwrap(), beat).unwrap();
        bytes.resize(layout.size(), 0);
        let path = directory.path().join(RECORDERS).join(format!("9-{}", "07".repeat(16)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn states(directory: &Directory) -> Vec<&'static str> {
        let state = |found: FoundRecorder| match found.state {
            Found::InUse(..) => "in use",
            Found::LeftBehind(..) => "left behind",
            Found::Unusable(_) => "unusable",
        };
        directory.recorders(Whose::Gone).unwrap().into_iter().map(state).collect()
    }

    #[test]
    fn a_recorder_of_its_own() {
        let (_home, directory) = place();
        assert_eq!(directory.recorders(Whose::Everybody).ok(), None, "without a directory");
        let open = directory.open().unwrap();
        assert_eq!(directory.recorders(Whose::Everybody).unwrap(), []);
        let made = open.create_recorder(5).unwrap();
        let path = directory.path().join(RECORDERS).join(&made.name);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, made.layout.size() as u64));
        assert_eq!(states(&directory), ["in use"]);
        open.remove_recorder(&made.name).unwrap();
        open.remove_recorder(&made.name).unwrap();
        assert_eq!(fs::read_dir(directory.path().join(RECORDERS)).unwrap().count(), 0);
    }

    fn payloads(directory: &Directory) -> (Vec<Vec<u8>>, usize) {
        match directory.recorders(Whose::Everybody).unwrap().remove(0).state {
            Found::InUse(_, Some(contents)) | Found::LeftBehind(_, contents) => {
                (contents.jobs.into_iter().map(|job| job.payload).collect(), contents.torn)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_of_jobs_belong_to_their_recorder() {
        let (home, directory) = place();
        let open = directory.open().unwrap();
        let name = open.create_recorder(1).unwrap().name;
        let recorders = directory.path().join(RECORDERS);
        let file = |number: u64| recorders.join(format!("{name}.{number}"));
        for number in [12, 3] {
            let entry = Entry { number, started: 7, flags: 0 };
            directory.write_job_file(&name, &entry, b"queue:a", number.to_string().as_bytes()).unwrap();
        }
        assert_eq!(fs::metadata(file(3)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(payloads(&directory), (vec![b"3".to_vec(), b"12".to_vec()], 0), "as fetched");
        fs::write(recorders.join(format!("{name}.x")), "another file").unwrap();
        fs::write(file(4), "damaged").unwrap();
        symlink(file(3), file(5)).unwrap();
        fs::hard_link(file(12), home.path().join("second")).unwrap();
        assert_eq!(payloads(&directory), (vec![b"3".to_vec()], 3), "damaged, a link, a second name");
        let socket = UnixListener::bind(file(6)).unwrap();
        let found = directory.recorders(Whose::Everybody).unwrap().remove(0).state;
        assert_eq!(found, Found::Unusable(Errno::ENXIO.desc().to_owned()), "it may be readable later");
        drop(socket);
        fs::remove_file(file(6)).unwrap();
        directory.remove_job_file(&name, 3);
        directory.remove_job_file(&name, 3);
        assert_eq!(payloads(&directory), (vec![], 3));
        open.remove_recorder(&name).unwrap();
        let left: Vec<_> = fs::read_dir(&recorders).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("{name}.x").as_str()], "what is not the gem's stays");
    }

    #[test]
    fn a_file_of_a_job_without_its_recorder_is_reported() {
        let (_home, directory) = place();
        let name = directory.open().unwrap().create_recorder(1).unwrap().name;
        let entry = Entry { number: 1, started: 7, flags: 0 };
        directory.write_job_file(&name, &entry, b"queue:a", b"{}").unwrap();
        fs::remove_file(directory.path().join(RECORDERS).join(&name)).unwrap();
        let missing = "its flight recorder is missing".to_owned();
        assert_eq!(directory.unusable_recorders().unwrap(), [(format!("{name}.1"), missing)]);
    }

    #[test]
    fn a_live_owner_is_never_robbed() {
        let (_home, directory) = place();
        let own = Identity::own();
        let recycled = Identity { start_time: own.start_time.map(|ticks| ticks - 1), ..own.clone() };
        let in_another_container = Identity { pid_namespace: Some(1), ..own.clone() };
        let of_another_boot = Identity { boot_id: Some("another".to_owned()), ..own.clone() };
        let long_ago = now() - 61_000;
        for (identity, is_locked, is_held, beat, expected) in [
            (&own, true, false, long_ago, "in use"),
            (&own, false, false, long_ago, "in use"),
            (&recycled, true, false, now(), "left behind"),
            // A child that a job has forked may still have the lock of a process that is gone.
            (&recycled, true, true, now(), "left behind"),
            (&in_another_container, true, false, now(), "left behind"),
            (&in_another_container, true, true, long_ago, "in use"),
            (&in_another_container, false, false, now(), "in use"),
            (&in_another_container, false, false, long_ago, "left behind"),
            (&of_another_boot, true, false, now(), "in use"),
            (&of_another_boot, true, true, long_ago, "in use"),
            (&of_another_boot, true, false, long_ago, "left behind"),
        ] {
            let owner = Owner { identity: identity.clone(), is_locked };
            let path = forge(&directory, &owner, beat);
            let lock =
                is_held.then(|| Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap());
            assert_eq!(states(&directory), [expected], "{owner:?} {is_held} {beat}");
            drop(lock);
        }
    }

    #[test]
    fn what_is_no_recorder_of_this_gem_is_left_alone() {
        let (home, directory) = place();
        let owner = Owner { identity: Identity::own(), is_locked: false };
        let path = forge(&directory, &owner, now());
        for name in ["notes", "9", "9-", "x-07070707070707070707070707070707", "9-0707"] {
            fs::write(path.with_file_name(name), "").unwrap();
        }
        assert_eq!(states(&directory), ["in use"]);
        let outside = home.path().join("outside");
        fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        assert_eq!(states(&directory), ["unusable"]);
        fs::remove_file(&path).unwrap();
        fs::hard_link(&outside, &path).unwrap();
        assert_eq!(states(&directory), ["unusable"]);
        fs::remove_file(&path).unwrap();
        let recorders = directory.path().join(RECORDERS);
        fs::remove_dir_all(&recorders).unwrap();
        symlink(home.path(), &recorders).unwrap();
        assert!(
            directory.open().unwrap().create_recorder(1).is_err() && directory.recorders(Whose::Everybody).is_err()
        );
    }

    #[test]
    fn a_full_disk_is_noticed_when_it_is_created() {
        let (_home, directory) = place();
        let open = directory.open().unwrap();
        let file = File::options().write(true).open("/dev/full").unwrap();
        let owner = Owner { identity: Identity::own(), is_locked: true };
        assert!(fill(&file, Layout::for_threads(1), [0; 16], &owner).is_err());
        drop(open);
    }
}

//! The flight recorder of the calling process: which jobs it has in hand, in memory that outlives it.
//!
//! A job costs two writes to memory, without a lock. The file is made by the writer thread. Only [`Recorder::await_job`] waits,
//! and a job that has no room there is written to a file of its own.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::model::popped::{self, Reply};
use crate::model::recorder::{self, Contents, EMPTY, Entry, HELD, Layout, WRITING};
use crate::store::directory::Directory;
use crate::store::error::Error;
use crate::store::recorders::{NewRecorder, now};
use crate::sys::mapping::{Mapping, is_child, watch_forks};
use crate::sys::socket::{self, Wait};

/// A token has the number of a job above this many bits, and its first block below.
const BLOCK_BITS: u32 = 16;

/// In the place of a block: the job has a file of its own.
const IN_FILE: u64 = recorder::MAX_BLOCKS as u64;

/// What is read of a reply at first; larger ones are read again.
const FIRST_READ: usize = 16384;

/// How long the rest of a large reply may take to arrive: so many pauses.
const PAUSES: usize = 20;
const PAUSE: Duration = Duration::from_micros(500);

/// How a wait for Redis' reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// It is a job, which is recorded under this token.
    Job(u64),
    /// It can be read, and what it is will be seen then.
    Readable,
    /// There was none in that time.
    TimedOut,
    /// A signal came, or the socket cannot be waited for.
    Interrupted,
}

/// The recorder of the calling process.
#[derive(Debug)]
pub struct Recorder {
    directory: Directory,
    name: String,
    id: String,
    layout: Layout,
    mapping: Mapping,
    /// Which blocks belong to jobs in hand, and how many each job has, by its first.
    taken: Box<[AtomicBool]>,
    lengths: Box<[AtomicU32]>,
    last: AtomicU64,
    /// The numbers of the jobs that have files of their own.
    in_files: Mutex<BTreeSet<u64>>,
    unrecorded: Mutex<Option<(u64, Error)>>,
    is_kept: AtomicBool,
}

impl Recorder {
    /// A recorder for a file that was just made.
    #[must_use]
    pub fn new(made: NewRecorder) -> Self {
        watch_forks();
        let NewRecorder { directory, name, id, layout, mapping } = made;
        let taken = (0..layout.blocks).map(|_| AtomicBool::new(false)).collect();
        let lengths = (0..layout.blocks).map(|_| AtomicU32::new(0)).collect();
        let (last, in_files, unrecorded) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        let is_kept = AtomicBool::new(false);
        Self { directory, name, id, layout, mapping, taken, lengths, last, in_files, unrecorded, is_kept }
    }

    /// The name of its file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for Redis' reply to BRPOP on a socket, and records the job in it without taking it from the socket: Redis
    /// knows the job no more, and Ruby not yet. For that it needs no GVL, so a job that holds it delays nothing.
    pub fn await_job(&self, socket: RawFd, timeout: Option<Duration>) -> Awaited {
        match socket::wait(socket, timeout) {
            Wait::Readable => self.record_reply(socket).map_or(Awaited::Readable, Awaited::Job),
            Wait::TimedOut => Awaited::TimedOut,
            Wait::Interrupted => Awaited::Interrupted,
        }
    }

    fn record_reply(&self, socket: RawFd) -> Option<u64> {
        let mut bytes = vec![0; FIRST_READ];
        let mut pauses = 0;
        loop {
            let length = socket::peek(socket, &mut bytes);
            if length == bytes.len() && length < self.layout.size() {
                bytes.resize(length * 4, 0);
                continue;
            }
            match popped::parse(bytes.get(..length)?) {
                Reply::Job { queue, payload } => return self.write(queue, payload, 0),
                Reply::Incomplete if length > 0 && pauses < PAUSES => thread::sleep(PAUSE),
                Reply::Incomplete | Reply::Other => return None,
            }
            pauses += 1;
        }
    }

    /// Whether a job is recorded under a token.
    #[must_use]
    pub fn holds(&self, token: u64, queue: &[u8], payload: &[u8]) -> bool {
        let Some(at) = self.entry_of(token) else { return false };
        let field = |index: usize| self.mapping.load(at + 8 * index);
        let entry = Entry { number: field(1), started: field(2), flags: field(4) };
        entry.encode(queue, payload) == [1, 2, 3, 4, 5].map(|index| field(index).to_le_bytes())
    }

    /// A job has been fetched. Returns a token for [`Recorder::clear`]; `None`: there is no room for it.
    pub fn record(&self, queue: &[u8], payload: &[u8], flags: u64) -> Option<u64> {
        self.write(queue, payload, flags)
    }

    /// A job has been fetched for which there is no room: writes it to a file of its own, which may take a moment. Returns
    /// a token for [`Recorder::clear`]; `None`: it is not recorded.
    pub fn record_in_file(&self, queue: &[u8], payload: &[u8], flags: u64) -> Option<u64> {
        if is_child() {
            return None;
        }
        let entry = self.entry(flags);
        match self.directory.write_job_file(&self.name, &entry, queue, payload) {
            Ok(()) => {
                self.in_files().insert(entry.number);
                Some(entry.number << BLOCK_BITS | IN_FILE)
            }
            Err(error) => {
                let mut unrecorded = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner);
                *unrecorded = Some((unrecorded.as_ref().map_or(0, |(count, _)| *count) + 1, error));
                None
            }
        }
    }

    fn in_files(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.in_files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, flags: u64) -> Entry {
        Entry { number: self.last.fetch_add(1, SeqCst) + 1, started: now(), flags }
    }

    fn write(&self, queue: &[u8], payload: &[u8], flags: u64) -> Option<u64> {
        if is_child() {
            return None;
        }
        let count = (queue.len() + payload.len()).div_ceil(recorder::BLOCK).max(1);
        let block = self.take(count)?;
        let entry = self.entry(flags);
        let at = self.layout.entry(block);
        self.mapping.store(at, WRITING);
        self.mapping.write(self.layout.block(block), &[queue, payload]);
        self.mapping.write(at + 8, &[entry.encode(queue, payload).as_flattened()]);
        self.mapping.store(at, HELD);
        Some(entry.number << BLOCK_BITS | block as u64)
    }

    /// Sidekiq is done with a job. Only the first call for a token counts.
    pub fn clear(&self, token: u64) {
        if is_child() {
            return;
        }
        if token & IN_FILE == IN_FILE {
            if self.in_files().remove(&(token >> BLOCK_BITS)) {
                self.directory.remove_job_file(&self.name, token >> BLOCK_BITS);
            }
        } else if let Some(at) = self.entry_of(token) {
            self.mapping.store(at, EMPTY);
            let block = block_of(token);
            let count = self.lengths.get(block).map_or(0, |length| length.swap(0, SeqCst)) as usize;
            self.free(block, count);
        }
    }

    /// Where the index has the job that is recorded under a token.
    fn entry_of(&self, token: u64) -> Option<usize> {
        let block = block_of(token);
        let at = self.layout.entry(block);
        // The state first: whoever records another job meanwhile changes the number before it.
        let is_held = block < self.layout.blocks && self.mapping.load(at) == HELD;
        (is_held && self.mapping.load(at + 8) == token >> BLOCK_BITS).then_some(at)
    }

    /// A heartbeat.
    pub fn beat(&self) {
        if !is_child() {
            self.mapping.store(recorder::BEAT, now());
        }
    }

    /// What is in hand, without the jobs that have files of their own.
    #[must_use]
    pub fn contents(&self) -> Option<Contents> {
        recorder::parse(&self.mapping.copy()).ok()
    }

    /// Whether it stays at the end of the process, even if it is empty: Redis may have an older copy of it.
    pub fn keep(&self, keeps: bool) {
        self.is_kept.store(keeps, SeqCst);
    }

    /// Whether nobody needs it once the process has ended.
    #[must_use]
    pub fn is_useless(&self) -> bool {
        self.is_empty() && !self.is_kept.load(SeqCst)
    }

    /// Whether Sidekiq is done with every job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.iter().all(|taken| !taken.load(SeqCst)) && self.in_files().is_empty()
    }

    /// How many jobs were not recorded, and why the last one was not.
    #[must_use]
    pub fn unrecorded(&self) -> Option<(u64, String)> {
        let unrecorded = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner);
        unrecorded.as_ref().map(|(count, error)| (*count, error.to_string()))
    }

    /// Takes the first free blocks in a row, so that few pages are ever used.
    fn take(&self, count: usize) -> Option<usize> {
        let mut first = 0_usize;
        while let Some(row) = self.taken.get(first..first.checked_add(count)?) {
            match row.iter().position(|taken| taken.swap(true, SeqCst)) {
                None => {
                    let length = u32::try_from(count).ok()?;
                    self.lengths.get(first)?.store(length, SeqCst);
                    return Some(first);
                }
                Some(gap) => {
                    self.free(first, gap);
                    first += gap + 1;
                }
            }
        }
        None
    }

    fn free(&self, first: usize, count: usize) {
        self.taken.iter().skip(first).take(count).for_each(|taken| taken.store(false, SeqCst));
    }
}

/// The first block of a job.
fn block_of(token: u64) -> usize {
    usize::try_from(token & ((1 << BLOCK_BITS) - 1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::store::recorders::{Found, FoundRecorder, Whose};

    fn recorder(home: &tempfile::TempDir, threads: usize) -> Recorder {
        let directory = Directory::new(&home.path().join("sidekiq"), None);
        let made = directory.open().unwrap().create_recorder(threads).unwrap();
        Recorder::new(made)
    }

    fn payloads(recorder: &Recorder) -> Vec<Vec<u8>> {
        recorder.contents().unwrap().jobs.into_iter().map(|job| job.payload).collect()
    }

    #[test]
    fn jobs_come_and_go() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 2);
        assert!(recorder.is_empty() && payloads(&recorder).is_empty());
        let [one, two] = [&b"one"[..], b"two"].map(|payload| recorder.record(b"queue:a", payload, 0).unwrap());
        assert_eq!(payloads(&recorder), [b"one", b"two"]);
        recorder.clear(one);
        recorder.clear(one);
        assert_eq!(payloads(&recorder), [b"two"]);
        // In the place of the first.
        let three = recorder.record(b"queue:a", b"three", 0).unwrap();
        recorder.clear(one);
        assert_eq!(payloads(&recorder), [&b"two"[..], b"three"]);
        [two, three, u64::MAX, 0].into_iter().for_each(|token| recorder.clear(token));
        assert!(recorder.is_empty() && payloads(&recorder).is_empty());
    }

    #[test]
    fn an_empty_one_stays_if_redis_has_an_older_copy() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        let token = recorder.record(b"queue:a", b"job", 0).unwrap();
        assert!(!recorder.is_useless(), "a job is in hand");
        recorder.clear(token);
        for (keeps, expected) in [(true, false), (false, true)] {
            recorder.keep(keeps);
            assert_eq!(recorder.is_useless(), expected);
        }
    }

    fn reply(payload: &[u8]) -> Vec<u8> {
        [format!("*2\r\n$7\r\nqueue:a\r\n${}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat()
    }

    #[test]
    fn a_job_is_recorded_before_anybody_reads_it() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        for size in [1, 40, FIRST_READ, 3 * FIRST_READ, 100_000] {
            let (mut redis, socket) = UnixStream::pair().unwrap();
            let payload = vec![b'{'; size];
            redis.write_all(&reply(&payload)).unwrap();
            let Awaited::Job(token) = recorder.await_job(socket.as_raw_fd(), None) else { panic!("{size} bytes") };
            assert_eq!(payloads(&recorder), [payload.as_slice()]);
            assert!(recorder.holds(token, b"queue:a", &payload));
            assert!(!recorder.holds(token, b"queue:b", &payload) && !recorder.holds(token, b"queue:a", b"other"));
            assert!(!recorder.holds(token + 1, b"queue:a", &payload));
            recorder.clear(token);
            assert!(!recorder.holds(token, b"queue:a", &payload) && recorder.is_empty());
        }
    }

    #[test]
    fn a_reply_that_comes_in_parts_is_recorded_when_it_is_whole() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        let (mut redis, socket) = UnixStream::pair().unwrap();
        let whole = reply(b"{in two parts");
        let (one, other) = whole.split_at(20);
        redis.write_all(one).unwrap();
        assert_eq!(recorder.await_job(socket.as_raw_fd(), None), Awaited::Readable, "the rest does not come");
        redis.write_all(other).unwrap();
        assert!(matches!(recorder.await_job(socket.as_raw_fd(), None), Awaited::Job(_)));
        assert_eq!(payloads(&recorder), [b"{in two parts"]);
    }

    #[test]
    fn a_reply_without_a_job_records_nothing() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        let too_large = vec![b'{'; recorder.layout.size()];
        for bytes in [&b"*-1\r\n"[..], b"-ERR\r\n", &reply(&too_large)] {
            let (mut redis, socket) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            assert_eq!(recorder.await_job(socket.as_raw_fd(), Some(Duration::ZERO)), Awaited::TimedOut);
            redis.set_nonblocking(true).unwrap();
            let _ = redis.write(bytes).unwrap();
            assert_eq!(recorder.await_job(socket.as_raw_fd(), None), Awaited::Readable);
        }
        let (redis, socket) = UnixStream::pair().unwrap();
        drop(redis);
        assert_eq!(recorder.await_job(socket.as_raw_fd(), None), Awaited::Readable);
        assert_eq!(recorder.await_job(-1, None), Awaited::Interrupted);
        assert!(recorder.is_empty() && recorder.unrecorded().is_none());
    }

    #[test]
    fn a_job_without_room_has_a_file_of_its_own() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        let found = || {
            let all = recorder.directory.recorders(Whose::Everybody).unwrap();
            let [FoundRecorder { state: Found::InUse(_, Some(contents)), .. }] = all.as_slice() else {
                panic!("{all:?}")
            };
            contents.jobs.iter().map(|job| job.payload.clone()).collect::<Vec<_>>()
        };
        let large = vec![b'x'; recorder.layout.size()];
        let one = recorder.record(b"queue:a", b"one", 0).unwrap();
        assert_eq!(recorder.record(b"queue:a", &large, 0), None);
        let two = recorder.record_in_file(b"queue:a", &large, 0).unwrap();
        let three = recorder.record(b"queue:a", b"three", 0).unwrap();
        assert_eq!(found(), [b"one".as_slice(), &large, b"three"], "as fetched");
        assert!(!recorder.holds(two, b"queue:a", &large));
        for token in [one, three, two + (1 << BLOCK_BITS)] {
            recorder.clear(token);
        }
        assert_eq!((found(), recorder.is_empty()), (vec![large.clone()], false));
        recorder.clear(two);
        recorder.clear(two);
        assert_eq!((found(), recorder.is_empty()), (vec![], true));

        std::fs::remove_dir_all(home.path().join("sidekiq/recorders")).unwrap();
        for count in [1, 2] {
            assert_eq!(recorder.record_in_file(b"queue:a", &large, 0), None);
            assert_eq!(recorder.unrecorded().unwrap().0, count);
        }
        assert!(recorder.is_empty());
    }

    #[test]
    fn a_large_job_has_blocks_in_a_row_and_gives_them_back() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 1);
        let blocks = recorder.layout.blocks;
        let size = |blocks: usize| vec![b'x'; blocks * recorder::BLOCK - 7];
        let small = recorder.record(b"queue:a", b"small", 0).unwrap();
        let large = recorder.record(b"queue:a", &size(blocks - 1), 0).unwrap();
        assert_eq!(recorder.record(b"queue:a", b"", 0), None, "it is full");
        recorder.clear(small);
        assert_eq!(recorder.record(b"queue:a", &size(2), 0), None);
        recorder.clear(large);
        let all = recorder.record(b"queue:a", &size(blocks), 0).unwrap();
        assert_eq!(payloads(&recorder), [size(blocks)]);
        recorder.clear(all);
        assert!(recorder.record(b"queue:a", &size(blocks + 1), 0).is_none() && recorder.is_empty());
    }

    #[test]
    fn threads_do_not_disturb_each_other() {
        let home = tempfile::TempDir::new().unwrap();
        let recorder = recorder(&home, 8);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let recorder = &recorder;
                scope.spawn(move || {
                    for round in 0..40 {
                        let payload = vec![thread; round % 3 * recorder::BLOCK + 1];
                        let token = recorder.record(b"queue:a", &payload, 0).unwrap();
                        let own = payloads(recorder).into_iter().filter(|other| other.first() == Some(&thread));
                        assert_eq!(own.collect::<Vec<_>>(), [payload], "round {round}");
                        recorder.clear(token);
                    }
                });
            }
        });
        assert!(recorder.is_empty());
    }
}

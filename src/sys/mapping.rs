//! A file in memory, shared with the page cache: what is written there outlives the process, at whatever instruction it is
//! killed.

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped file. It must have its size, with all its blocks, and keep it: a write beyond the file's end, or to a block
/// that a full disk cannot provide, is a SIGBUS.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: it is memory that belongs to no thread. Every access is a copy or atomic, within bounds; nothing hands out a
// reference to it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file of that size.
    ///
    /// # Errors
    /// The system's error: the file system cannot map, no memory.
    pub fn new(file: impl AsFd, size: usize) -> nix::Result<Self> {
        let length = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the system chooses a place that nothing else uses.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0)? };
        Ok(Self { start: start.cast(), size })
    }

    /// Copies bytes to an offset, one part after the other. Beyond the end it does nothing and returns `false`.
    pub fn write(&self, offset: usize, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return false;
        }
        let mut at = offset;
        for part in parts {
            // SAFETY: `at..at + part.len()` lies within the mapping, as checked above, and no reference to it exists.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), self.start.as_ptr().add(at), part.len()) };
            at += part.len();
        }
        true
    }

    /// Stores a number, after everything that was written before it.
    pub fn store(&self, offset: usize, number: u64) {
        fence(Ordering::SeqCst);
        if let Some(cell) = self.cell(offset) {
            cell.store(number.to_le(), Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Loads a number; 0 beyond the end.
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        self.cell(offset).map_or(0, |cell| u64::from_le(cell.load(Ordering::SeqCst)))
    }

    /// A copy of all of it. What is written meanwhile may be torn.
    #[must_use]
    pub fn copy(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        // SAFETY: both are `size` bytes; the vector is new, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), bytes.as_mut_ptr(), self.size) };
        bytes
    }

    fn cell(&self, offset: usize) -> Option<&AtomicU64> {
        let is_inside = offset % 8 == 0 && offset.checked_add(8).is_some_and(|end| end <= self.size);
        // SAFETY: it lies within the mapping, which begins at a page and so is aligned like the offset.
        is_inside.then(|| unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        let _ = unsafe { munmap(self.start.cast(), self.size) };
    }
}

/// Whether the calling process was forked after [`watch_forks`]. A child has its parent's mappings, and must not write
/// to them.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

extern "C" fn note_child() {
    IS_CHILD.store(true, Ordering::SeqCst);
}

/// From now on [`is_child`] tells a forked child, without a system call for each question. Called in a child, it counts as
/// the parent of its own children.
pub fn watch_forks() {
    static IS_WATCHING: AtomicBool = AtomicBool::new(false);
    IS_CHILD.store(false, Ordering::SeqCst);
    if !IS_WATCHING.swap(true, Ordering::SeqCst) {
        // SAFETY: the handler stores to an atomic and does nothing else. This code is never unloaded (Ruby keeps
        // extensions).
        let _ = unsafe { libc::pthread_atfork(None, None, Some(note_child)) };
    }
}

/// Whether this process is a child of the one that called [`watch_forks`].
#[must_use]
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_written_is_in_the_file_and_nothing_beyond_it() {
        let home = tempfile::TempDir::new().unwrap();
        let path = home.path().join("file");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&[0; 8192]).unwrap();
        let mapping = Mapping::new(&file, 8192).unwrap();
        assert!(
            mapping.write(8190, &[b"a", b"b"])
                && !mapping.write(8191, &[b"a", b"b"])
                && !mapping.write(usize::MAX, &[b"a"])
        );
        mapping.store(16, 0x0102);
        mapping.store(8192, 1);
        mapping.store(17, 1);
        assert_eq!((mapping.load(16), mapping.load(8192), mapping.load(usize::MAX - 7)), (0x0102, 0, 0));
        let read = std::fs::read(&path).unwrap();
        assert_eq!((read.as_slice(), read.len()), (mapping.copy().as_slice(), 8192));
        assert_eq!((&read[16..18], &read[8190..]), (&[2, 1][..], &b"ab"[..]));
        assert!(Mapping::new(&file, 0).is_err());
    }

    #[test]
    fn a_child_knows_that_it_is_one() {
        watch_forks();
        assert!(!is_child());
        // SAFETY: the child only loads an atomic and ends without running anything else.
        match unsafe { nix::unistd::fork() }.unwrap() {
            // SAFETY: _exit(2) may be called anywhere.
            nix::unistd::ForkResult::Child => unsafe { libc::_exit(if is_child() { 7 } else { 1 }) },
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 7));
            }
        }
        assert!(!is_child());
    }
}

//! A file descriptor table for a single thread.

#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
use std::os::fd::{IntoRawFd, RawFd};
#[cfg(target_os = "linux")]
use std::path::Path;

use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::fcntl::{OFlag, open};
#[cfg(target_os = "linux")]
use nix::libc;
#[cfg(target_os = "linux")]
use nix::sys::stat::Mode;
#[cfg(target_os = "linux")]
use nix::unistd::close;

/// The name of the thread with its own table, by which others find the descriptors in it.
pub const THREAD: &str = "lifecycle disk";

/// Gives the calling thread its own table of descriptors, with only `/dev/null` as 0, 1 and 2. It no longer matters
/// to the thread what the rest of the process opens, closes or uses up, and no forked child inherits what it opens.
/// No descriptor of the process is closed.
///
/// Call it first on a new thread: descriptors opened elsewhere cannot be used there, nor the thread's own elsewhere.
///
/// # Errors
/// The system cannot do it or does not allow it: a kernel before 5.9 whose seccomp filter refuses unshare(2), as
/// Docker's does. Nothing has changed in that case.
#[cfg(target_os = "linux")]
pub fn unshare() -> nix::Result<()> {
    unshare_all().or_else(|_| unshare_and_close())?;
    // So that a message for standard error is never written to one of this thread's files.
    for _ in 0..3 {
        let _ =
            open(Path::new("/dev/null"), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map(IntoRawFd::into_raw_fd);
    }
    Ok(())
}

/// In a single call: close_range(2) with `CLOSE_RANGE_UNSHARE`, Linux 5.9.
#[cfg(target_os = "linux")]
fn unshare_all() -> nix::Result<()> {
    let (first, last) = (0 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: close_range takes three integers. With CLOSE_RANGE_UNSHARE it closes in a copy of the table that only the
    // calling thread has, which owns no descriptor yet; every other owner keeps its own.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
    Errno::result(done).map(drop)
}

#[cfg(target_os = "linux")]
fn unshare_and_close() -> nix::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    let names = std::fs::read_dir("/proc/thread-self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // One is the directory listing's own, and closed already.
    for number in numbers {
        let _ = close(number);
    }
    Ok(())
}

/// Not available on other systems.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn unshare() -> nix::Result<()> {
    Err(Errno::ENOSYS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_with_its_own_closes_nothing_of_others() {
        let home = tempfile::TempDir::new().unwrap();
        let mut file = File::create(home.path().join("file")).unwrap();
        let number = file.as_raw_fd();
        let link = move |number: RawFd| fs::read_link(format!("/proc/thread-self/fd/{number}"));
        // Docker's seccomp filter may allow the first and refuse the second.
        let refuses = thread::spawn(unshare_and_close).join().unwrap() == Err(Errno::EPERM);
        let ways = [unshare, unshare_and_close].into_iter().take(if refuses { 1 } else { 2 });
        for way in ways {
            let seen = thread::spawn(move || {
                way().unwrap();
                (link(number).ok(), link(2).ok(), open("/dev/null", OFlag::O_CLOEXEC, Mode::empty()).is_ok())
            });
            let (there, second, opens) = seen.join().unwrap();
            assert_ne!(there, Some(home.path().join("file")));
            assert!(opens && second.is_none_or(|second| second == Path::new("/dev/null")));
            assert_eq!(link(number).unwrap(), home.path().join("file"));
            file.write_all(b"still open").unwrap();
        }
    }
}

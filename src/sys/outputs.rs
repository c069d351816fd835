//! Standard output and standard error, when whoever reads them ends first.
//!
//! `sidekiq 2>&1 | tee log` and a signal to all of its processes: the reader is gone in no time, and what is written to its
//! pipe from then on is an error (EPIPE). A Sidekiq that logs its shutdown there would end by it with its jobs in hand.

use std::fs::OpenOptions;
use std::io::{self, Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{dup2_stderr, dup2_stdout, write};

use crate::model::text::one_line;

/// Where a process writes what people are to read.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Out(Stdout),
    /// Standard error.
    Err(Stderr),
}

impl Output {
    /// Both.
    #[must_use]
    pub fn all() -> [Self; 2] {
        [Self::Out(io::stdout()), Self::Err(io::stderr())]
    }

    /// What it is called where machines read it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Out(_) => "standard_output",
            Self::Err(_) => "standard_error",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Out(_) => "standard output",
            Self::Err(_) => "standard error",
        }
    }

    /// Whether it is a pipe. A file, a terminal and a socket take what is written, or say what is wrong with it.
    #[must_use]
    pub fn is_pipe(&self) -> bool {
        fstat(self).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
    }

    /// Whether it is a pipe that nobody reads any more, nor ever will.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        // That the last reader has gone is told without being asked for (poll(2), POLLERR).
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::empty())];
        let is_told = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        let is_broken = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        is_told && polled.iter().any(is_broken) && self.is_pipe()
    }

    /// Puts `/dev/null` in its place, for all of the process.
    ///
    /// # Errors
    /// What the system says.
    pub fn silence(&self) -> io::Result<()> {
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        match self {
            Self::Out(_) => dup2_stdout(null),
            Self::Err(_) => dup2_stderr(null),
        }?;
        Ok(())
    }
}

/// Writes a line to standard error, unless that would have to be waited for.
pub fn complain(line: &str) {
    let output = io::stderr();
    let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        let _ = write(&output, format!("{}\n", one_line(line)).as_bytes());
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Out(out) => out.as_fd(),
            Self::Err(err) => err.as_fd(),
        }
    }
}

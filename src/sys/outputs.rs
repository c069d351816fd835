//! Standard output and standard error when their reader exits first.
//!
//! `sidekiq 2>&1 | tee log` and a signal to the whole group: the reader exits at once, and every later write to the
//! pipe fails (EPIPE). A Sidekiq that logs its shutdown there would exit with its jobs still running.

use std::fs::OpenOptions;
use std::io::{self, Stderr, Stdout};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{dup2_stderr, dup2_stdout, write};

use crate::model::text::one_line;

/// One of the outputs of a process.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Out(Stdout),
    /// Standard error.
    Err(Stderr),
}

impl Output {
    /// Both outputs.
    #[must_use]
    pub fn all() -> [Self; 2] {
        [Self::Out(io::stdout()), Self::Err(io::stderr())]
    }

    /// Its identifier for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Out(_) => "standard_output",
            Self::Err(_) => "standard_error",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Out(_) => "standard output",
            Self::Err(_) => "standard error",
        }
    }

    /// Whether it is a pipe. Files, terminals and sockets take what is written, or report an error.
    #[must_use]
    pub fn is_pipe(&self) -> bool {
        fstat(self).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
    }

    /// Whether it is a pipe that has lost its last reader.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        // poll(2) always reports that the last reader has gone (POLLERR).
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::empty())];
        let is_told = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        let is_broken = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        is_told && polled.iter().any(is_broken) && self.is_pipe()
    }

    /// Replaces it with `/dev/null`, for the whole process.
    ///
    /// # Errors
    /// The system's error.
    pub fn silence(&self) -> io::Result<()> {
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        match self {
            Self::Out(_) => dup2_stdout(null),
            Self::Err(_) => dup2_stderr(null),
        }?;
        Ok(())
    }
}

/// Writes a line to standard error, unless the write would block.
pub fn warn(line: &str) {
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

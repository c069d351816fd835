//! What waits in a socket, without taking it.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How a wait for a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// There is something to read, or the other side is gone.
    Readable,
    /// There was nothing in that time.
    TimedOut,
    /// A signal came, or the socket cannot be waited for.
    Interrupted,
}

/// Waits until a socket can be read. `None` waits for ever.
#[must_use]
pub fn wait(socket: RawFd, timeout: Option<Duration>) -> Wait {
    let Some(socket) = borrowed(socket) else { return Wait::Interrupted };
    let timeout = timeout.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout) {
        Ok(0) => Wait::TimedOut,
        Ok(_) => Wait::Readable,
        Err(_) => Wait::Interrupted,
    }
}

/// Copies what waits in a socket into the buffer, and leaves it there. Returns how many bytes that were.
pub fn peek(socket: RawFd, buffer: &mut [u8]) -> usize {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes no more bytes than the buffer has.
    let length = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(length).unwrap_or(0)
}

fn borrowed<'a>(socket: RawFd) -> Option<BorrowedFd<'a>> {
    // SAFETY: it is used for one system call. If somebody has closed it, that call fails, or is about another file, of
    // which it changes nothing.
    (socket >= 0).then(|| unsafe { BorrowedFd::borrow_raw(socket) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_peeked_is_still_there() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let (socket, mut buffer) = (other.as_raw_fd(), [0; 8]);
        assert_eq!(wait(socket, Some(Duration::ZERO)), Wait::TimedOut);
        assert_eq!(peek(socket, &mut buffer), 0);
        one.write_all(b"abc").unwrap();
        for _ in 0..2 {
            assert_eq!((wait(socket, None), peek(socket, &mut buffer)), (Wait::Readable, 3));
            assert_eq!(&buffer[..3], b"abc");
        }
        other.read_exact(&mut buffer[..3]).unwrap();
        drop(one);
        assert_eq!((wait(socket, None), peek(socket, &mut buffer)), (Wait::Readable, 0));
    }

    #[test]
    fn what_is_no_socket_is_neither_waited_for_nor_read() {
        assert_eq!(wait(-1, None), Wait::Interrupted);
        assert_eq!(peek(-1, &mut [0; 8]), 0);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(peek(file.as_raw_fd(), &mut [0; 8]), 0);
    }
}

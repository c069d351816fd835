//! The connections of the HTTP endpoint: bounded in number, bytes and time, whatever a client does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::http::{self, HEAD_LIMIT, Question, Request, Response};

/// A further one takes the place of the oldest, so that slow clients keep no probe away.
const MAX_CONNECTIONS: usize = 32;

/// How long a connection may last.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait after an error of accept(2) that would come again at once: the system is out of memory, say.
const PAUSE: Duration = Duration::from_millis(100);

enum Step {
    /// The request arrives.
    Reading(Vec<u8>),
    /// The response is sent.
    Writing(Vec<u8>, usize),
    /// All was sent. If the socket were closed with bytes unread, the client would get a reset instead of the response.
    Closing,
}

struct Connection {
    stream: TcpStream,
    step: Step,
    until: Instant,
}

/// Serves until it `is_closed`, which is checked after each event.
pub fn serve(
    listener: &TcpListener,
    answer: &dyn Fn(Question) -> Response,
    is_closed: &dyn Fn() -> bool,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut connections: Vec<Connection> = Vec::new();
    while !is_closed() {
        wait(listener, &connections)?;
        accept(listener, &mut connections);
        let now = Instant::now();
        connections.retain_mut(|connection| connection.until > now && connection.advance(answer).is_ok());
    }
    Ok(())
}

/// Sleeps until a client does something, or the time of a connection is over.
fn wait(listener: &TcpListener, connections: &[Connection]) -> io::Result<()> {
    let mut polled = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    polled.extend(connections.iter().map(|connection| PollFd::new(connection.stream.as_fd(), connection.awaited())));
    let now = Instant::now();
    let left = connections.iter().map(|connection| connection.until.saturating_duration_since(now)).min();
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Err(errno) if errno != Errno::EINTR => Err(errno.into()),
        _ => Ok(()),
    }
}

fn accept(listener: &TcpListener, connections: &mut Vec<Connection>) {
    for _ in 0..MAX_CONNECTIONS {
        match listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if connections.len() >= MAX_CONNECTIONS {
                    connections.remove(0);
                }
                let until = Instant::now() + TIME_LIMIT;
                connections.push(Connection { stream, step: Step::Reading(Vec::new()), until });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return std::thread::sleep(PAUSE),
        }
    }
}

impl Connection {
    fn awaited(&self) -> PollFlags {
        match self.step {
            Step::Reading(_) | Step::Closing => PollFlags::POLLIN,
            Step::Writing(..) => PollFlags::POLLOUT,
        }
    }

    /// Does what can be done without waiting. `Err`: it is over.
    fn advance(&mut self, answer: &dyn Fn(Question) -> Response) -> Result<(), Over> {
        loop {
            match &mut self.step {
                Step::Reading(bytes) => {
                    let mut buffer = [0; HEAD_LIMIT];
                    let Some(count) = ready(self.stream.read(&mut buffer))? else { return Ok(()) };
                    bytes.extend(buffer.iter().take(count));
                    let (response, is_head) = match http::read(bytes) {
                        Request::Incomplete => continue,
                        Request::Complete { question, is_head } => (answer(question), is_head),
                        Request::Refused(response) => (response, false),
                    };
                    self.step = Step::Writing(response.into_bytes(is_head), 0);
                }
                Step::Writing(bytes, sent) => {
                    let rest = bytes.get(*sent..).unwrap_or_default();
                    if rest.is_empty() {
                        self.stream.shutdown(Shutdown::Write).map_err(|_| Over)?;
                        self.step = Step::Closing;
                        continue;
                    }
                    let Some(count) = ready(self.stream.write(rest))? else { return Ok(()) };
                    *sent += count;
                }
                // Once for each event: a client that never stops sending must not keep the others waiting.
                Step::Closing => return ready(self.stream.read(&mut [0; HEAD_LIMIT])).map(drop),
            }
        }
    }
}

/// The connection is over: the client has closed it, or it failed.
struct Over;

/// What was read or written; `None`: nothing can be now.
fn ready(result: io::Result<usize>) -> Result<Option<usize>, Over> {
    match result {
        Ok(0) => Err(Over),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(_) => Err(Over),
    }
}

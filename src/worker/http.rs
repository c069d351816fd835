//! The HTTP endpoint: a thread that answers for the lifecycle directory, as `check` and `status` do.
//!
//! It is independent of Ruby, so it answers while a job holds the GVL. It has its own descriptor table, so no child that
//! a job forks inherits its sockets. It sleeps in poll(2) until somebody asks.
//!
//! Several Sidekiqs of one directory have the same address. One of them gets it and answers for all. The others try
//! again at each of their heartbeats.

mod connections;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::http::{Obstacle, Question, Response, Status, problem};
use crate::model::probe::{MAX_BEAT_AGE, Presence};
use crate::store::directory::Directory;
use crate::store::error::Error;
use crate::store::killed_jobs::look_into_recorders;
use crate::store::lookup::{self, ObservedProcess};
use crate::store::metrics::metrics;
use crate::store::report::{self, Report};
use crate::sys::descriptors;
use crate::sys::signals::disposition;

const THREAD: &str = "lifecycle http";

/// How long a boot waits for the first attempt, which only needs the thread to get to run.
const START_LIMIT: Duration = Duration::from_secs(1);

/// How long the thread may take to notice that it is to end.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

/// The endpoint of the calling process, if it has one.
static ENDPOINT: Mutex<Option<Endpoint>> = Mutex::new(None);

#[derive(Debug)]
struct Endpoint {
    /// The process that has started the thread: a forked child has no such thread.
    owner: u32,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the thread shares with the others.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// The phase has changed.
    changed: Condvar,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not tried to get the address yet.
    Starting,
    /// It has the address.
    Serving,
    /// It does not have it, and waits for the next attempt.
    Waiting,
}

#[derive(Debug)]
struct State {
    directory: Directory,
    phase: Phase,
    /// How often in a row it did not get the address, and no other Sidekiq of the directory has it.
    attempts: u32,
    problem: Option<String>,
    tries_again: bool,
    is_closed: bool,
}

/// Serves `directory` at `address` from now on, instead of what was served before; `None`: nothing.
///
/// # Errors
/// No further thread can be started.
pub fn serve(address: Option<SocketAddr>, directory: Directory) -> io::Result<()> {
    let mut endpoint = endpoint();
    if let (Some(endpoint), Some(address)) = (endpoint.as_ref().filter(|endpoint| endpoint.is_ours()), address)
        && endpoint.address == address
    {
        endpoint.shared.state().directory = directory;
        return Ok(());
    }
    if let Some(before) = endpoint.take().filter(Endpoint::is_ours) {
        before.close();
    }
    let Some(address) = address else { return Ok(()) };
    let phase = Phase::Starting;
    let state = State { directory, phase, attempts: 0, problem: None, tries_again: false, is_closed: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), changed: Condvar::new() });
    let threads = Arc::clone(&shared);
    disposition::spawn(THREAD, move || run(address, &threads))?;
    // So that the record says so from the start.
    shared.wait_while(Phase::Starting, START_LIMIT);
    *endpoint = Some(Endpoint { owner: process::id(), address, shared });
    Ok(())
}

/// Lets the thread try again to get its address, if it does not have it. Returns the address that this process serves
/// at, and what is wrong with it.
pub fn check() -> (Option<SocketAddr>, Option<String>) {
    let endpoint = endpoint();
    let Some(endpoint) = endpoint.as_ref().filter(|endpoint| endpoint.is_ours()) else { return (None, None) };
    let mut state = endpoint.shared.state();
    let serves = state.phase == Phase::Serving;
    state.tries_again = !serves;
    endpoint.shared.wake.notify_all();
    (serves.then_some(endpoint.address), state.problem.clone())
}

fn endpoint() -> MutexGuard<'static, Option<Endpoint>> {
    ENDPOINT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    fn is_ours(&self) -> bool {
        self.owner == process::id()
    }

    /// Ends the thread, which a connection wakes. The address is free then, unless the thread waits for a disk.
    fn close(&self) {
        let phase = {
            let mut state = self.shared.state();
            state.is_closed = true;
            self.shared.wake.notify_all();
            state.phase
        };
        if phase == Phase::Serving {
            let own = match self.address {
                address if address.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
                address => address,
            };
            let _ = TcpStream::connect_timeout(&own, WAKE_LIMIT);
            self.shared.wait_while(Phase::Serving, WAKE_LIMIT);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, phase: Phase, limit: Duration) {
        drop(self.changed.wait_timeout_while(self.state(), limit, |state| state.phase == phase));
    }

    fn enter(&self, phase: Phase) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.phase = phase;
        self.changed.notify_all();
        state
    }

    /// Waits for the next attempt; `false`: there is none.
    fn next_attempt(&self) -> bool {
        let mut state = self.state();
        while !state.tries_again && !state.is_closed {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.tries_again = false;
        !state.is_closed
    }

    /// The address is not to be had.
    fn failed(&self, address: SocketAddr, error: &io::Error) {
        let directory = self.state().directory.clone();
        let is_sibling = |process: &ObservedProcess| {
            let at = process.record.as_ref().ok().and_then(|record| record.http.as_deref());
            process.presence == Presence::Here && at == Some(address.to_string().as_str())
        };
        let reason = error.to_string();
        let obstacle = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let all = lookup::all_recorded(&directory).unwrap_or_default();
                if all.iter().any(is_sibling) { Obstacle::Sibling } else { Obstacle::Taken }
            }
            _ => Obstacle::Error(&reason),
        };
        let mut state = self.enter(Phase::Waiting);
        state.attempts = if obstacle == Obstacle::Sibling { 0 } else { state.attempts.saturating_add(1) };
        state.problem = problem(address, obstacle, state.attempts);
    }
}

fn run(address: SocketAddr, shared: &Shared) {
    // Where the system refuses that, the sockets are the whole process's.
    let _ = descriptors::unshare();
    loop {
        let served = bind(address).and_then(|listener| {
            {
                let mut state = shared.enter(Phase::Serving);
                (state.attempts, state.problem) = (0, None);
            }
            let answer = |question| {
                let directory = shared.state().directory.clone();
                answer(question, &directory)
            };
            connections::serve(&listener, &answer, &|| shared.state().is_closed)
        });
        match served {
            Ok(()) => drop(shared.enter(Phase::Waiting)),
            Err(error) => shared.failed(address, &error),
        }
        if !shared.next_attempt() {
            return;
        }
    }
}

/// Listens at the address. A machine without IPv6 has all of its addresses in IPv4.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| match address {
        SocketAddr::V6(address) if address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        _ => Err(error),
    })
}

/// The same as the commands `check`, `status --json`, and the metrics.
fn answer(question: Question, directory: &Directory) -> Response {
    let observed = lookup::all_recorded(directory);
    // A directory that has not been created yet.
    let or_none = |observed| match observed {
        Err(Error::Missing(_)) => Ok(Vec::new()),
        observed => observed,
    };
    let failed = |reason: &dyn std::fmt::Display| Response::text(Status::Failed, &reason.to_string());
    match question {
        Question::Probe(probe) => {
            match report::answer(observed.map_err(|error| error.to_string()), probe, MAX_BEAT_AGE) {
                Ok(line) => Response::text(Status::Ok, &line),
                Err(line) => Response::text(Status::Unavailable, &line),
            }
        }
        Question::Status => match or_none(observed) {
            Ok(mut processes) => {
                look_into_recorders(&mut processes);
                serde_json::to_string(&Report::new(Some(directory.path()), &processes))
                    .map_or_else(|error| failed(&error), |json| Response::json(json + "\n"))
            }
            Err(error) => failed(&error),
        },
        Question::Metrics => match or_none(observed) {
            Ok(processes) => metrics(&processes, directory.waiting_jobs().ok().flatten())
                .map_or_else(|error| failed(&error), Response::metrics),
            Err(error) => failed(&error),
        },
    }
}

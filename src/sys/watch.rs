//! Sleeping until something happens: to a record (inotify(7)), to a process (its pidfd), or to the sleeper (a
//! signal).

use std::io::{Stdout, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::pidfd::PidFd;

/// How often everything is read again, because some changes cause no event: network file systems do not see other
/// hosts' writers, and a user's watches may be used up.
pub const SLOW: Duration = Duration::from_secs(3);

/// Signals that interrupt the wait.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// What to sleep on. Once it exists, the calling thread receives the signals that would end it only through this.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<Inotify>,
    signals: SignalFd,
    /// Standard output, while its reader is watched.
    output: Option<Stdout>,
}

/// The directory of a change.
pub type Place = WatchDescriptor;

/// What ended the sleep.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The records that were written or removed: the directory, and the pid.
    pub changed: Vec<(Place, i32)>,
    /// Anything may have changed.
    pub everything: bool,
    /// The processes that have ended, by their index in the list.
    pub ended: Vec<usize>,
    /// A signal asks the sleeper to end.
    pub signal: Option<Signal>,
    /// A signal asks it to pause (Ctrl-Z).
    pub is_to_pause: bool,
    /// Standard output has lost its reader.
    pub is_unread: bool,
}

/// With the one that reports a terminal's new size.
fn signals() -> SigSet {
    ENDING.into_iter().chain([Signal::SIGWINCH]).collect()
}

impl Watch {
    /// Starts to watch only signals.
    ///
    /// # Errors
    /// The system's error.
    pub fn open() -> nix::Result<Self> {
        let signals = signals();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Ok(Self { inotify, signals, output: None })
    }

    /// Watches the reader of standard output as well: if nothing changes, nothing is written, and no write would
    /// fail.
    #[must_use]
    pub fn with_reader(self) -> Self {
        Self { output: Some(stdout()), ..self }
    }

    /// Receives Ctrl-Z as well, which would leave a terminal as it is.
    ///
    /// # Errors
    /// The system's error.
    pub fn receive_pauses(&mut self) -> nix::Result<()> {
        let signals: SigSet = signals().iter().chain([Signal::SIGTSTP]).collect();
        signals.thread_block()?;
        self.signals.set_mask(&signals)
    }

    /// Watches a lifecycle directory; if it does not exist yet, its nearest existing parent. Call it again after a
    /// change: the directory may have been created since. `None`: there will be no events for it.
    pub fn directory(&self, directory: &Path) -> Option<Place> {
        let changes = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        let processes = directory.join("processes");
        let inotify = self.inotify.as_ref()?;
        processes.ancestors().find_map(|path| inotify.add_watch(path, changes).ok())
    }

    /// Sleeps until something happens, or the time is over.
    ///
    /// # Errors
    /// The system's error.
    pub fn wait(&self, handles: &[&PidFd], timeout: Duration) -> nix::Result<Woken> {
        // poll(2) always reports that the reader has gone.
        let output = self.output.as_ref().map(|output| PollFd::new(output.as_fd(), PollFlags::empty()));
        let own = std::iter::once(self.signals.as_fd()).chain(self.inotify.as_ref().map(AsFd::as_fd));
        let descriptors = own.chain(handles.iter().map(|handle| handle.as_fd()));
        let descriptors = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut polled: Vec<PollFd<'_>> = output.into_iter().chain(descriptors).collect();
        // Rounded up, or the last millisecond would be spent awake.
        let timeout = PollTimeout::try_from(timeout.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let own = polled.len() - handles.len();
        let has_ended = |(index, fd): (usize, &PollFd<'_>)| fd.any().unwrap_or_default().then_some(index);
        let ended = polled.iter().skip(own).enumerate().filter_map(has_ended).collect();
        let is_unread = self.output.is_some() && polled.first().is_some_and(|output| output.any().unwrap_or_default());
        let mut woken = Woken { ended, is_unread, ..Woken::default() };
        self.read_changes(&mut woken);
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            woken.signal = woken.signal.or(signal.filter(|signal| ENDING.contains(signal)));
            woken.is_to_pause |= signal == Some(Signal::SIGTSTP);
        }
        Ok(woken)
    }

    fn read_changes(&self, woken: &mut Woken) {
        while let Some(events) = self.inotify.as_ref().and_then(|inotify| inotify.read_events().ok()) {
            for event in events {
                let name = event.name.as_ref().and_then(|name| name.to_str());
                match name.map(str::parse) {
                    Some(Ok(pid)) => woken.changed.push((event.wd, pid)),
                    // A temporary file, before it is renamed.
                    Some(Err(_)) if name.is_some_and(|name| name.starts_with('.')) => {}
                    _ => woken.everything = true,
                }
            }
        }
    }
}

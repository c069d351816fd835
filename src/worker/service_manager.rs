//! Notifications to the service manager (systemd): what is sent, and when.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::model::job;
use crate::model::sd_notify::{self, Sent, StatusSnapshot, Watchdog};
use crate::model::stall;
use crate::model::state::State;
use crate::model::stop_timeout::{self};
use crate::store::record;
use crate::sys::notify_socket::Socket;
use crate::sys::platform;
use crate::sys::procfs::Snapshot;
use crate::sys::signals::disposition::{self};

use super::lifecycle::{Inner, Lifecycle, Manager};

/// How long systemd may take to answer, once in the life of a process and on a thread of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the service manager is notified of from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// When the process is ready, and when it stops.
    pub of_state: bool,
    /// The heartbeat, for the watchdog.
    pub of_heartbeat: bool,
}

impl Lifecycle {
    /// Starts to notify the service manager, if one has launched this process (`$NOTIFY_SOCKET`). A heartbeat comes
    /// every `pause` seconds.
    pub fn notify(self: &Arc<Self>, pause: f64) -> Notified {
        if !self.is_ours() {
            return Notified::default();
        }
        self.with_inner(|inner| inner.limit = stall::limit(None, pause));
        let socket = Socket::of_environment();
        self.set_problem("systemd", socket.as_ref().err().map(ToString::to_string));
        let Ok(Some(socket)) = socket else { return Notified::default() };
        let of_environment = |name| std::env::var(name).ok();
        let (usec, pid) = (of_environment("WATCHDOG_USEC"), of_environment("WATCHDOG_PID"));
        let watchdog = sd_notify::watchdog(usec.as_deref(), pid.as_deref(), self.owner, pause);
        let is_fed = matches!(watchdog, Watchdog::Heart(_));
        if let Watchdog::Heart(seconds) = watchdog {
            self.with_inner(|inner| inner.limit = stall::limit(Some(seconds), pause));
        }
        let problem = if let Watchdog::Sidekiqs(problem) = watchdog { Some(problem) } else { None };
        self.set_problem("watchdog", problem);
        *self.manager.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Manager { socket, sent: Sent::default(), is_fed, is_accepted: true, stopping_since: None });
        if let Some(main) = platform::other_main_process() {
            self.check_main_process(main);
        }
        self.notify_manager(false);
        Notified { of_state: true, of_heartbeat: is_fed }
    }

    /// By default systemd accepts notifications only from the main process of a service. A thread of its own queries
    /// systemd, because no boot waits for it.
    pub(super) fn check_main_process(self: &Arc<Self>, main: i32) {
        self.set_accepted(false);
        let lifecycle = Arc::clone(self);
        let ask = move || {
            let service = platform::service(lifecycle.owner, PATIENCE);
            if service.as_ref().is_some_and(|service| service.accepts_all) {
                lifecycle.set_accepted(true);
                return lifecycle.check_stop_timeout();
            }
            // An ordinary user without D-Bus cannot query systemd, and it may be set.
            let unless = if service.is_some() { "" } else { " unless NotifyAccess=all is set" };
            let name = Snapshot::of(main).map_or_else(String::new, |main| format!(" ({})", main.name));
            let problem = format!(
                "systemd accepts notifications only from the main process of the service, pid {main}{name}, not from this one{unless}, \
                 so a start of Type=notify fails after TimeoutStartSec; let ExecStart= become Sidekiq itself (exec in a script, \
                 User= instead of su or sudo), or set NotifyAccess=all"
            );
            lifecycle.set_problem("main_process", Some(problem));
        };
        let asking = disposition::spawn("lifecycle systemd", ask);
        if let Err(error) = asking {
            self.set_problem("main_process", Some(format!("cannot start a thread that queries systemd ({error})")));
        }
    }

    pub(super) fn set_accepted(&self, is_accepted: bool) {
        if let Some(manager) = self.manager.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            manager.is_accepted = is_accepted;
        }
    }

    /// Sends the service manager the current state. What did not reach it is sent again at the next heartbeat.
    pub(super) fn notify_manager(&self, is_heartbeat: bool) {
        let late = self.check_lateness();
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Manager { socket, sent, is_fed, stopping_since, .. }) = manager.as_mut() else { return };
        let record = self.record();
        let time = record.about.timeout.filter(|_| record.state == State::Stopping);
        let left = time.map(|timeout| {
            let now = Instant::now();
            let (taken, to_come) = self.with_inner(|Inner { hooks, .. }| (hooks.so_far(now), hooks.to_come(now)));
            let (since, before) = *stopping_since.get_or_insert((now, taken));
            timeout + stop_timeout::EPILOGUE + to_come + (taken - before)
                - now.saturating_duration_since(since).as_secs_f64()
        });
        let why = record.why_in_words();
        let now = StatusSnapshot {
            state: record.state,
            drained: record.drained,
            withheld: record.withheld.as_deref(),
            busy: record.busy,
            jobs: &job::list(&record.jobs.running, record::now()),
            concurrency: record.about.concurrency,
            left: left.unwrap_or_default(),
            exit_status: record.exit_status,
            why: why.as_deref(),
            late: late.as_deref(),
        };
        let result = socket.send(&sd_notify::message(*sent, &now, is_heartbeat && *is_fed));
        if result.is_ok() {
            *sent = sent.with(&now);
        }
        self.set_problem("systemd", result.err().map(|error| error.to_string()));
    }
}

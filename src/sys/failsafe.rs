//! Timers that keep a relay from leaving a process stopped, whatever happens to the relay.

#![allow(unsafe_code)]

use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use crate::model::trace_denied::{Call, Refusal};

/// How often a relay checks whether it has missed anything, and how often the kernel continues it if somebody has
/// stopped it.
const TICK: TimeSpec = TimeSpec::new(1, 0);

/// A second tick. A SIGSTOP discards a pending SIGCONT (signal(7)), and the timer that sent it has expired. So there
/// are two, far enough apart that a relay has received the first before the second.
const SECOND_TICK: TimeSpec = TimeSpec::new(3, 0);

/// How long a relay may work after it wakes; it usually takes some milliseconds.
const STUCK: TimeSpec = TimeSpec::new(10, 0);

/// Kernel timers that keep a relay from leaving a process stopped: two continue a relay that was stopped (SIGSTOP)
/// and wake it, and the third kills one that is stuck. The kernel then releases all that it traces (`ptrace(2)`).
#[derive(Debug)]
pub struct Failsafe {
    ticks: [(Timer, TimeSpec); 2],
    stuck: Timer,
}

impl Failsafe {
    /// Starts all of them ([`Failsafe::awake`]).
    ///
    /// # Errors
    /// The call that was refused, and its errno.
    pub fn start() -> Result<Self, Refusal> {
        let refused = |errno: Errno| Refusal::Call(Call::Timer, errno as i32);
        extern "C" fn wake(_: libc::c_int) {}
        // SAFETY: the handler does nothing, which is allowed at any time. The set has only SIGCONT.
        unsafe {
            libc::signal(libc::SIGCONT, wake as extern "C" fn(libc::c_int) as libc::sighandler_t);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCONT);
            Errno::result(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut())).map_err(refused)?;
        }
        let timer = |signal| {
            Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(SigevNotify::SigevSignal { signal, si_value: 0 }))
        };
        let tick = |after| Ok((timer(Signal::SIGCONT).map_err(refused)?, after));
        let mut failsafe =
            Self { ticks: [tick(TICK)?, tick(SECOND_TICK)?], stuck: timer(Signal::SIGKILL).map_err(refused)? };
        failsafe.awake().map_err(refused)?;
        Ok(failsafe)
    }

    /// Marks the relay as awake: it must [sleep](Self::asleep) again soon. The ticks count from now.
    ///
    /// # Errors
    /// The system's error.
    pub fn awake(&mut self) -> nix::Result<()> {
        for (tick, after) in &mut self.ticks {
            tick.set(Expiration::OneShot(*after), TimerSetTimeFlags::empty())?;
        }
        self.stuck.set(Expiration::OneShot(STUCK), TimerSetTimeFlags::empty())
    }

    /// Marks the relay as asleep, for any time: a container that is paused meanwhile (`docker pause`) does no harm.
    pub fn asleep(&mut self) {
        let never = TimeSpec::new(0, 0);
        let _ = self.stuck.set(Expiration::OneShot(never), TimerSetTimeFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    /// A process that starts a [`Failsafe`] and then does nothing; the tests below run it.
    #[test]
    #[ignore = "a process for other tests"]
    fn stuck() {
        let failsafe = Failsafe::start().unwrap();
        println!("started");
        std::thread::sleep(std::time::Duration::from_secs(300));
        drop(failsafe);
    }

    /// The same with the first tick pending.
    #[test]
    #[ignore = "a process for other tests"]
    fn stuck_with_a_tick() {
        use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
        let failsafe = Failsafe::start().unwrap();
        let mut tick = SigSet::empty();
        tick.add(Signal::SIGCONT);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&tick), None).unwrap();
        let blocked = format!("{:016x}", 1_u64 << (Signal::SIGCONT as i32 - 1));
        // Pending for the process, as a timer sends it.
        while !std::fs::read_to_string("/proc/thread-self/status").unwrap().contains(&format!("ShdPnd:\t{blocked}")) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        println!("started");
        std::thread::sleep(std::time::Duration::from_secs(300));
        drop(failsafe);
    }

    fn start_stuck(test: &str) -> std::process::Child {
        use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::CommandExt;
        let test = format!("sys::failsafe::tests::{test}");
        let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", &test];
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        // The test harness's own thread would receive the tick.
        let block = || {
            let mut tick = SigSet::empty();
            tick.add(Signal::SIGCONT);
            sigprocmask(SigmaskHow::SIG_BLOCK, Some(&tick), None).map_err(std::io::Error::from)
        };
        // SAFETY: it makes one system call.
        let command = unsafe { command.args(arguments).pre_exec(block) };
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        assert!(BufReader::new(output).lines().any(|line| line.unwrap().contains("started")));
        child
    }

    #[test]
    fn a_relay_that_is_stuck_is_killed() {
        use std::os::unix::process::ExitStatusExt;
        let status = start_stuck("stuck").wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_relay_that_was_stopped_goes_on() {
        goes_on(start_stuck("stuck"));
    }

    #[test]
    fn a_relay_whose_tick_was_thrown_away_by_the_stop_goes_on() {
        goes_on(start_stuck("stuck_with_a_tick"));
    }

    #[track_caller]
    fn goes_on(mut child: std::process::Child) {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        let next = || waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED)).unwrap();
        assert_eq!(next(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
        // If it never continues, it is killed eventually.
        assert_eq!(next(), WaitStatus::Continued(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

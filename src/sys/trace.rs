//! ptrace(2), pidfd_open(2) and queued signals: what the relay is made of. Its `unsafe` code is here.
//!
//! nix knows no real-time signals and would fail on the first one that a traced shell gets, so signals are plain
//! numbers here.
//!
//! A process that dies of SIGKILL is let go at once, and one that wants to leave is stopped before it has begun to exit
//! ([`Stop::Leaving`]): there a SIGKILL still ends it, while one that is exiting already drops it (`kernel/signal.c`,
//! `prepare_signal`).

#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{getpid, getuid};

use crate::model::forwarding::FORWARDED;
use crate::model::trace_denied::{Call, Refusal};

/// Why a traced process has stopped, or that it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered; [`resume`] says which one is.
    Signal(i32),
    /// It was stopped by a signal, as a shell's `kill -STOP` does; it wants [`listen`].
    Group,
    /// It begins this system call, of which it was asked to tell ([`Until::Call`]).
    Call(i64),
    /// It begins the system call that ends it. A SIGKILL still works.
    Leaving,
    /// It is exiting, and does when it is resumed. No signal works any more.
    Exit,
    /// It dies of SIGKILL.
    Killed,
    /// It has become another program.
    Exec,
    /// Anything else that only wants to be resumed.
    Passing,
    /// It has ended, or is traced no more.
    Ended,
}

/// How far a traced process runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its next signal, exec or end.
    Event,
    /// To its next system call, too.
    Call,
}

/// Begins to trace a process, which runs on: all of its threads, for a signal may be delivered to any of them, and those that it
/// begins from now on.
///
/// # Errors
/// EPERM: it may not be traced, or is already. ESRCH: there is no such process.
pub fn seize(pid: i32) -> nix::Result<()> {
    let events = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACECLONE;
    let options = events | libc::PTRACE_O_TRACESYSGOOD;
    request(libc::PTRACE_SEIZE, pid, options)?;
    // One that is not traced yet may begin another meanwhile.
    let mut seen = vec![pid];
    loop {
        let new: Vec<i32> = threads(pid).into_iter().filter(|thread| !seen.contains(thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in &new {
            // It has ended, or one that is traced has begun it.
            let _ = request(libc::PTRACE_SEIZE, *thread, options);
        }
        seen.extend(new);
    }
}

/// The threads of a process; the first one has its number.
#[must_use]
pub fn threads(pid: i32) -> Vec<i32> {
    let names = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect()
}

/// Lets a stopped process run, and delivers a signal to it; 0 is none.
///
/// # Errors
/// ESRCH: it is not stopped, or is gone.
pub fn resume(pid: i32, signal: i32, until: Until) -> nix::Result<()> {
    let how = match until {
        Until::Event => libc::PTRACE_CONT,
        Until::Call => libc::PTRACE_SYSCALL,
    };
    request(how, pid, signal)
}

/// Stops a traced process for a moment, so that it can be [resumed](resume) in another way. A system call that it waits in
/// goes on afterwards.
///
/// # Errors
/// ESRCH: it is gone.
pub fn interrupt(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_INTERRUPT, pid, 0)
}

/// Leaves a process in its group-stop until it is continued.
///
/// # Errors
/// As [`resume`].
pub fn listen(pid: i32) -> nix::Result<()> {
    request(libc::PTRACE_LISTEN, pid, 0)
}

/// Lets a stopped process run, delivers a signal to it (0 is none), and traces it no more.
///
/// # Errors
/// As [`resume`].
pub fn release(pid: i32, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_DETACH, pid, signal)
}

/// Whether each system call that a relay needs works here. A seccomp profile may refuse some of them, and half a relay
/// would swallow signals. `worker` is the process that it is to signal.
///
/// # Errors
/// The call that is refused, and how.
pub fn verify(worker: &Handle) -> Result<(), Refusal> {
    let refused = |call| move |errno: Errno| Refusal::Call(call, errno as i32);
    // Nobody has this pid, and the honest answer is ESRCH.
    match request(libc::PTRACE_CONT, i32::MAX, 0) {
        Err(Errno::ESRCH) => {}
        answer => return Err(refused(Call::Ptrace)(answer.err().unwrap_or(Errno::EPERM))),
    }
    match wait(&mut 0) {
        Ok(_) | Err(Errno::ECHILD) => {}
        Err(errno) => return Err(refused(Call::Wait)(errno)),
    }
    worker.signal(0).map_err(refused(Call::PidfdSendSignal))
}

/// The process that a thread belongs to.
#[must_use]
pub fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn request(request: Request, pid: i32, data: libc::c_int) -> nix::Result<()> {
    let no_address: *mut libc::c_void = ptr::null_mut();
    let data = usize::try_from(data).unwrap_or_default() as *mut libc::c_void;
    // SAFETY: of the requests used here none reads or writes memory of ours; `data` is a number.
    Errno::result(unsafe { libc::ptrace(request, pid, no_address, data) }).map(drop)
}

/// Who sent the signal that a stopped process is about to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel, for somebody at the terminal: all of the foreground group gets it.
    Terminal,
    /// A process; 0 for one of another PID namespace, as `docker stop` is.
    Process(i32),
}

/// Tells the sender.
#[must_use]
pub fn sender(pid: i32) -> Sender {
    match signal_info(pid) {
        Some(info) if info.si_code == libc::SI_KERNEL => Sender::Terminal,
        // SAFETY: of a signal that a process has sent, the field is set; of others it is a number without meaning.
        Some(info) => Sender::Process(unsafe { info.si_pid() }),
        None => Sender::Process(0),
    }
}

fn signal_info(pid: i32) -> Option<libc::siginfo_t> {
    // SAFETY: all zeroes is a valid value of this plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: `info` is valid for writes of a siginfo_t, which is what this request writes.
    let asked = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, pid, no_address, ptr::from_mut(&mut info)) };
    (asked == 0).then_some(info)
}

/// The child that has just been stopped, if that is what the signal that a stopped process is about to get says.
#[must_use]
pub fn stopped_child(pid: i32) -> Option<i32> {
    let info = signal_info(pid).filter(|info| info.si_signo == libc::SIGCHLD && info.si_code == libc::CLD_STOPPED)?;
    // SAFETY: of a SIGCHLD the field is set.
    Some(unsafe { info.si_pid() })
}

/// What has happened to a thread that is traced since the last call, and to which; `None` if nothing has.
#[must_use]
pub fn next_stop() -> Option<(i32, Stop)> {
    let mut status = 0;
    let pid = wait(&mut status).ok().filter(|pid| *pid > 0)?;
    if !libc::WIFSTOPPED(status) {
        return Some((pid, Stop::Ended));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        0 if signal == libc::SIGTRAP | SYSTEM_CALL => system_call(pid),
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXIT if dies_of_kill(pid) => Stop::Killed,
        libc::PTRACE_EVENT_EXIT => Stop::Exit,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        _ => Stop::Passing,
    };
    Some((pid, stop))
}

/// Tells a system call's stop from a SIGTRAP (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL: i32 = 0x80;

fn wait(status: &mut libc::c_int) -> nix::Result<i32> {
    // SAFETY: `status` is valid for writes.
    Errno::result(unsafe { libc::waitpid(-1, status, libc::WNOHANG | libc::__WALL) })
}

/// At its exit stop a process's event message is the status that its parent will wait for.
fn dies_of_kill(pid: i32) -> bool {
    let mut status: libc::c_ulong = 0;
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: `status` is valid for writes of an unsigned long, which is what this request writes.
    let asked = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, no_address, ptr::from_mut(&mut status)) };
    let status = libc::c_int::try_from(status).unwrap_or_default();
    asked == 0 && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL
}

/// The start of the kernel's `struct ptrace_syscall_info` (ptrace(2), PTRACE_GET_SYSCALL_INFO, since Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct SystemCall {
    operation: u8,
    padding: [u8; 3],
    architecture: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    /// Of an entry only.
    number: u64,
}

const GET_SYSCALL_INFO: Request = 0x420e;
const ENTRY: u8 = 1;

fn system_call(pid: i32) -> Stop {
    let mut call = SystemCall::default();
    let size = size_of::<SystemCall>() as *mut libc::c_void;
    // SAFETY: the kernel writes at most as many bytes as the address argument says, which is the size of `call`.
    let written = unsafe { libc::ptrace(GET_SYSCALL_INFO, pid, size, ptr::from_mut(&mut call)) };
    match i64::try_from(call.number) {
        Ok(number) if written > 0 && call.operation == ENTRY => match number {
            libc::SYS_exit if threads(pid).len() > 1 => Stop::Passing,
            libc::SYS_exit_group | libc::SYS_exit => Stop::Leaving,
            number => Stop::Call(number),
        },
        _ => Stop::Passing,
    }
}

/// A process that cannot be taken for another one, even once it has ended. Readable (`poll(2)`) when it has.
#[derive(Debug)]
pub struct Handle {
    /// Its process id.
    pub pid: i32,
    descriptor: OwnedFd,
}

impl Handle {
    /// Opens a process.
    ///
    /// # Errors
    /// ESRCH: there is none. ENOSYS: the kernel is older than 5.3.
    pub fn open(pid: i32) -> nix::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it. It is close-on-exec.
        Ok(Self { pid, descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM: it may not be signalled.
    pub fn signal(&self, signal: i32) -> nix::Result<()> {
        send(self.descriptor.as_raw_fd(), signal, ptr::null())
    }

    /// Sends it a [`Message`].
    ///
    /// # Errors
    /// As [`Handle::signal`].
    pub fn tell(&self, message: Message) -> nix::Result<()> {
        tell(self.descriptor.as_raw_fd(), message)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl IntoRawFd for Handle {
    fn into_raw_fd(self) -> RawFd {
        self.descriptor.into_raw_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// What a relay is told, by its worker or by another relay: a queued signal with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The worker has heard this signal.
    Heard(i32),
    /// Another relay has a worker below this process, which the relay told so traces.
    Join(i32),
    /// This signal has come to a process (its pid) that the other relay traces, and goes no further.
    Carry(i32, i32),
    /// This signal has come to such a process, which has a handler for it.
    Watch(i32),
    /// That handler does something of its own, and decides.
    Decides(i32),
    /// Such a process wants to end, and waits for the worker.
    Ending,
    /// The relay is not wanted.
    Leave,
    /// The worker has ended at the latest this many seconds after it was told to stop.
    Limit(i32),
    /// The worker's application has a trap of its own for this signal.
    Traps(i32),
    /// This signal was sent to a program (its pid) between the shell that it came to and some of the workers.
    Sent(i32, i32),
}

impl Message {
    /// The kind, the signal, and the process id or the seconds.
    fn to_number(self) -> usize {
        let (kind, signal, value) = match self {
            Self::Heard(signal) => (1, signal, 0),
            Self::Join(pid) => (2, 0, pid),
            Self::Carry(signal, pid) => (3, signal, pid),
            Self::Watch(signal) => (4, signal, 0),
            Self::Ending => (5, 0, 0),
            Self::Leave => (6, 0, 0),
            Self::Limit(seconds) => (7, 0, seconds),
            Self::Traps(signal) => (8, signal, 0),
            Self::Decides(signal) => (9, signal, 0),
            Self::Sent(signal, pid) => (10, signal, pid),
        };
        let part = |number: i32| usize::try_from(number).unwrap_or_default();
        kind << 40 | (part(signal) & 0xFF) << 32 | part(value)
    }

    /// Reads what was sent; `None` if it was none of ours.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let signal = i32::try_from(number >> 32 & 0xFF).ok()?;
        let value = i32::try_from(number & 0xFFFF_FFFF).ok()?;
        match number >> 40 {
            1 => Some(Self::Heard(signal)),
            2 => Some(Self::Join(value)),
            3 => Some(Self::Carry(signal, value)),
            4 => Some(Self::Watch(signal)),
            5 => Some(Self::Ending),
            6 => Some(Self::Leave),
            7 => Some(Self::Limit(value)),
            8 => Some(Self::Traps(signal)),
            9 => Some(Self::Decides(signal)),
            10 => Some(Self::Sent(signal, value)),
            _ => None,
        }
    }
}

/// The signal that carries messages. Real-time signals are queued and not merged.
#[must_use]
pub fn message_signal() -> i32 {
    libc::SIGRTMIN() + 4
}

/// The kernel's `siginfo_t` of a queued signal (`sigaction(2)`, `asm-generic/siginfo.h`); libc has no way to fill it in.
#[repr(C)]
struct Queued {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Queued>() == 128 && size_of::<libc::siginfo_t>() == 128);

/// Sends a message through a pidfd. Async-signal-safe.
///
/// # Errors
/// ESRCH: it has ended.
pub fn tell(pidfd: RawFd, message: Message) -> nix::Result<()> {
    let signal = message_signal();
    let info = Queued {
        signo: signal,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        pid: getpid().as_raw(),
        uid: getuid().as_raw(),
        value: message.to_number(),
        rest: [0; 12],
    };
    send(pidfd, signal, &raw const info)
}

fn send(pidfd: RawFd, signal: i32, info: *const Queued) -> nix::Result<()> {
    // SAFETY: `info` is null or points to a value of siginfo_t's size and form, which the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, info, 0) }).map(drop)
}

/// What has come to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// From this process.
    Message(i32, Message),
    /// Somebody took the relay for the worker, and sent it this signal.
    Signal(i32),
}

/// Receives what the relay waits for: that something has happened to a traced process, messages, and signals that somebody
/// sends to the relay itself. All signals are blocked from now on, and have their default dispositions: with CHLD ignored,
/// which is inherited (`execve(2)`), the kernel would tell of no stop.
#[derive(Debug)]
pub struct Inbox {
    descriptor: OwnedFd,
}

impl Inbox {
    /// Opens it.
    ///
    /// # Errors
    /// The call that is refused, and how.
    pub fn open() -> Result<Self, Refusal> {
        let refused = |errno: Errno| Refusal::Call(Call::Signalfd, errno as i32);
        // SAFETY: sigfillset and sigaddset write to a sigset_t of ours; signalfd and sigprocmask read it. SIG_DFL is a
        // valid disposition; KILL, STOP and the C library's own signals are refused.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut())).map_err(refused)?;
            for number in 1..=libc::SIGRTMAX() {
                libc::signal(number, libc::SIG_DFL);
            }
            libc::sigemptyset(&raw mut set);
            for number in [libc::SIGCHLD, message_signal()].into_iter().chain(FORWARDED) {
                libc::sigaddset(&raw mut set, number);
            }
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let descriptor = Errno::result(libc::signalfd(-1, &raw const set, flags)).map_err(refused)?;
            // SAFETY: as above, it is ours alone.
            Ok(Self { descriptor: OwnedFd::from_raw_fd(descriptor) })
        }
    }

    /// What has come since the last call.
    #[must_use]
    pub fn read(&self) -> Vec<Mail> {
        let mut mail = Vec::new();
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        while nix::unistd::read(&self.descriptor, &mut buffer) == Ok(buffer.len()) {
            // SAFETY: the kernel has written a whole signalfd_siginfo, a plain C struct, to these bytes.
            let info: libc::signalfd_siginfo = unsafe { ptr::read_unaligned(buffer.as_ptr().cast()) };
            let pid = i32::try_from(info.ssi_pid).unwrap_or_default();
            match i32::try_from(info.ssi_signo).unwrap_or_default() {
                signal if signal == message_signal() => {
                    mail.extend(Message::from_number(info.ssi_ptr).map(|message| Mail::Message(pid, message)));
                }
                libc::SIGCHLD => {}
                signal => mail.push(Mail::Signal(signal)),
            }
        }
        mail
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// How often a relay looks whether it has missed anything. It is continued as often by the kernel, should somebody have
/// stopped it.
const TICK: TimeSpec = TimeSpec::new(1, 0);

/// The tick once more. A SIGSTOP throws away a SIGCONT that is there and was not taken yet (signal(7)), and with it the timer
/// that sent it is over; so there are two, far enough apart that a relay has taken the first before the second.
const SECOND_TICK: TimeSpec = TimeSpec::new(3, 0);

/// How long a relay may take for what it does when it is woken; some milliseconds are usual.
const STUCK: TimeSpec = TimeSpec::new(10, 0);

/// Timers of the kernel's, by which no relay keeps a process stopped: two continue a relay that was stopped (SIGSTOP)
/// and wake it, the third kills one that is stuck, at which the kernel lets go of all that it traces (`ptrace(2)`).
#[derive(Debug)]
pub struct Failsafe {
    ticks: [(Timer, TimeSpec); 2],
    stuck: Timer,
}

impl Failsafe {
    /// Begins, with all of them [running](Self::awake).
    ///
    /// # Errors
    /// The call that is refused, and how.
    pub fn start() -> Result<Self, Refusal> {
        let refused = |errno: Errno| Refusal::Call(Call::Timer, errno as i32);
        extern "C" fn wake(_: libc::c_int) {}
        // SAFETY: the handler does nothing, which is allowed at any time. Of the set only SIGCONT is let through.
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

    /// From now on it is to [sleep](Self::asleep) again soon. The next tick is counted from here.
    ///
    /// # Errors
    /// What the system says.
    pub fn awake(&mut self) -> nix::Result<()> {
        for (tick, after) in &mut self.ticks {
            tick.set(Expiration::OneShot(*after), TimerSetTimeFlags::empty())?;
        }
        self.stuck.set(Expiration::OneShot(STUCK), TimerSetTimeFlags::empty())
    }

    /// It may sleep for as long as it likes; a container that is paused meanwhile (`docker pause`) does it no harm.
    pub fn asleep(&mut self) {
        let never = TimeSpec::new(0, 0);
        let _ = self.stuck.set(Expiration::OneShot(never), TimerSetTimeFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    #[test]
    fn messages_survive_the_way() {
        for message in [
            Message::Heard(15),
            Message::Join(4_194_304),
            Message::Carry(20, 4_194_304),
            Message::Watch(2),
            Message::Decides(2),
            Message::Sent(12, 4_194_304),
            Message::Ending,
            Message::Leave,
            Message::Limit(i32::MAX),
            Message::Traps(12),
        ] {
            let number = u64::try_from(message.to_number()).unwrap();
            assert_eq!(Message::from_number(number), Some(message));
        }
        assert_eq!(Message::from_number(0), None);
        assert_eq!(Message::from_number(u64::MAX), None);
    }

    #[test]
    fn every_call_works_where_tests_are_run() {
        let own = Handle::open(getpid().as_raw()).unwrap();
        assert_eq!(verify(&own), Ok(()));
    }

    #[test]
    fn a_handle_is_of_one_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = Handle::open(i32::try_from(child.id()).unwrap()).unwrap();
        handle.signal(libc::SIGTERM).unwrap();
        child.wait().unwrap();
        assert_eq!(handle.signal(0), Err(Errno::ESRCH));
        assert_eq!(handle.tell(Message::Leave), Err(Errno::ESRCH));
    }

    /// A process that has begun with a [`Failsafe`] and then does nothing; it is run by the tests below.
    #[test]
    #[ignore = "it is a process for other tests"]
    fn stuck() {
        let failsafe = Failsafe::start().unwrap();
        println!("started");
        std::thread::sleep(std::time::Duration::from_secs(300));
        drop(failsafe);
    }

    /// One in which the first tick has come and was not taken.
    #[test]
    #[ignore = "it is a process for other tests"]
    fn stuck_with_a_tick() {
        use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
        let failsafe = Failsafe::start().unwrap();
        let mut tick = SigSet::empty();
        tick.add(Signal::SIGCONT);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&tick), None).unwrap();
        let blocked = format!("{:016x}", 1_u64 << (Signal::SIGCONT as i32 - 1));
        // For the process, as a timer sends it.
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
        let test = format!("sys::trace::tests::{test}");
        let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", &test];
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        // The thread that waits for the test would take the tick.
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
    fn every_thread_of_a_process_is_seized() {
        let mut child = start_stuck("stuck");
        let pid = i32::try_from(child.id()).unwrap();
        let threads = threads(pid);
        let seized = seize(pid);
        // SAFETY: the call takes no arguments.
        let own = unsafe { libc::gettid() };
        let tracer = |thread: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
            tracer.trim().parse::<i32>().unwrap()
        };
        let tracers: Vec<i32> = threads.iter().map(tracer).collect();
        let processes: Vec<Option<i32>> = threads.iter().map(|thread| process_of(*thread)).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seized, Ok(()));
        assert!(threads.len() > 1, "{threads:?}");
        assert_eq!(tracers, vec![own; threads.len()]);
        assert_eq!(processes, vec![Some(pid); threads.len()]);
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
        // Should it never go on, it is killed some time.
        assert_eq!(next(), WaitStatus::Continued(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

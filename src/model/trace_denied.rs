//! Why there is no relay, and what to change: `ptrace(2)`, "Ptrace access mode checking"; `seccomp(2)`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is known about a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The user of the process to be traced, if it is another one.
    pub other_user: Option<u32>,
    /// The process that traces it already; 0 for none.
    pub tracer: i32,
    /// `/proc/sys/kernel/yama/ptrace_scope`; `None` without Yama.
    pub yama: Option<u8>,
    /// CAP_SYS_PTRACE is effective.
    pub is_capable: bool,
}

/// A system call that the relay needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// ptrace(2).
    Ptrace,
    /// pidfd_open(2), since Linux 5.3.
    PidfdOpen,
    /// pidfd_send_signal(2), since Linux 5.1.
    PidfdSendSignal,
    /// signalfd(2).
    Signalfd,
    /// timer_create(2), timer_settime(2).
    Timer,
    /// wait4(2).
    Wait,
}

/// Why there is no relay, or why it may not trace a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The kernel is older than 5.3 and has no pidfd_open(2).
    OldKernel,
    /// A system call is refused with this errno, most likely by a seccomp profile.
    Call(Call, i32),
    /// Another process traces it.
    Traced(i32),
    /// It belongs to another user.
    OtherUser(u32),
    /// Yama's ptrace_scope.
    Yama(u8),
    /// The kernel gives no reason.
    Unknown,
}

impl Refusal {
    /// Determines why a process may not be traced: the check that fails first, or most certainly.
    #[must_use]
    pub fn of(evidence: Evidence) -> Self {
        match evidence {
            Evidence { tracer, .. } if tracer != 0 => Self::Traced(tracer),
            Evidence { yama: Some(scope @ 3..), .. } => Self::Yama(scope),
            Evidence { other_user: Some(uid), is_capable: false, .. } => Self::OtherUser(uid),
            Evidence { yama: Some(scope @ 1..), is_capable: false, .. } => Self::Yama(scope),
            _ => Self::Unknown,
        }
    }

    /// What to change, for a worker that runs as root or as another user: only root receives a capability that is
    /// added to a container (capabilities(7), "Capabilities and execution of programs by root"). The advice about the
    /// path has what works everywhere, `run` in front; a capability is for those who cannot use that.
    #[must_use]
    pub fn advice(self, is_root: bool) -> String {
        let capability = "to keep its command, add the capability SYS_PTRACE (docker run --cap-add SYS_PTRACE; on \
                          ECS linuxParameters.capabilities.add; in Kubernetes securityContext.capabilities.add)";
        match self {
            Self::OldKernel | Self::Yama(3..) | Self::Unknown => String::new(),
            Self::Call(call, _) => {
                format!("allow {call} in the seccomp profile, as Docker's default profile does since 20.10")
            }
            Self::Traced(_) => "end that tracer and restart Sidekiq".to_owned(),
            Self::OtherUser(_) if is_root => format!("run both as one user, or {capability}"),
            Self::OtherUser(_) => "run both as one user".to_owned(),
            Self::Yama(_) if is_root => capability.to_owned(),
            Self::Yama(_) => String::new(),
        }
    }

    /// Whether it concerns one process, and not the relay as a whole.
    #[must_use]
    pub fn is_of_a_process(self) -> bool {
        !matches!(self, Self::OldKernel | Self::Call(..))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Ptrace => "ptrace",
            Self::PidfdOpen => "pidfd_open",
            Self::PidfdSendSignal => "pidfd_send_signal",
            Self::Signalfd => "signalfd4",
            Self::Timer => "timer_create and timer_settime",
            Self::Wait => "wait4",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldKernel => write!(out, "the kernel is older than 5.3 and has no pidfd_open"),
            Self::Call(call, errno) => {
                let why = nix::errno::Errno::from_raw(*errno);
                write!(out, "{call} is refused ({why:?}), most likely by a seccomp profile")
            }
            Self::Traced(pid) => write!(out, "process {pid} traces it already"),
            Self::OtherUser(uid) => write!(out, "it belongs to another user (uid {uid})"),
            Self::Yama(scope) => write!(out, "Yama forbids it (kernel.yama.ptrace_scope is {scope})"),
            Self::Unknown => write!(out, "the kernel does not allow tracing it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_and_what_to_change() {
        let none = Evidence::default();
        let table: &[(Evidence, Refusal, &str)] = &[
            (none, Refusal::Unknown, ""),
            (Evidence { tracer: 9, ..none }, Refusal::Traced(9), "end that tracer"),
            (Evidence { other_user: Some(0), yama: Some(1), ..none }, Refusal::OtherUser(0), "as one user"),
            (Evidence { other_user: Some(0), is_capable: true, ..none }, Refusal::Unknown, ""),
            (Evidence { yama: Some(0), ..none }, Refusal::Unknown, ""),
            (Evidence { yama: Some(1), ..none }, Refusal::Yama(1), "SYS_PTRACE"),
            (Evidence { yama: Some(2), is_capable: true, ..none }, Refusal::Unknown, ""),
            (Evidence { yama: Some(3), is_capable: true, ..none }, Refusal::Yama(3), ""),
        ];
        for (evidence, refusal, advice) in table {
            assert_eq!(Refusal::of(*evidence), *refusal, "{evidence:?}");
            assert!(refusal.advice(true).contains(advice), "{refusal:?}");
            assert!(!refusal.advice(false).contains("SYS_PTRACE"), "{refusal:?}");
            assert!(!refusal.to_string().is_empty());
        }
        assert!(
            Refusal::OldKernel.to_string().contains("older than 5.3") && Refusal::OldKernel.advice(true).is_empty()
        );
        for (call, name, advice) in [
            (Call::Ptrace, "ptrace", "allow ptrace in the seccomp profile"),
            (Call::PidfdOpen, "pidfd_open", "allow pidfd_open in the seccomp profile"),
            (Call::PidfdSendSignal, "pidfd_send_signal", "allow pidfd_send_signal"),
            (Call::Signalfd, "signalfd4", "allow signalfd4"),
            (Call::Timer, "timer_create and timer_settime", "allow timer_create and timer_settime"),
            (Call::Wait, "wait4", "allow wait4"),
        ] {
            let refusal = Refusal::Call(call, nix::libc::EPERM);
            assert_eq!(refusal.to_string(), format!("{name} is refused (EPERM), most likely by a seccomp profile"));
            assert!(refusal.advice(false).contains(advice), "{}", refusal.advice(false));
            assert!(!refusal.is_of_a_process());
        }
    }
}

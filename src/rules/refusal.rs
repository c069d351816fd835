//! Why a process may not be traced, and what to change: `ptrace(2)`, "Ptrace access mode checking".

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is known of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// ptrace(2) fails even where no process is asked for.
    pub is_denied: bool,
    /// The user of the process that was to be traced, where it is another one.
    pub other_user: Option<u32>,
    /// Who traces it already.
    pub tracer: i32,
    /// `/proc/sys/kernel/yama/ptrace_scope`; `None` without Yama.
    pub yama: Option<u8>,
    /// CAP_SYS_PTRACE is effective.
    pub is_capable: bool,
}

/// Why a process may not be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// pidfd_open(2) came with Linux 5.3.
    OldKernel,
    /// A seccomp profile denies ptrace(2).
    Seccomp,
    /// Somebody else traces it.
    Traced(i32),
    /// It belongs to another user.
    OtherUser(u32),
    /// Yama's ptrace_scope.
    Yama(u8),
    /// The kernel does not say why.
    Unknown,
}

impl Refusal {
    /// Tells the reason: the one that would refuse first, or most surely.
    #[must_use]
    pub fn of(evidence: Evidence) -> Self {
        match evidence {
            Evidence { is_denied: true, .. } => Self::Seccomp,
            Evidence { tracer, .. } if tracer != 0 => Self::Traced(tracer),
            Evidence { yama: Some(scope @ 3..), .. } => Self::Yama(scope),
            Evidence { other_user: Some(uid), is_capable: false, .. } => Self::OtherUser(uid),
            Evidence { yama: Some(scope @ 1..), is_capable: false, .. } => Self::Yama(scope),
            _ => Self::Unknown,
        }
    }

    /// What to change, the easiest first.
    #[must_use]
    pub fn advice(self) -> String {
        let capability = "add the capability SYS_PTRACE (docker run --cap-add SYS_PTRACE; on ECS \
                          linuxParameters.capabilities.add; in Kubernetes securityContext.capabilities.add)";
        match self {
            Self::OldKernel | Self::Yama(3..) | Self::Unknown => String::new(),
            Self::Seccomp => format!("{capability}, or use the default seccomp profile of Docker 20 or later"),
            Self::Traced(_) => "end that tracer and start Sidekiq anew".to_owned(),
            Self::OtherUser(_) => format!("start both as one user, or {capability}"),
            Self::Yama(_) => capability.to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldKernel => write!(out, "the kernel is older than 5.3 and has no pidfd_open"),
            Self::Seccomp => write!(out, "a seccomp profile denies ptrace"),
            Self::Traced(pid) => write!(out, "process {pid} traces it already"),
            Self::OtherUser(uid) => write!(out, "it belongs to another user (uid {uid})"),
            Self::Yama(scope) => write!(out, "Yama forbids it (kernel.yama.ptrace_scope is {scope})"),
            Self::Unknown => write!(out, "the kernel does not allow it to be traced"),
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
            (Evidence { is_denied: true, yama: Some(1), ..none }, Refusal::Seccomp, "--cap-add SYS_PTRACE"),
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
            assert!(refusal.advice().contains(advice), "{refusal:?}");
            assert!(!refusal.to_string().is_empty());
        }
        assert!(Refusal::OldKernel.to_string().contains("older than 5.3") && Refusal::OldKernel.advice().is_empty());
    }
}

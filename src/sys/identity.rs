//! Which process it is: a pid alone does not identify it, because pids are reused.
//!
//! Linux: `proc_pid_stat(5)` field 22 is the start time, `proc_sys_kernel(5)` has the boot id, and
//! `pid_namespaces(7)` explains where a pid is valid. Elsewhere only the pid is known.

use std::fs;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::model::probe::Presence;
use crate::sys::proc_file;

/// What distinguishes a process from every other that has had, or will have, its pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id, as seen in its own PID namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the boot; `None` without /proc.
    pub start_time: Option<u64>,
    /// Which boot of the kernel; `None` without /proc.
    pub boot_id: Option<String>,
    /// The inode of its PID namespace; `None` without /proc.
    pub pid_namespace: Option<u64>,
}

impl Identity {
    /// The identity of the calling process.
    #[must_use]
    pub fn own() -> Self {
        let pid = Pid::this().as_raw();
        Self { pid, start_time: start_time(pid), boot_id: boot_id(), pid_namespace: own_pid_namespace() }
    }

    /// It is from another boot of this machine, and gone; or from another machine.
    #[must_use]
    pub fn is_of_another_boot(&self) -> bool {
        self.boot_id.is_some() && self.boot_id != boot_id()
    }

    /// Whether both are in one PID namespace of one machine: there a pid belongs to one process at a time.
    #[must_use]
    pub fn is_of_same_place(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id && self.pid_namespace == other.pid_namespace
    }

    /// Whether the process exists, as seen from the calling one. For a process of another machine only its record can
    /// tell ([`crate::store::record::Record::presence`]).
    #[must_use]
    pub fn presence(&self) -> Presence {
        if self.is_of_another_boot() {
            return Presence::Gone;
        }
        if self.pid_namespace.is_some() && self.pid_namespace != own_pid_namespace() {
            return Presence::Elsewhere;
        }
        let here = match (self.start_time, stat(self.pid)) {
            (Some(start_time), Some(now)) => now.start_time == start_time && !now.dead,
            (None, Some(now)) => !now.dead,
            // Without /proc, or where it hides other users' processes (hidepid), only the pid can be checked.
            (_, None) => exists(self.pid),
        };
        if here { Presence::Here } else { Presence::Gone }
    }
}

/// Whether any process has this pid now.
#[must_use]
pub fn exists(pid: i32) -> bool {
    pid > 0 && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

/// When a process started, in clock ticks since the boot; `None` if there is none, or no /proc.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// Like [`start_time`], but reports an error instead of treating an unreadable process as ended.
///
/// # Errors
/// The system's error, such as too many open files.
pub fn start_time_if_any(pid: i32) -> nix::Result<Option<u64>> {
    match proc_file::text(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(&text).map(|stat| stat.start_time)),
        Err(error) => match error.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
            // There is none, or it ended during the read.
            Errno::ENOENT | Errno::ESRCH => Ok(None),
            errno => Err(errno),
        },
    }
}

/// The fields of `proc_pid_stat(5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process group.
    pub group: i32,
    /// It has a controlling terminal.
    pub has_terminal: bool,
    /// When it started, in clock ticks since the boot.
    pub start_time: u64,
    /// It has ended; a zombie has, too, although its parent has not reaped it.
    pub dead: bool,
}

/// The fields of a process; `None` if there is no such process, or no /proc.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&proc_file::text(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name (field 2) may hold spaces and parentheses, so the fields are counted from its last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let terminal: i64 = fields.nth(1)?.parse().ok()?;
    let start_time = fields.nth(14)?.parse().ok()?;
    Some(Stat { group, has_terminal: terminal != 0, start_time, dead: matches!(state, "Z" | "X") })
}

/// Read once: a directory with many records would need it for each.
fn boot_id() -> Option<String> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if BOOT_ID.get().is_none() {
        let read = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let _ = BOOT_ID.set(read.trim().to_owned());
    }
    BOOT_ID.get().cloned()
}

fn own_pid_namespace() -> Option<u64> {
    namespace_of("self")
}

/// Whether the calling process is outside of any container as far as pids are concerned: in the kernel's first PID
/// namespace, whose inode is always this one (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
#[must_use]
pub fn is_in_first_namespace() -> bool {
    own_pid_namespace() == Some(0xEFFF_FFFC)
}

/// The inode of a process's PID namespace; `None` without /proc, or for a process of another user.
#[must_use]
pub fn pid_namespace(pid: i32) -> Option<u64> {
    namespace_of(&pid.to_string())
}

fn namespace_of(process: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{process}/ns/pid")).ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_lines() {
        let line = |comm: &str, state: &str| {
            format!("12 ({comm}) {state} 1 7 12 34816 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 99 1")
        };
        for comm in ["sidekiq", "a b", "a) R (b", ""] {
            let stat = parse_stat(&line(comm, "S")).unwrap();
            assert_eq!((stat.start_time, stat.dead), (4711, false), "{comm}");
            assert_eq!((stat.group, stat.has_terminal), (7, true), "{comm}");
        }
        assert!(!parse_stat(&line("sidekiq", "S").replace("34816", "0")).unwrap().has_terminal);
        assert!(parse_stat(&line("sidekiq", "Z")).unwrap().dead);
        for broken in ["", "12", "12 (x", "12 (x) S 1", "12 (x) S 1 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 soon"] {
            assert!(parse_stat(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn the_calling_process_is_here() {
        let own = Identity::own();
        assert!(own.start_time.is_some() && own.boot_id.is_some() && own.pid_namespace.is_some());
        assert_eq!(own.presence(), Presence::Here);
    }

    #[test]
    fn a_recycled_pid_another_boot_another_namespace() {
        let own = Identity::own();
        let recycled = Identity { start_time: own.start_time.map(|ticks| ticks - 1), ..own.clone() };
        assert_eq!(recycled.presence(), Presence::Gone);
        let another_boot = Identity { boot_id: Some("another".to_owned()), ..own.clone() };
        assert_eq!(another_boot.presence(), Presence::Gone);
        let another_namespace = Identity { pid_namespace: Some(1), ..own };
        assert_eq!(another_namespace.presence(), Presence::Elsewhere);
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = Identity { pid, start_time: start_time(pid), ..Identity::own() };
        assert_eq!(identity.presence(), Presence::Here);
        child.kill().unwrap();
        while stat(pid).is_some_and(|stat| !stat.dead) {
            std::thread::yield_now();
        }
        assert_eq!(identity.presence(), Presence::Gone, "as a zombie");
        child.wait().unwrap();
        assert_eq!(identity.presence(), Presence::Gone, "once reaped");
    }
}

//! How systemd runs the service that a process belongs to.

use std::env;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::duration;
use crate::model::signal_path::KillMode;
use crate::model::stop_timeout::{Source, StopTimeout};

/// The main process of the calling process's service, if that is another one. systemd 248 and later set
/// `$SYSTEMD_EXEC_PID`.
#[must_use]
pub fn other_main_process() -> Option<i32> {
    let main = env::var("SYSTEMD_EXEC_PID").ok()?.parse().ok()?;
    Some(main).filter(|main| *main != nix::unistd::getpid().as_raw())
}

/// How systemd stops the service that a process belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// TimeoutStopSec.
    pub stop_timeout: Option<StopTimeout>,
    /// KillMode.
    pub kill_mode: Option<KillMode>,
    /// The process is the main one, and systemd accepts its notifications (NotifyAccess): it may ask for more time.
    pub is_accepted: bool,
    /// systemd accepts notifications from every process of the service (NotifyAccess=all).
    pub accepts_all: bool,
}

/// Queries systemd for the service of a process; `None` if it is in none, or systemd is not running or does not answer.
/// It starts systemctl and waits for it for as long as `patience`: too long for a hook.
#[must_use]
pub fn service(pid: i32, patience: Duration) -> Option<Service> {
    // sd_booted(3): how to tell that systemd is the init.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let unit = unit(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?;
    let mut command = Command::new("systemctl");
    if unit.is_users {
        command.arg("--user");
    }
    let properties =
        ["TimeoutStopUSec", "KillMode", "NotifyAccess", "MainPID"].map(|name| format!("--property={name}"));
    command.arg("show").args(properties).args(["--", &unit.name]);
    Some(parse_service(pid, &unit.name, &output(&mut command, patience)?))
}

struct Unit {
    name: String,
    /// It is a user's own systemd.
    is_users: bool,
}

/// cgroups(7): lines of `number:controllers:path`; systemd's is the one without controllers, or named after it. A
/// container is a scope, and so is a login session.
fn unit(cgroups: &str) -> Option<Unit> {
    let is_systemds = |line: &&str| line.starts_with("0::") || line.contains(":name=systemd:");
    let paths = cgroups.lines().filter(is_systemds).filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| path.rsplit_once('/')).find(|(_, name)| name.ends_with(".service")).map(|(above, name)| {
        let is_users = above.split('/').any(|slice| slice.starts_with("user@"));
        Unit { name: name.to_owned(), is_users }
    })
}

fn parse_service(pid: i32, unit: &str, text: &str) -> Service {
    let property = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let seconds = property("TimeoutStopUSec").and_then(duration::parse_systemd);
    Service {
        stop_timeout: seconds.map(|seconds| StopTimeout { seconds, source: Source::Systemd(unit.to_owned()) }),
        kill_mode: property("KillMode").and_then(KillMode::named),
        is_accepted: property("MainPID") == Some(&pid.to_string())
            && property("NotifyAccess").is_some_and(|access| access != "none"),
        accepts_all: property("NotifyAccess") == Some("all"),
    }
}

fn output(command: &mut Command, patience: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().ok()? {
            break status;
        }
        if since.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    // systemctl failed: without D-Bus it cannot query systemd.
    if !status.success() {
        return None;
    }
    let mut text = String::new();
    child.stdout?.read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_cgroups() {
        let table: &[(&str, Option<(&str, bool)>)] = &[
            ("0::/system.slice/shop.service\n", Some(("shop.service", false))),
            ("9:name=systemd:/system.slice/shop.service\n4:memory:/x.service\n", Some(("shop.service", false))),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n", Some(("shop.service", true))),
            ("4:memory:/system.slice/shop.service\n", None),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/system.slice/docker-0123.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            let unit = unit(text);
            let unit = unit.as_ref().map(|unit| (unit.name.as_str(), unit.is_users));
            assert_eq!(unit, *expected, "{text}");
        }
    }

    #[test]
    fn output_of_systemctl() {
        let service = parse_service(7, "shop.service", "KillMode=mixed\nTimeoutStopUSec=1min 30s\n");
        assert_eq!(service.kill_mode, Some(KillMode::Mixed));
        assert_eq!(service.stop_timeout.unwrap().seconds, 90.0);
        assert_eq!(
            parse_service(7, "x", ""),
            Service { stop_timeout: None, kill_mode: None, is_accepted: false, accepts_all: false }
        );
        for (text, is_accepted, accepts_all) in [
            ("NotifyAccess=main\nMainPID=7\n", true, false),
            ("NotifyAccess=all\nMainPID=7\n", true, true),
            ("NotifyAccess=all\nMainPID=77\n", false, true),
            ("NotifyAccess=none\nMainPID=7\n", false, false),
            ("MainPID=7\n", false, false),
        ] {
            let service = parse_service(7, "x", text);
            assert_eq!((service.is_accepted, service.accepts_all), (is_accepted, accepts_all), "{text}");
        }
    }

    #[test]
    fn a_command_that_is_missing_fails_or_hangs_has_no_output() {
        let patience = Duration::from_secs(60);
        assert_eq!(output(Command::new("echo").arg("yes"), patience).as_deref(), Some("yes\n"));
        assert_eq!(output(&mut Command::new("/nonexistent"), patience), None);
        assert_eq!(output(Command::new("sh").args(["-c", "echo yes; exit 1"]), patience), None);
        assert_eq!(output(Command::new("sleep").arg("600"), Duration::from_millis(10)), None);
    }
}

//! Which kind of program a link of the signal path is, by its name.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::model::ruby_script;

/// The programs that may be between a platform and a worker, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// sh, dash, bash, busybox ash, zsh, ksh, mksh: waits for its foreground command and forwards nothing by itself.
    Shell,
    /// timeout(1) of coreutils or busybox: forwards TERM to its command, and ends with it.
    Timeout,
    /// tini, or docker-init, which is tini.
    Tini,
    /// dumb-init.
    DumbInit,
    /// catatonit.
    Catatonit,
    /// This project's own `sidekiq-lifecycle run`.
    Run,
    /// This project's own relay.
    Relay,
    /// systemd or launchd, of the machine or of a user: services are stopped through it.
    Manager,
    /// sysvinit, or busybox init.
    Init,
    /// Starts a container and signals its first process: containerd-shim, conmon.
    Runtime,
    /// su(1), runuser(1), doas(1).
    Su,
    /// sudo(8).
    Sudo,
    /// runit's runsvdir(8).
    Runsvdir,
    /// runit's runsv(8).
    Runsv,
    /// s6-svscan.
    S6Svscan,
    /// s6-supervise.
    S6Supervise,
    /// supervisord.
    Supervisord,
    /// foreman.
    Foreman,
    /// Any other program.
    #[default]
    Other,
}

/// The name of the relay's process, also in `ps`. It does not contain the word sidekiq, because scripts search for
/// that word to find a worker.
pub const RELAY: &str = "signal-relay";

const SHELLS: [&str; 9] = ["sh", "dash", "bash", "ash", "zsh", "ksh", "ksh93", "mksh", "yash"];

impl Program {
    /// Determines the program by the executable's name or, if that is hidden (another user's), by the name it was
    /// called with and the command name.
    #[must_use]
    pub fn of(name: &str, executable: Option<&Path>, arguments: &[String]) -> Self {
        let called = arguments.first().map(String::as_str).unwrap_or_default();
        // A login shell's name starts with a dash.
        let called = called.rsplit('/').next().unwrap_or_default().trim_start_matches('-');
        let executable = executable.and_then(Path::file_name).and_then(|file| file.to_str());
        // The kernel adds this to the name of an executable that was replaced by an update (proc_pid_exe(5)).
        let executable = executable.map(|file| file.trim_end_matches(" (deleted)"));
        match executable {
            // A multi-call binary: `argv[0]` names the applet.
            Some("busybox" | "busybox.nosuid" | "toybox") => Self::in_busybox(called, arguments),
            Some("sidekiq-lifecycle") => Self::ours(arguments),
            Some(executable) => Self::named(executable).or_script(arguments),
            None if called == "busybox" => Self::in_busybox(called, arguments),
            None if called == "sidekiq-lifecycle" || called == RELAY => Self::ours(arguments),
            None => match Self::named(called) {
                Self::Other | Self::Init => Self::named(name),
                program => program,
            }
            .or_script(arguments),
        }
    }

    /// What an interpreter runs: by its title (foreman's is `foreman: master`), or by the script's name.
    fn or_script(self, arguments: &[String]) -> Self {
        let is_interpreter = |word: &String| {
            let name = word.rsplit('/').next().unwrap_or_default();
            ["ruby", "python", "pypy"].into_iter().any(|interpreter| name.starts_with(interpreter))
        };
        let script = match (self, arguments) {
            (Self::Other, [title, ..]) if title == "foreman: master" => "foreman",
            (Self::Other, [interpreter, script, ..]) if is_interpreter(interpreter) => {
                script.rsplit('/').next().unwrap_or_default()
            }
            _ => return self,
        };
        match script {
            "foreman" => Self::Foreman,
            "supervisord" => Self::Supervisord,
            _ => self,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "tini" | "tini-static" | "docker-init" => Self::Tini,
            "dumb-init" => Self::DumbInit,
            "catatonit" => Self::Catatonit,
            "timeout" => Self::Timeout,
            "systemd" | "launchd" => Self::Manager,
            "init" => Self::Init,
            "su" | "runuser" | "doas" => Self::Su,
            "sudo" => Self::Sudo,
            "runsvdir" => Self::Runsvdir,
            "runsv" => Self::Runsv,
            "s6-svscan" => Self::S6Svscan,
            "s6-supervise" => Self::S6Supervise,
            "supervisord" => Self::Supervisord,
            "foreman" => Self::Foreman,
            "conmon" => Self::Runtime,
            name if name.starts_with("containerd-shim") => Self::Runtime,
            name if SHELLS.contains(&name) => Self::Shell,
            _ => Self::Other,
        }
    }

    fn in_busybox(called: &str, arguments: &[String]) -> Self {
        let applet =
            if called == "busybox" { arguments.get(1).map(String::as_str).unwrap_or_default() } else { called };
        Self::named(applet)
    }

    fn ours(arguments: &[String]) -> Self {
        let mut words = arguments.iter().map(String::as_str);
        match (words.next(), words.next()) {
            (Some(RELAY), _) => Self::Relay,
            (_, Some("run")) => Self::Run,
            _ => Self::Other,
        }
    }

    /// Whether it may have several programs below it, and decides for all of them what to do on a signal.
    #[must_use]
    pub fn decides(self) -> bool {
        use Program::{Foreman, Init, Other, Runsv, Runsvdir, S6Supervise, S6Svscan, Supervisord};
        matches!(self, Foreman | Init | Other | Runsv | Runsvdir | S6Supervise | S6Svscan | Supervisord)
    }

    /// Whether it supervises services: it stops them itself, and restarts those that end otherwise.
    #[must_use]
    pub fn keeps_services(self) -> bool {
        use Program::{Init, Manager, Runsv, Runsvdir, S6Supervise, S6Svscan, Supervisord};
        matches!(self, Init | Manager | Runsv | Runsvdir | S6Supervise | S6Svscan | Supervisord)
    }

    /// Whether it is an init that exits as soon as its first child has; the kernel then kills what is still running.
    #[must_use]
    pub fn ends_with_first_child(self) -> bool {
        matches!(self, Self::Tini | Self::DumbInit | Self::Catatonit)
    }
}

/// Whether a Sidekiq has started, according to its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sidekiq {
    /// Ruby loads the application.
    Booting,
    /// It has started and shows its version and how busy it is (`launcher.rb`, `heartbeat`).
    Started {
        /// Sidekiq's version.
        version: String,
    },
    /// Sidekiq Enterprise's sidekiqswarm: the parent of several Sidekiqs, to which it forwards signals.
    Swarm,
}

impl Sidekiq {
    /// Recognizes a Sidekiq by its title, `sidekiq 7.3.2 app [0 of 5 busy]`, or by the [script](crate::model::ruby_script) that a Ruby runs. The
    /// word in any other place (`gem install sidekiq`, `rake sidekiq`) does not count.
    #[must_use]
    pub fn of(name: &str, executable: Option<&Path>, arguments: &[String]) -> Option<Self> {
        let first = arguments.first()?;
        let mut words = first.split(' ');
        if let (Some("sidekiq"), Some(version)) = (words.next(), words.next()) {
            let is_title = version.starts_with(|letter: char| letter.is_ascii_digit()) && first.contains(" busy]");
            return is_title.then(|| Self::Started { version: version.to_owned() });
        }
        let is_title = arguments.len() == 1;
        let is_ruby = match executable {
            Some(executable) => executable.file_name().and_then(|file| file.to_str()).is_some_and(ruby_script::is_ruby),
            // Another user's. A script that has set a title still has its own name.
            None => {
                let called = first.rsplit('/').next().unwrap_or_default();
                ruby_script::is_ruby(called) || ruby_script::is_ruby(name) || is_title && ruby_script::is_known(name)
            }
        };
        let script = if is_title { ruby_script::of_title(first) } else { ruby_script::of_ruby(arguments) };
        match script.filter(|_| is_ruby)? {
            "sidekiq" => Some(Self::Booting),
            "sidekiqswarm" => Some(Self::Swarm),
            _ => None,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Shell => "a shell",
            Self::Timeout => "timeout",
            Self::Tini => "tini",
            Self::DumbInit => "dumb-init",
            Self::Catatonit => "catatonit",
            Self::Run => "sidekiq-lifecycle run",
            Self::Relay => "the relay",
            Self::Manager => "systemd",
            Self::Init => "init",
            Self::Runtime => "a container runtime",
            Self::Su => "su",
            Self::Sudo => "sudo",
            Self::Runsvdir => "runsvdir",
            Self::Runsv => "runsv",
            Self::S6Svscan => "s6-svscan",
            Self::S6Supervise => "s6-supervise",
            Self::Supervisord => "supervisord",
            Self::Foreman => "foreman",
            Self::Other => "a program",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidekiqs() {
        let started = |version: &str| Some(Sidekiq::Started { version: version.to_owned() });
        type Row<'a> = (&'a str, Option<&'a str>, &'a [&'a str], Option<Sidekiq>);
        let table: &[Row<'_>] = &[
            ("ruby3.1", Some("/usr/bin/ruby3.1"), &["sidekiq 6.4.1 app [0 of 5 busy]"], started("6.4.1")),
            ("bundle", None, &["sidekiq 8.1.7  [1 of 5 busy] stopping"], started("8.1.7")),
            (
                "sidekiq",
                Some("/usr/bin/ruby3.3"),
                &["/usr/bin/ruby", "/usr/bin/sidekiq", "-t", "8"],
                Some(Sidekiq::Booting),
            ),
            ("bundle", None, &["ruby", "/usr/bin/bundle", "exec", "sidekiq"], Some(Sidekiq::Booting)),
            ("bundle", Some("/usr/bin/ruby3.3"), &["/usr/local/bin/sidekiq -t 8"], Some(Sidekiq::Booting)),
            ("bundle", None, &["/usr/local/bin/sidekiq -t 8"], Some(Sidekiq::Booting)),
            ("ruby", Some("/opt/ruby (deleted)"), &["worker", "bin/sidekiq"], Some(Sidekiq::Booting)),
            ("ruby", Some("/usr/bin/ruby"), &["ruby", "/usr/bin/sidekiqswarm"], Some(Sidekiq::Swarm)),
            ("ruby", Some("/usr/bin/ruby"), &["sidekiqswarm, managing 2 processes"], Some(Sidekiq::Swarm)),
            ("ruby", Some("/usr/bin/ruby"), &["ruby", "/usr/bin/gem", "install", "sidekiq"], None),
            ("gem", Some("/usr/bin/ruby"), &["/usr/bin/gem install sidekiq"], None),
            ("ruby", Some("/usr/bin/ruby"), &["ruby"], None),
            ("ruby", Some("/usr/bin/bash"), &["bash", "/shims/ruby", "bin/sidekiq"], None),
            ("tee", Some("/usr/bin/tee"), &["tee", "/tmp/sidekiq"], None),
            ("logger", None, &["logger", "-t", "sidekiq"], None),
            ("x", None, &["/opt/sidekiq"], None),
            ("sh", Some("/usr/bin/dash"), &["sh", "-c", "sidekiq"], None),
            ("sh", Some("/usr/bin/dash"), &["sh", "/app/bin/sidekiq"], None),
            ("vi", Some("/usr/bin/vi"), &["vi", "sidekiq"], None),
            ("ruby", Some("/usr/bin/ruby"), &["ruby", "/x/sidekiq-lifecycle", "check"], None),
            ("x", None, &["sidekiq is not a number"], None),
            ("x", None, &[], None),
        ];
        for (name, executable, arguments, expected) in table {
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            assert_eq!(Sidekiq::of(name, executable.map(Path::new), &arguments), *expected, "{arguments:?}");
        }
    }

    #[test]
    fn programs_by_executable_name_and_arguments() {
        use Program::{
            Catatonit, DumbInit, Foreman, Init, Manager, Other, Relay, Run, Runsv, Runtime, S6Supervise, S6Svscan,
            Shell, Su, Sudo, Supervisord, Timeout, Tini,
        };
        let table: &[(&str, Option<&str>, &[&str], Program)] = &[
            ("sh", Some("/usr/bin/dash"), &["sh", "-c", "x"], Shell),
            ("entry.sh", Some("/usr/bin/bash"), &["/bin/bash", "/entry.sh"], Shell),
            ("bash", Some("/usr/bin/bash (deleted)"), &["-bash"], Shell),
            ("busybox", Some("/usr/bin/busybox"), &["busybox", "sh", "-c", "x"], Shell),
            ("sh", Some("/bin/busybox"), &["sh", "/entry.sh"], Shell),
            ("sh", Some("/bin/busybox"), &["/bin/ash"], Shell),
            ("timeout", Some("/bin/busybox"), &["timeout", "9", "x"], Timeout),
            ("timeout", Some("/usr/bin/timeout"), &["timeout", "9", "x"], Timeout),
            ("busybox", Some("/bin/busybox"), &["busybox"], Other),
            ("tini", Some("/usr/bin/tini"), &["tini", "--", "x"], Tini),
            ("docker-init", Some("/sbin/docker-init"), &["/sbin/docker-init", "--", "x"], Tini),
            ("dumb-init", Some("/usr/bin/dumb-init"), &["dumb-init", "x"], DumbInit),
            ("catatonit", Some("/usr/bin/catatonit"), &["/init", "x"], Catatonit),
            ("systemd", Some("/usr/lib/systemd/systemd"), &["/sbin/init"], Manager),
            ("init", Some("/sbin/init"), &["init"], Init),
            ("init", Some("/bin/busybox"), &["/sbin/init"], Init),
            ("runsv", Some("/usr/bin/runsv"), &["runsv", "worker"], Runsv),
            ("runsvdir", Some("/usr/bin/runsvdir"), &["runsvdir", "-P", "/service"], Program::Runsvdir),
            ("s6-svscan", Some("/usr/bin/s6-svscan"), &["s6-svscan", "/service"], S6Svscan),
            ("s6-supervise", Some("/usr/bin/s6-supervise"), &["s6-supervise", "worker"], S6Supervise),
            ("su", Some("/usr/bin/su"), &["su", "app", "-c", "x"], Su),
            ("runuser", Some("/usr/sbin/runuser"), &["runuser", "-u", "app", "--", "x"], Su),
            ("sudo", Some("/usr/bin/sudo"), &["sudo", "-u", "app", "x"], Sudo),
            ("foreman", Some("/usr/bin/ruby3.1"), &["foreman: master"], Foreman),
            ("foreman", Some("/usr/bin/ruby3.1"), &["ruby", "/usr/bin/foreman", "start"], Foreman),
            (
                "supervisord",
                Some("/usr/bin/python3.11"),
                &["/usr/bin/python3", "/usr/bin/supervisord", "-n"],
                Supervisord,
            ),
            ("python3", Some("/usr/bin/python3.11"), &["python3", "main.py", "supervisord"], Other),
            ("containerd-shim", Some("/usr/bin/containerd-shim-runc-v2"), &["containerd-shim-runc-v2"], Runtime),
            ("sidekiq-lifecyc", Some("/x/sidekiq-lifecycle"), &["sidekiq-lifecycle", "run", "--", "x"], Run),
            ("signal-relay", Some("/x/sidekiq-lifecycle"), &["signal-relay", "7", "4711", "30"], Relay),
            ("signal-relay", Some("/usr/bin/perl"), &["signal-relay"], Other),
            ("signal-relay", None, &["signal-relay", "7"], Relay),
            ("ruby", Some("/usr/bin/ruby3.1"), &["sidekiq 6.4.1 app [0 of 5 busy]"], Other),
            ("node", Some("/usr/bin/node"), &["node", "sh"], Other),
            // Another user's, with a hidden executable.
            ("sh", None, &["/bin/sh", "-c", "x"], Shell),
            ("systemd", None, &["/sbin/init"], Manager),
            ("init", None, &["/sbin/init"], Init),
            ("busybox", None, &["busybox", "ash"], Shell),
            ("bash", None, &[], Shell),
            ("sidekiq", None, &["sidekiq 8"], Other),
        ];
        for (name, executable, arguments, expected) in table {
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let program = Program::of(name, executable.map(Path::new), &arguments);
            assert_eq!(program, *expected, "{name} {executable:?} {arguments:?}");
        }
    }
}

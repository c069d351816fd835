//! The programs that people put around a Sidekiq: after how many seconds they kill a process that does not end.
//!
//! The values are the programs' own: su(1) and runuser(1) of util-linux (`su-common.c`, `create_watching_parent`) and
//! doas(1) with PAM wait 2 s; timeout(1) as long as its `-k` says; s6-supervise as long as its service's file
//! `timeout-kill` says (milliseconds); busybox init (`init.c`, `halt_reboot_pwoff`) 1 s, for all processes;
//! supervisord as long as `stopwaitsecs` says, 10 by default.

use crate::model::program::Program;

/// Seconds between the TERM that a program forwards and its SIGKILL; `None` if it never kills, or that is not known.
///
/// `timeout_kill` is the text of an s6 service's file of that name, if it has one. For supervisord see
/// [`stopwaitsecs`].
#[must_use]
pub fn kills_after(program: Program, arguments: &[String], timeout_kill: Option<&str>) -> Option<f64> {
    match program {
        Program::Su => Some(2.0),
        Program::Timeout => timeouts_kill_after(arguments),
        Program::S6Supervise => timeout_kill?
            .trim()
            .parse()
            .ok()
            .filter(|milliseconds| *milliseconds > 0.0)
            .map(|milliseconds: f64| milliseconds / 1e3),
        Program::Init => Some(1.0),
        Program::Run => option(arguments, "--stop-grace"),
        _ => None,
    }
}

/// Seconds that supervisord leaves a program, according to its configuration; `None` if the program is not in it, or
/// is stopped by another signal than TERM or INT.
#[must_use]
pub fn stopwaitsecs(configuration: &str, program: &str) -> Option<f64> {
    let lines = configuration.lines().map(str::trim).filter(|line| !line.starts_with([';', '#']));
    let section = format!("[program:{program}]");
    let own: Vec<&str> =
        lines.skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('[')).collect();
    let is_there = configuration.lines().any(|line| line.trim() == section);
    let value = |name: &str| {
        let values = own.iter().filter_map(|line| line.split_once('=')).filter(|(key, _)| key.trim() == name);
        values.map(|(_, value)| value.split(" ;").next().unwrap_or_default().trim()).next_back()
    };
    let is_stop = value("stopsignal").is_none_or(|signal| matches!(signal, "TERM" | "INT"));
    if is_there && is_stop { value("stopwaitsecs").map_or(Some(10.0), |seconds| seconds.parse().ok()) } else { None }
}

/// The files that a configuration of supervisord includes (`[include] files`).
#[must_use]
pub fn supervisord_includes(configuration: &str) -> Vec<&str> {
    let lines = configuration.lines().map(str::trim).skip_while(|line| *line != "[include]").skip(1);
    let own = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    own.filter(|(key, _)| key.trim() == "files").flat_map(|(_, files)| files.split_ascii_whitespace()).collect()
}

/// Where supervisord's configuration is: as its command line says, or in its default places (`options.py`,
/// `default_configfile`).
#[must_use]
pub fn supervisord_configurations(arguments: &[String]) -> Vec<&str> {
    let set = arguments.iter().enumerate().find_map(|(index, word)| match word.as_str() {
        "-c" | "--configuration" => arguments.get(index + 1).map(String::as_str),
        word => word.strip_prefix("--configuration=").or_else(|| word.strip_prefix("-c")),
    });
    match set {
        Some(set) => vec![set],
        None => vec![
            "supervisord.conf",
            "etc/supervisord.conf",
            "/etc/supervisord.conf",
            "/etc/supervisor/supervisord.conf",
        ],
    }
}

/// Seconds for which `run` waits for a worker that outlives the command.
#[must_use]
pub fn grace(arguments: &[String]) -> f64 {
    option(arguments, "--grace").unwrap_or(120.0)
}

/// A number of seconds among `run`'s own options, which come before `--` or the command.
fn option(arguments: &[String], name: &str) -> Option<f64> {
    let own: Vec<&str> = arguments.iter().skip(2).map(String::as_str).take_while(|word| *word != "--").collect();
    let apart = own.iter().position(|word| *word == name).and_then(|index| own.get(index + 1)).copied();
    let joined = own.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    apart.or(joined)?.parse().ok()
}

/// `-k 5`, `-k5`, `--kill-after=5`, `--kill-after 5`: before the first operand, which is the duration. 0 means no
/// kill.
fn timeouts_kill_after(arguments: &[String]) -> Option<f64> {
    let mut words = arguments.iter().map(String::as_str).skip_while(|word| !word.ends_with("timeout")).skip(1);
    let mut after = None;
    while let Some(word) = words.next().filter(|word| word.starts_with('-') && *word != "--") {
        let value = match word {
            "-k" | "--kill-after" => words.next(),
            "-s" | "--signal" => {
                words.next();
                continue;
            }
            word => word.strip_prefix("--kill-after=").or_else(|| word.strip_prefix("-k")),
        };
        after = value.or(after);
    }
    seconds(after?).filter(|seconds| *seconds > 0.0)
}

/// A duration as timeout(1) accepts it: 5, 5s, 0.5m, 1h, 1d.
fn seconds(text: &str) -> Option<f64> {
    let unit = |letter| match letter {
        's' => Some(1.0),
        'm' => Some(60.0),
        'h' => Some(3600.0),
        'd' => Some(86400.0),
        _ => None,
    };
    match text.chars().last().and_then(unit) {
        Some(unit) => text.get(..text.len() - 1)?.parse::<f64>().ok().map(|number| number * unit),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_time_of_supervisord() {
        let configuration = "\
            [supervisord]\nnodaemon=true\n[program:web]\ncommand=puma\nstopsignal=QUIT\n; [program:commented]\n\
            [program:worker]\ncommand=sidekiq -t 25\nstopwaitsecs = 30 ; seconds\n# stopwaitsecs=5\n[program:short]\n\
            stopsignal=INT\n[include]\nfiles = conf.d/*.conf /etc/x.ini\n";
        for (program, seconds) in
            [("worker", Some(30.0)), ("short", Some(10.0)), ("web", None), ("commented", None), ("absent", None)]
        {
            assert_eq!(stopwaitsecs(configuration, program), seconds, "{program}");
        }
        assert_eq!(stopwaitsecs("[program:x]\nstopwaitsecs=soon", "x"), None);
        assert_eq!(supervisord_includes(configuration), ["conf.d/*.conf", "/etc/x.ini"]);
        assert_eq!(supervisord_includes("[program:x]\nfiles=y"), [""; 0]);
    }

    #[test]
    fn where_supervisord_is_configured() {
        for (command, first) in [
            ("python3 /usr/bin/supervisord -n -c /app/s.conf", "/app/s.conf"),
            ("python3 /usr/bin/supervisord -cs.conf", "s.conf"),
            ("python3 /usr/bin/supervisord --configuration=s.conf", "s.conf"),
            ("python3 /usr/bin/supervisord -n", "supervisord.conf"),
        ] {
            let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(supervisord_configurations(&arguments).first(), Some(&first), "{command}");
        }
    }

    #[test]
    fn the_grace_of_run() {
        for (command, seconds) in [
            ("sidekiq-lifecycle run -- sidekiq", 120.0),
            ("sidekiq-lifecycle run --grace 0 -- sidekiq", 0.0),
            ("sidekiq-lifecycle run -g --grace=30 -- sidekiq", 30.0),
        ] {
            let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(grace(&arguments), seconds, "{command}");
        }
    }

    #[test]
    fn seconds_until_the_kill() {
        use Program::{Foreman, Init, Run, S6Supervise, Shell, Su, Sudo, Timeout};
        let table: &[(Program, &str, Option<&str>, Option<f64>)] = &[
            (Su, "su app -c x", None, Some(2.0)),
            (Sudo, "sudo x", None, None),
            (Shell, "sh -k 5", None, None),
            (Foreman, "foreman: master", None, None),
            (Init, "init", None, Some(1.0)),
            (Timeout, "timeout 1h sidekiq", None, None),
            (Timeout, "timeout -k 3 1h sidekiq", None, Some(3.0)),
            (Timeout, "/usr/bin/timeout -k2m 1h sidekiq", None, Some(120.0)),
            (Timeout, "timeout -s INT --kill-after=0.5h 1h sidekiq", None, Some(1800.0)),
            (Timeout, "timeout --foreground --kill-after 1d 1h sidekiq", None, Some(86400.0)),
            (Timeout, "busybox timeout -s TERM -k 7 60 sidekiq", None, Some(7.0)),
            (Timeout, "timeout -k 0 1h sidekiq", None, None),
            (Timeout, "timeout 1h sh -k 5", None, None),
            (Timeout, "timeout -k soon 1h x", None, None),
            (Run, "sidekiq-lifecycle run -- sidekiq --stop-grace 5", None, None),
            (Run, "sidekiq-lifecycle run --stop-grace 5 -v -- sidekiq", None, Some(5.0)),
            (Run, "sidekiq-lifecycle run --stop-grace=2.5 -- sidekiq", None, Some(2.5)),
            (S6Supervise, "s6-supervise worker", None, None),
            (S6Supervise, "s6-supervise worker", Some("0\n"), None),
            (S6Supervise, "s6-supervise worker", Some("5000\n"), Some(5.0)),
        ];
        for (program, command, timeout_kill, expected) in table {
            let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(kills_after(*program, &arguments, *timeout_kill), *expected, "{command}");
        }
    }
}

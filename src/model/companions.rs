//! Which processes end together with a Sidekiq that is stopped: foreman and similar programs end all of their
//! processes together, and a container ends when its PID 1 has nothing left to wait for.

use crate::model::program::Program;
use crate::model::signal_path::Link;

/// These end all of their processes when one has ended.
const TOGETHER: [&str; 5] = ["foreman", "forego", "hivemind", "honcho", "overmind"];

/// What stopping a process does to others, in one sentence; `None` if nothing is known to end. `chain` starts with
/// the process itself; `others` finds the processes beside it that its ancestors have started.
#[must_use]
pub fn warning(chain: &[Link], others: impl FnOnce() -> Vec<String>) -> Option<String> {
    let sidekiq = chain.first()?.pid;
    let above = chain.get(1..).unwrap_or_default();
    let keeps = "quiet ends no process";
    if let Some((name, pid)) = above.iter().find_map(|link| Some((together(link)?, link.pid))) {
        return Some(format!("{name} (pid {pid}) ends all of its processes when process {sidekiq} ends; {keeps}"));
    }
    let first = above.last().filter(|link| link.is_pid1)?;
    let ends = above.iter().all(|link| match link.program {
        Program::Shell => !(link.child_in_background || link.is_interactive && link.has_terminal),
        Program::Timeout => true,
        program => program.ends_with_first_child() && !link.is_machines,
    });
    let others = if ends { others().join(", ") } else { String::new() };
    let (name, pid) = (&first.name, first.pid);
    (!others.is_empty())
        .then(|| format!("{name} (pid {pid}) may end when process {sidekiq} ends, and {others} with it; {keeps}"))
}

/// The program of that kind: by its own name, as the script of an interpreter, or by its title (`foreman: master`).
/// Overmind's processes are children of the tmux that it starts, whose socket is named after Overmind.
fn together(link: &Link) -> Option<&'static str> {
    let base =
        |word: &str| word.split(':').next().and_then(|word| word.rsplit('/').next()).unwrap_or_default().to_owned();
    let words: Vec<String> = link.arguments.iter().map(|word| base(word)).collect();
    let is = |known: &&str| {
        let is_called = link.name == **known || words.iter().take(2).any(|word| word == *known);
        let is_socket = || words.first().is_some_and(|word| word == "tmux") && socket_of(known, &words);
        is_called || is_socket()
    };
    TOGETHER.into_iter().find(is)
}

fn socket_of(known: &str, words: &[String]) -> bool {
    let prefix = format!("{known}-");
    words.windows(2).any(|pair| matches!(pair, [option, name] if option == "-L" && name.starts_with(&prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(pid: i32, name: &str, arguments: &[&str]) -> Link {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        Link {
            pid,
            program: Program::of(name, None, &arguments),
            name: name.to_owned(),
            arguments,
            is_first: pid == 1,
            is_pid1: pid == 1,
            threads: 1,
            ..Link::default()
        }
    }

    fn warned(above: Vec<Link>, others: &[&str]) -> Option<String> {
        let sidekiq = link(7, "ruby", &["sidekiq 8.1.7 shop [0 of 5 busy]"]);
        let chain: Vec<Link> = std::iter::once(sidekiq).chain(above).collect();
        let others: Vec<String> = others.iter().map(|&other| other.to_owned()).collect();
        warning(&chain, || others)
    }

    #[test]
    fn programs_that_end_together() {
        let shell = || link(6, "sh", &["sh", "-c", "bundle exec sidekiq"]);
        for (name, arguments) in [
            ("foreman", &["ruby", "/usr/bin/foreman", "start"][..]),
            ("ruby3.3", &["foreman: master"]),
            ("ruby3.3", &["/usr/bin/ruby", "/usr/local/bin/foreman", "start"]),
            ("honcho", &["/usr/bin/python3", "/usr/bin/honcho", "start"]),
            ("hivemind", &["/usr/local/bin/hivemind"]),
            ("forego", &["forego", "start"]),
        ] {
            let known = TOGETHER.into_iter().find(|known| format!("{name}{arguments:?}").contains(known)).unwrap();
            let expected =
                format!("{known} (pid 1) ends all of its processes when process 7 ends; quiet ends no process");
            assert_eq!(warned(vec![shell(), link(1, name, arguments)], &[]).as_ref(), Some(&expected), "{arguments:?}");
            // Below something else, and with others that are seen.
            let above = vec![link(4, name, arguments), link(1, "tini", &["tini", "--"])];
            assert!(warned(above, &["puma (pid 9)"]).unwrap().starts_with(&format!("{known} (pid 4) ends all")));
        }
        let tmux = link(3, "tmux: server", &["tmux", "-C", "-L", "overmind-shop-x1", "new"]);
        assert!(warned(vec![shell(), tmux], &[]).unwrap().starts_with("overmind (pid 3) ends all"));
        let tmux = link(3, "tmux: server", &["tmux", "new", "-s", "overmind"]);
        assert_eq!(warned(vec![tmux], &[]), None);
    }

    #[test]
    fn a_container_that_ends_with_its_pid_1() {
        let shell = |pid| link(pid, "dash", &["dash", "-c", "puma & sidekiq"]);
        let free = |pid| Link { child_in_background: true, ..shell(pid) };
        let person = |pid| Link { is_interactive: true, has_terminal: true, ..shell(pid) };
        let tini = || link(1, "tini", &["tini", "--"]);
        let others = &["puma (pid 9)", "cron (pid 10)"][..];
        let said = "may end when process 7 ends, and puma (pid 9), cron (pid 10) with it; quiet ends no process";
        let table: &[(Vec<Link>, &[&str], Option<&str>)] = &[
            (vec![shell(1)], others, Some("dash (pid 1)")),
            (vec![shell(5), tini()], others, Some("tini (pid 1)")),
            (vec![shell(1)], &[], None),
            // It waits for another process.
            (vec![free(1)], others, None),
            (vec![person(5), tini()], others, None),
            (vec![shell(5), link(1, "systemd", &["/sbin/init"])], others, None),
            // The program that starts Sidekiq may restart it.
            (vec![link(1, "ruby", &["ruby", "swarm.rb"])], others, None),
            // Not a container's.
            (vec![shell(5)], others, None),
            (Vec::new(), others, None),
        ];
        for (above, others, expected) in table {
            let expected = expected.map(|first| format!("{first} {said}"));
            assert_eq!(warned(above.clone(), others), expected, "{above:?}");
        }
    }
}

//! The terminal and its foreground group.

use super::*;

/// A command in a session of its own, with a terminal; what is typed goes in, what is shown comes out.
struct Terminal {
    keys: File,
    shown: PathBuf,
    child: Child,
    _home: Home,
}

impl Terminal {
    fn start(place: Place, script: impl Fn(&str) -> String) -> Self {
        let home = Home::new();
        let init = format!("{} run", env!("CARGO_BIN_EXE_sidekiq-lifecycle"));
        let init = if place == Place::Pid1 { format!("unshare {} {init}", NAMESPACE.join(" ")) } else { init };
        let pty = openpty(None, None).unwrap();
        let slave = File::from(pty.slave);
        let mut line = undisturbed("setsid");
        line.args(["--ctty", "--wait", "bash", "-c", &script(&init)]).current_dir(&home.0);
        line.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = line.spawn().unwrap();
        let shown = home.0.path().join("shown");
        let (mut screen, mut copy) = (File::from(pty.master), File::create(&shown).unwrap());
        let keys = screen.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut screen, &mut copy));
        Self { keys, shown, child, _home: home }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.shown.with_file_name("log")
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn wait_for_note(&self, note: &str) {
        wait_for(note, || notes(&self.log()).iter().any(|line| line == note).then_some(()));
    }

    fn wait_for_text(&self, text: &str) {
        wait_for(text, || fs::read_to_string(&self.shown).is_ok_and(|shown| shown.contains(text)).then_some(()));
    }

    fn end(mut self) -> i32 {
        wait_for("the end", || self.child.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        end_those(&[self.pid()]);
    }
}

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";

#[test]
fn ctrl_c_and_ctrl_z_reach_the_worker_where_no_shell_could_continue_it() {
    for place in places() {
        for shell in ["dash", "bash"] {
            // The shell stands before run, or run is the session's leader.
            for exec in ["", "exec "] {
                let worker = "./sidekiq log 0; exit \\$?";
                let mut terminal =
                    Terminal::start(place, |init| format!("{exec}{init} -- {shell} -c \"{worker}\"; exit $?"));
                terminal.wait_for_note("ready");
                terminal.press(CTRL_Z);
                terminal.wait_for_note("20");
                terminal.press(CTRL_C);
                terminal.wait_for_note("2");
                let mut below = below(terminal.pid()).into_iter().filter_map(Snapshot::of);
                let worker = below.find(|process| process.sidekiq().is_some()).unwrap();
                send(worker.pid, Signal::SIGTERM.into()).unwrap();
                // dash dies of Ctrl-C; the worker may go on all the same.
                let code = if shell == "dash" { 130 } else { 7 };
                let log = terminal.log();
                wait_for("done", || notes(&log).contains(&"done".to_owned()).then_some(()));
                assert_eq!(terminal.end(), code, "{place:?} {shell} {exec}");
            }
        }
    }
}

#[test]
fn ctrl_z_gives_an_interactive_shell_its_terminal_back_and_fg_goes_on() {
    let mut terminal = Terminal::start(Place::Subreaper, |init| {
        format!(
            "set -m; {init} -- sh -c 'echo begun; read line; echo \"read $line\"; exit 5'; echo \"stopped $?\"; read key; fg; echo \"ended $?\""
        )
    });
    terminal.wait_for_text("begun");
    terminal.press(CTRL_Z);
    terminal.wait_for_text("stopped 148");
    terminal.press(b"\n");
    sleep(Duration::from_millis(300));
    terminal.press(b"words\n");
    terminal.wait_for_text("read words");
    terminal.wait_for_text("ended 5");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_terminal_comes_back_when_it_ends() {
    let mut terminal = Terminal::start(Place::Subreaper, |init| {
        format!("{init} -- sh -c 'echo begun; read x'; read y; echo \"got $y\"")
    });
    terminal.wait_for_text("begun");
    terminal.press(b"one\n");
    terminal.press(b"two\n");
    terminal.wait_for_text("got two");
    assert_eq!(terminal.end(), 0);
}

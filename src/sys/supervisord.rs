//! When supervisord kills a program, from its own configuration. Names in it are relative to its root and working
//! directory, which `/proc/PID/root` and `/proc/PID/cwd` lead to (`proc_pid_root(5)`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::wrappers::{stopwaitsecs, supervisord_configurations, supervisord_includes};

/// No real configuration is larger.
const LARGEST: u64 = 1 << 20;

/// Seconds between supervisord's TERM and KILL (`pid`) to the child `child`; `None` if that is not visible.
/// supervisord passes each child its name (`SUPERVISOR_PROCESS_NAME`).
#[must_use]
pub fn kills_after(pid: i32, arguments: &[String], child: i32) -> Option<f64> {
    let environment = fs::read(format!("/proc/{child}/environ")).ok()?;
    let variable = |name: &str| {
        let mut variables =
            environment.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
        variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    };
    // If a program has several processes, the group has the program's name.
    let names = [variable("SUPERVISOR_PROCESS_NAME"), variable("SUPERVISOR_GROUP_NAME")];
    let path = supervisord_configurations(arguments)
        .into_iter()
        .map(|name| place(pid, None, name))
        .find(|path| path.exists())?;
    let main = read(&path)?;
    let included = supervisord_includes(&main).into_iter().flat_map(|glob| matching(&place(pid, path.parent(), glob)));
    let texts: Vec<String> = std::iter::once(main.clone()).chain(included.filter_map(|path| read(&path))).collect();
    names.into_iter().flatten().find_map(|name| texts.iter().find_map(|text| stopwaitsecs(text, name)))
}

fn read(path: &Path) -> Option<String> {
    let file = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LARGEST);
    file.and_then(|_| fs::read_to_string(path).ok())
}

/// A name in the configuration, as a path of this process; relative ones start at `beside`, or at the working
/// directory.
fn place(pid: i32, beside: Option<&Path>, name: &str) -> PathBuf {
    match (name.strip_prefix('/'), beside) {
        (Some(absolute), _) => Path::new(&format!("/proc/{pid}/root")).join(absolute),
        (None, Some(beside)) => beside.join(name),
        (None, None) => Path::new(&format!("/proc/{pid}/cwd")).join(name),
    }
}

/// The files that match a name with a `*` in its last part.
fn matching(glob: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (glob.parent(), glob.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Some((before, after)) = name.split_once('*') else { return vec![glob.to_owned()] };
    let is_meant =
        |name: &str| name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_meant)).map(|entry| entry.path()).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_configuration_is_found_with_its_includes() {
        let home = tempfile::TempDir::new().unwrap();
        fs::create_dir(home.path().join("conf.d")).unwrap();
        fs::write(home.path().join("s.conf"), "[program:web]\n[include]\nfiles=conf.d/*.conf\n").unwrap();
        fs::write(home.path().join("conf.d/worker.conf"), "[program:worker]\nstopwaitsecs=30\n").unwrap();
        fs::write(home.path().join("conf.d/worker.txt"), "[program:other]\n").unwrap();
        // One process plays supervisord and the child.
        for (name, seconds) in [("worker", Some(30.0)), ("web", Some(10.0)), ("other", None)] {
            let mut command = Command::new("sleep");
            command.arg("60").current_dir(home.path()).env("SUPERVISOR_PROCESS_NAME", name).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            // The process exists before its environment does.
            while fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty() {}
            let arguments = ["supervisord", "-c", "s.conf"].map(str::to_owned);
            let found = kills_after(pid, &arguments, pid);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, seconds, "{name}");
        }
    }
}

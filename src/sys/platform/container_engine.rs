//! The stop timeout of a container, from its engine: Docker's API, which Podman also has, on its socket.
//!
//! Not for Kubernetes pods: containerd and CRI-O do not kill by themselves, and `preStop` takes an unknown part of
//! the kubelet's grace period.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::environment::in_variables;
use crate::model::stop_timeout::{Source, StopTimeout};

/// How long `docker stop` waits if the container has no setting.
const DEFAULT: f64 = 10.0;

/// For the whole query.
const LIMIT: Duration = Duration::from_secs(2);

/// Far more than the description of a container needs.
const MOST: u64 = 4 * 1024 * 1024;

/// These stop their containers with their own timeouts, which the engine learns only then.
const ORCHESTRATORS: [&str; 4] = ["io.kubernetes.", "com.amazonaws.ecs.", "com.docker.swarm.", "com.hashicorp.nomad."];

/// The stop timeout of a process's container, from its engine. `None`: it is not in a container, its engine does not
/// answer here, or an orchestrator decides. Takes up to 2 s: too long for a hook.
#[must_use]
pub fn engine_stop_timeout(pid: i32) -> Option<StopTimeout> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let container = of_cgroup(&read("cgroup")).or_else(|| of_mounts(&read("mountinfo")))?;
    let (sender, receiver) = mpsc::channel();
    let ask = move || {
        let found = sockets().iter().find_map(|socket| ask(socket, &container));
        let _ = sender.send(found.and_then(|description| parse(&container, &description)));
    };
    // connect(2) has no time limit of its own.
    thread::Builder::new().spawn(ask).ok()?;
    receiver.recv_timeout(LIMIT).ok().flatten()
}

/// The engine that `docker` would use, and the usual places.
fn sockets() -> Vec<PathBuf> {
    let set = env::var("DOCKER_HOST").ok().and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    let usual = ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
    let own = ["docker.sock", "podman/podman.sock"].map(|name| own.join(name));
    set.into_iter().chain(usual).chain(own).filter(|socket| socket.is_absolute()).collect()
}

/// The description of a container; `None` if the engine does not know it.
fn ask(socket: &Path, container: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.set_write_timeout(Some(LIMIT)).ok()?;
    // HTTP 1.0, so that the answer comes in one piece and ends with the connection.
    write!(stream, "GET /containers/{container}/json HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_found = head.split(' ').nth(1) == Some("200");
    serde_json::from_str(body).ok().filter(|_| is_found)
}

fn parse(container: &str, description: &Value) -> Option<StopTimeout> {
    let config = description.get("Config")?;
    let variables = config.get("Env").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let variables: Vec<(&str, &str)> = variables.filter_map(|variable| variable.split_once('=')).collect();
    let set =
        in_variables(|wanted| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned()));
    if let Ok(Some(set)) = set {
        return Some(set);
    }
    let name: String = container.chars().take(12).collect();
    if let Some(seconds) = config.get("StopTimeout").and_then(Value::as_f64) {
        // Docker never kills if it is below 0.
        let seconds = if seconds < 0.0 { f64::INFINITY } else { seconds };
        return Some(StopTimeout { seconds, source: Source::Container(name) });
    }
    let mut labels = config.get("Labels").and_then(Value::as_object).into_iter().flatten();
    let is_orchestrated = labels.any(|(label, _)| ORCHESTRATORS.iter().any(|prefix| label.starts_with(prefix)));
    (!is_orchestrated).then_some(StopTimeout { seconds: DEFAULT, source: Source::Engine(name) })
}

/// cgroups(7): lines of `number:controllers:path`. The innermost container is the one: `…/docker/ID`,
/// `…/docker-ID.scope`, `…/libpod-ID.scope/container`.
fn of_cgroup(cgroups: &str) -> Option<String> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let names = paths.flat_map(|path| path.rsplit('/'));
    let ids = names.map(|name| name.trim_end_matches(".scope").rsplit('-').next().unwrap_or_default());
    ids.filter(|name| is_id(name)).map(str::to_owned).next()
}

/// `proc_pid_mountinfo(5)`: an engine mounts /etc/hostname from a directory named after the container.
fn of_mounts(mounts: &str) -> Option<String> {
    let sources = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (source, target) = (fields.next()?, fields.next()?);
        (target == "/etc/hostname").then_some(source)
    });
    sources.flat_map(|source| source.rsplit('/')).find(|name| is_id(name)).map(str::to_owned)
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    const ID: &str = "0e8c7f66c719def62e7eb2b8307cf4f2b02b9cbe145eb293ef52d67cae8d6ce4";
    const OTHER: &str = "1e8c7f66c719def62e7eb2b8307cf4f2b02b9cbe145eb293ef52d67cae8d6ce4";

    #[test]
    fn containers_of_cgroups() {
        for (cgroups, is_one) in [
            (format!("9:name=systemd:/docker/{ID}\n8:pids:/docker/{ID}\n"), true),
            (format!("0::/docker/{ID}/init.scope\n"), true),
            (format!("0::/system.slice/docker-{ID}.scope\n"), true),
            (format!("0::/machine.slice/libpod-{ID}.scope/container\n"), true),
            (format!("0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{ID}.scope\n"), true),
            (format!("0::/docker/{OTHER}/docker/{ID}\n"), true),
            ("0::/\n".to_owned(), false),
            ("0::/system.slice/shop.service\n".to_owned(), false),
            (format!("0::/system.slice/{}.scope\n", &ID[1..]), false),
            (String::new(), false),
        ] {
            assert_eq!(of_cgroup(&cgroups).as_deref(), is_one.then_some(ID), "{cgroups}");
        }
    }

    #[test]
    fn containers_of_mounts() {
        let line = |source: &str, target: &str| format!("266 408 254:0 {source} {target} rw - ext4 /dev/vda rw\n");
        for (mounts, is_one) in [
            (line(&format!("/var/lib/docker/containers/{ID}/hostname"), "/etc/hostname"), true),
            (line(&format!("/run/containers/overlay-containers/{ID}/userdata/hostname"), "/etc/hostname"), true),
            (line(&format!("/x/{ID}"), "/app"), false),
            (line("/etc/hostname", "/etc/hostname"), false),
            (String::new(), false),
        ] {
            assert_eq!(of_mounts(&mounts).as_deref(), is_one.then_some(ID), "{mounts}");
        }
    }

    #[test]
    fn stop_timeouts_in_descriptions() {
        let container = || Source::Container("0e8c7f66c719".to_owned());
        let table = [
            (json!({"Config": {"StopTimeout": 60}}), Some((60.0, container()))),
            (json!({"Config": {"StopTimeout": -1}}), Some((f64::INFINITY, container()))),
            (json!({"Config": {"StopTimeout": null}}), Some((10.0, Source::Engine("0e8c7f66c719".to_owned())))),
            (json!({"Config": {"Labels": {"a": "b"}}}), Some((10.0, Source::Engine("0e8c7f66c719".to_owned())))),
            (json!({"Config": {"Labels": {"io.kubernetes.pod.name": "x"}}}), None),
            (
                json!({"Config": {"StopTimeout": 60, "Env": ["A=b", "SIDEKIQ_LIFECYCLE_STOP_TIMEOUT=30"]}}),
                Some((30.0, Source::Environment)),
            ),
            (json!({"Config": {"StopTimeout": 60, "Env": ["ECS_CONTAINER_STOP_TIMEOUT="]}}), Some((60.0, container()))),
            (json!({}), None),
        ];
        for (description, expected) in table {
            let said = parse(ID, &description).map(|stop| (stop.seconds, stop.source));
            assert_eq!(said, expected, "{description}");
        }
    }

    #[test]
    fn answers() {
        for (answer, is_one) in [
            ("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"Config\": {}}\n", true),
            ("HTTP/1.0 404 Not Found\r\n\r\n{\"message\": \"No such container\"}\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n{\"Config\":", false),
            ("SSH-2.0\r\n", false),
            ("", false),
        ] {
            let home = tempfile::TempDir::new().unwrap();
            let socket = home.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let engine = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            });
            assert_eq!(ask(&socket, ID).is_some(), is_one, "{answer}");
            assert!(engine.join().unwrap().starts_with(&format!("GET /containers/{ID}/json HTTP/1.0\r\n")));
        }
        assert_eq!(ask(Path::new("/nonexistent"), ID), None);
    }
}

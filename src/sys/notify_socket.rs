//! The service manager's socket: datagrams to `$NOTIFY_SOCKET` (sd_notify(3)).

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;

use thiserror::Error;

const SOCKET: &str = "NOTIFY_SOCKET";

/// A spare socket and its inode, for a process that has run out of descriptors.
static SPARE: OnceLock<(UnixDatagram, u64)> = OnceLock::new();

/// Why systemd receives no notification.
#[derive(Debug, Error)]
pub enum NotifyError {
    /// The variable holds no address.
    #[error("${SOCKET} is {name:?}, so systemd receives no notifications: {error}")]
    Address {
        /// What it holds.
        name: OsString,
        /// What is wrong with it.
        error: io::Error,
    },
    /// A message cannot be sent.
    #[error("cannot notify systemd through {name:?}: {error}")]
    Send {
        /// The socket.
        name: OsString,
        /// The system's error.
        error: io::Error,
    },
}

/// The address of the service manager's socket.
#[derive(Clone, Debug)]
pub struct Socket {
    name: OsString,
    address: SocketAddr,
}

impl Socket {
    /// The socket in the environment, if a service manager has launched this process and wants notifications.
    ///
    /// # Errors
    /// The variable holds no address.
    pub fn of_environment() -> Result<Option<Self>, NotifyError> {
        let socket = Self::in_environment();
        if let (Ok(Some(_)), None, Ok(spare)) = (&socket, SPARE.get(), unbound()) {
            let _ = inode(&spare).map(|inode| SPARE.set((spare, inode)));
        }
        socket
    }

    fn in_environment() -> Result<Option<Self>, NotifyError> {
        env::var_os(SOCKET).filter(|name| !name.is_empty()).map(Self::named).transpose()
    }

    fn named(name: OsString) -> Result<Self, NotifyError> {
        match address(&name) {
            Ok(address) => Ok(Self { name, address }),
            Err(error) => Err(NotifyError::Address { name, error }),
        }
    }

    /// Sends a message, or fails at once: it never waits for the service manager.
    ///
    /// Each message has its own socket, because others may close descriptors that are not theirs. Only without a free
    /// descriptor is the spare one used. The sockets are not connected, so a service manager that has restarted is
    /// reached again.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn send(&self, message: &str) -> Result<(), NotifyError> {
        let send = || {
            let message = message.as_bytes();
            // Its number may be another socket by now.
            match (unbound(), SPARE.get().filter(|(spare, found)| inode(spare) == Some(*found))) {
                (Err(_), Some((spare, _))) => spare.send_to_addr(message, &self.address),
                (socket, _) => socket?.send_to_addr(message, &self.address),
            }
            .map(drop)
        };
        send().map_err(|error| NotifyError::Send { name: self.name.clone(), error })
    }
}

fn inode(socket: &UnixDatagram) -> Option<u64> {
    nix::sys::stat::fstat(socket).ok().map(|stat| stat.st_ino)
}

fn unbound() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A path, or a name in Linux's abstract namespace, written with a leading `@` (unix(7)).
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] if !name.is_empty() => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither an absolute path nor an abstract name after @",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_comes_and_goes() {
        let home = tempfile::TempDir::new().unwrap();
        let path = home.path().join("notify");
        let socket = Socket::named(path.clone().into()).unwrap();
        assert!(socket.send("READY=1").unwrap_err().to_string().contains("No such file or directory"));
        for message in ["READY=1\nSTATUS=running", "STOPPING=1"] {
            let listener = UnixDatagram::bind(&path).unwrap();
            socket.send(message).unwrap();
            let mut buffer = [0; 100];
            let length = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], message.as_bytes());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name() {
        let name = format!("sidekiq_lifecycle-{}", std::process::id());
        let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        Socket::named(format!("@{name}").into()).unwrap().send("WATCHDOG=1").unwrap();
        let mut buffer = [0; 100];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
    }

    #[test]
    fn a_socket_without_a_reader_is_not_waited_for() {
        let home = tempfile::TempDir::new().unwrap();
        let path = home.path().join("notify");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let socket = Socket::named(path.into()).unwrap();
        let error = (0..100_000).find_map(|_| socket.send("STATUS=running").err()).unwrap();
        assert!(error.to_string().contains("temporarily unavailable"), "{error}");
    }

    #[test]
    fn invalid_names() {
        for name in ["@", "run/notify", "vsock:2:1234", &format!("/{}", "x".repeat(200))] {
            let problem = Socket::named(name.into()).unwrap_err().to_string();
            assert!(
                problem.starts_with(&format!("$NOTIFY_SOCKET is {name:?}, so systemd receives no notifications: ")),
                "{problem}"
            );
        }
    }
}

//! Why a command could not be carried out.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::cli::target;
use crate::model::text::{as_root, process_names};
use crate::store;

/// Why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error(transparent)]
    Directory(#[from] store::error::Error),
    /// There is no such process.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// A process is there whose record cannot be read.
    #[error("{why}; use --pid {pid} to signal it anyway")]
    Unreadable {
        /// The process.
        pid: i32,
        /// What is wrong.
        why: String,
    },
    /// The goal can only be seen in a record.
    #[error("{command} needs the record of process {pid}: {why}")]
    NoRecord {
        /// The command.
        command: String,
        /// The process.
        pid: i32,
        /// Why there is none.
        why: String,
    },
    /// It has no handler for SIGTSTP.
    #[error(
        "process {0} has not installed its signal handlers yet, and SIGTSTP would suspend it; wait until it is ready"
    )]
    WouldSuspend(i32),
    /// The same of a program with a Sidekiq in it.
    #[error("process {0} is a program that embeds Sidekiq, and SIGTSTP would suspend it; quiet Sidekiq from within it")]
    WouldSuspendProgram(i32),
    /// SIGTERM is for the whole program.
    #[error(
        "process {0} is a program that embeds Sidekiq, and SIGTERM might end it before its jobs have finished; stop \
         Sidekiq from within it, or send kill -TERM {0} if the program stops Sidekiq then"
    )]
    Embedded(i32),
    /// Another user's.
    #[error("process {pid} belongs to uid {uid}; run this as that user or {}", as_root(geteuid().is_root()))]
    NotAllowed {
        /// The process.
        pid: i32,
        /// Whose it is.
        uid: u32,
    },
    /// The request to stop cannot be written.
    #[error("process {0} cannot be requested to stop once it has drained: {1}")]
    NotRequested(i32, #[source] store::error::Error),
    /// Nothing has been sent, because of this.
    #[error("{0} (no signal was sent)")]
    NothingSent(Box<Self>),
    /// Some have not got it.
    #[error("{}; {signal} was sent to {}", failures.join("; "), if sent.is_empty() { "no process".to_owned() } else { process_names(sent) })]
    PartlySent {
        /// Why, of each that has not.
        failures: Vec<String>,
        /// The signal.
        signal: Signal,
        /// Who has got it.
        sent: Vec<i32>,
    },
    /// pidfd_open(2) came with Linux 5.3.
    #[error("this kernel is older than 5.3 and has no pidfd_open(2)")]
    OldKernel,
    /// It cannot be opened.
    #[error("process {pid} cannot be opened: {}", describe(*errno))]
    NotOpened {
        /// The process.
        pid: i32,
        /// The system's error.
        errno: Errno,
    },
    /// A record is read through two descriptors.
    #[error("no record can be read: {}", describe(*.0))]
    NoDescriptors(Errno),
    /// Waiting is not possible.
    #[error("{}", describe(*.0))]
    System(Errno),
}

impl Error {
    /// As said of a failure that comes before the first signal.
    pub fn nothing_sent(self) -> Self {
        Self::NothingSent(Box::new(self))
    }

    /// Of a process that cannot be opened.
    pub fn not_opened(pid: i32, errno: Errno) -> Self {
        match errno {
            Errno::ENOSYS => Self::OldKernel,
            errno => Self::NotOpened { pid, errno },
        }
    }
}

fn describe(errno: Errno) -> String {
    match errno {
        Errno::EMFILE => format!("{}; raise ulimit -n", errno.desc()),
        errno => errno.desc().to_owned(),
    }
}

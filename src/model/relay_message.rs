//! Messages between relays and their workers: a signal, or a process, in one number.

/// A message to a relay, from its worker or another relay: a queued signal with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The worker has received this signal.
    Arrived(i32),
    /// Another relay has a worker below this process, which the receiving relay traces.
    Join(i32),
    /// This signal was sent to a process (its pid) that the other relay traces, and goes no further.
    Forward(i32, i32),
    /// This signal was sent to such a process, which has a handler for it.
    Watch(i32),
    /// That handler does something of its own, and decides.
    HandledBy(i32),
    /// Such a process is about to exit, and waits for the worker.
    Exiting,
    /// The relay is dismissed.
    Leave,
    /// The worker ends within this many seconds after a stop signal.
    StopLimit(i32),
    /// The worker's application has a trap of its own for this signal.
    Trapped(i32),
    /// This signal was sent to a program (its pid) between the shell that received it and some of the workers.
    SentTo(i32, i32),
}

impl Message {
    /// The kind, the signal, and the process id or the seconds.
    #[must_use]
    pub fn to_number(self) -> usize {
        let (kind, signal, value) = match self {
            Self::Arrived(signal) => (1, signal, 0),
            Self::Join(pid) => (2, 0, pid),
            Self::Forward(signal, pid) => (3, signal, pid),
            Self::Watch(signal) => (4, signal, 0),
            Self::Exiting => (5, 0, 0),
            Self::Leave => (6, 0, 0),
            Self::StopLimit(seconds) => (7, 0, seconds),
            Self::Trapped(signal) => (8, signal, 0),
            Self::HandledBy(signal) => (9, signal, 0),
            Self::SentTo(signal, pid) => (10, signal, pid),
        };
        let part = |number: i32| usize::try_from(number).unwrap_or_default();
        kind << 40 | (part(signal) & 0xFF) << 32 | part(value)
    }

    /// Parses a number; `None` if it is not a message.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let signal = i32::try_from(number >> 32 & 0xFF).ok()?;
        let value = i32::try_from(number & 0xFFFF_FFFF).ok()?;
        match number >> 40 {
            1 => Some(Self::Arrived(signal)),
            2 => Some(Self::Join(value)),
            3 => Some(Self::Forward(signal, value)),
            4 => Some(Self::Watch(signal)),
            5 => Some(Self::Exiting),
            6 => Some(Self::Leave),
            7 => Some(Self::StopLimit(value)),
            8 => Some(Self::Trapped(signal)),
            9 => Some(Self::HandledBy(signal)),
            10 => Some(Self::SentTo(signal, value)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        for message in [
            Message::Arrived(15),
            Message::Join(4_194_304),
            Message::Forward(20, 4_194_304),
            Message::Watch(2),
            Message::HandledBy(2),
            Message::SentTo(12, 4_194_304),
            Message::Exiting,
            Message::Leave,
            Message::StopLimit(i32::MAX),
            Message::Trapped(12),
        ] {
            let number = u64::try_from(message.to_number()).unwrap();
            assert_eq!(Message::from_number(number), Some(message));
        }
        assert_eq!(Message::from_number(0), None);
        assert_eq!(Message::from_number(u64::MAX), None);
    }
}

//! Redis' reply to BRPOP, as it comes from the socket: an array of two strings, the queue and the payload
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! Other gems may ask Redis something else in the middle of a fetch. A reply counts as a job only if it looks like one of
//! Sidekiq's: the key of a queue, perhaps with a namespace before it, and a JSON object. What does not look like one
//! although it is one is recorded when Ruby has it.

/// What the key of a queue begins with, perhaps behind a namespace.
const QUEUE: &[u8] = b"queue:";

/// What the bytes are that have arrived so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A job.
    Job {
        /// Redis' key of its queue, without the namespace that redis-namespace adds to it: so Ruby gets it.
        queue: &'a [u8],
        /// Sidekiq's JSON.
        payload: &'a [u8],
    },
    /// The beginning of a job.
    Incomplete,
    /// Something else: no job came in time, an error, the reply to another command.
    Other,
}

/// Reads a reply.
#[must_use]
pub fn parse(bytes: &[u8]) -> Reply<'_> {
    match job(bytes) {
        Ok(reply) | Err(reply) => reply,
    }
}

fn job(bytes: &[u8]) -> Result<Reply<'_>, Reply<'_>> {
    let rest = expect(bytes, b"*2\r\n")?;
    let (queue, rest) = string(rest)?;
    let (payload, rest) = string(rest)?;
    match without_namespace(queue) {
        Some(queue) if payload.starts_with(b"{") && rest.is_empty() => Ok(Reply::Job { queue, payload }),
        _ => Err(Reply::Other),
    }
}

/// `None`: it is not the key of a queue.
fn without_namespace(key: &[u8]) -> Option<&[u8]> {
    let begins = |at: &usize| *at == 0 || key.get(at - 1) == Some(&b':');
    let mut places = key.windows(QUEUE.len()).enumerate().filter(|(_, part)| *part == QUEUE).map(|(at, _)| at);
    places.find(begins).and_then(|at| key.get(at..))
}

/// `$5\r\nqueue\r\n`
fn string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Reply<'static>> {
    let mut rest = expect(bytes, b"$")?;
    let mut length = 0_usize;
    while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
        let longer = length.checked_mul(10).and_then(|tens| tens.checked_add(usize::from(digit - b'0')));
        (length, rest) = (longer.ok_or(Reply::Other)?, after);
    }
    let rest = expect(rest, b"\r\n")?;
    let (string, rest) = rest.split_at_checked(length).ok_or(Reply::Incomplete)?;
    Ok((string, expect(rest, b"\r\n")?))
}

/// What follows the expected bytes.
fn expect<'a>(bytes: &'a [u8], expected: &[u8]) -> Result<&'a [u8], Reply<'static>> {
    let is_beginning = expected.starts_with(bytes);
    bytes.strip_prefix(expected).ok_or(if is_beginning { Reply::Incomplete } else { Reply::Other })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"*2\r\n$13\r\nqueue:default\r\n$12\r\n{\"args\":\"\n\"}\r\n";
    const JOB: Reply<'_> = Reply::Job { queue: b"queue:default", payload: b"{\"args\":\"\n\"}" };

    #[test]
    fn replies() {
        for (bytes, reply) in [
            (WHOLE, JOB),
            (b"*2\r\n$10\r\nns:queue:a\r\n$1\r\n{\r\n", Reply::Job { queue: b"queue:a", payload: b"{" }),
            (b"*2\r\n$16\r\nmyqueue:queue:ab\r\n$1\r\n{\r\n", Reply::Job { queue: b"queue:ab", payload: b"{" }),
            (b"*2\r\n$15\r\nqueue:a:queue:b\r\n$1\r\n{\r\n", Reply::Job { queue: b"queue:a:queue:b", payload: b"{" }),
            (b"*2\r\n$9\r\nmyqueue:a\r\n$1\r\n{\r\n", Reply::Other),
            // Replies to other commands.
            (b"*2\r\n$0\r\n\r\n$0\r\n\r\n", Reply::Other),
            (b"*2\r\n$6\r\npaused\r\n$2\r\n{}\r\n", Reply::Other),
            (b"*2\r\n$7\r\nqueue:a\r\n$7\r\nqueue:b\r\n", Reply::Other),
            // Nobody pushed a job in time: RESP2 and RESP3.
            (b"*-1\r\n", Reply::Other),
            (b"_\r\n", Reply::Other),
            (b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n", Reply::Other),
            (b"+OK\r\n", Reply::Other),
            (b"*3\r\n$1\r\na\r\n", Reply::Other),
            (b"*2\r\n:1\r\n:2\r\n", Reply::Other),
            (b"*2\r\n$-1\r\n$-1\r\n", Reply::Other),
            (b"*2\r\n$1\r\nab\r\n", Reply::Other),
            (b"*2\r\n$99999999999999999999999\r\n", Reply::Other),
            (b"*2\r\n$18446744073709551615\r\n", Reply::Incomplete),
            (&[WHOLE, b"*"].concat(), Reply::Other),
        ] {
            assert_eq!(parse(bytes), reply, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn every_beginning_of_a_job_is_incomplete() {
        for length in 0..WHOLE.len() {
            assert_eq!(parse(&WHOLE[..length]), Reply::Incomplete, "{length} bytes");
        }
    }

    /// Random changes: no panic, and strings only from the bytes themselves.
    #[test]
    fn fuzzed() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..20_000 {
            let mut bytes = WHOLE.to_vec();
            for _ in 0..random.usize(1..5) {
                bytes[random.usize(0..WHOLE.len())] = *random.choice(b"*$0129-\r\n{x").unwrap_or(&0);
            }
            if let Reply::Job { queue, payload } = parse(&bytes) {
                assert!(queue.len() + payload.len() < bytes.len());
            }
        }
    }
}

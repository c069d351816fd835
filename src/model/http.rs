//! The HTTP endpoint's rules: which address it has, what a request asks for, and how a response reads.
//!
//! It speaks the part of HTTP/1.1 (RFC 9112) that probes and scrapers use: GET and HEAD, one request a connection.

use std::net::{Ipv6Addr, SocketAddr};

use crate::model::probe::Probe;

/// How many bytes a request's head may have. Probes send some hundred.
pub const HEAD_LIMIT: usize = 4096;

/// How many header fields a request may have.
const FIELDS: usize = 32;

/// Parses the endpoint's address: a port, which means all of the machine's addresses, or an IP address and a port.
#[must_use]
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    let port = || text.parse().ok().map(|port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    text.parse().ok().or_else(port).filter(|address| address.port() != 0)
}

/// Why the endpoint does not have its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle<'a> {
    /// Another Sidekiq of the directory has it, and answers for all.
    Sibling,
    /// Some program has it.
    Taken,
    /// The system's error.
    Error(&'a str),
}

/// What is wrong after so many `attempts` in a row without the address. A sibling that has just got it says so in its
/// record a moment later, so the first attempt proves nothing.
#[must_use]
pub fn problem(address: SocketAddr, obstacle: Obstacle<'_>, attempts: u32) -> Option<String> {
    let why = match obstacle {
        Obstacle::Taken if attempts > 1 => "another program has it",
        Obstacle::Error(error) => error,
        Obstacle::Sibling | Obstacle::Taken => return None,
    };
    Some(format!("HTTP cannot be served at {address}: {why}; set lifecycle.http to an address that is free"))
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A probe.
    Probe(Probe),
    /// The JSON of `status --json`.
    Status,
    /// The metrics.
    Metrics,
}

/// What is known of a request by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its head has not arrived as a whole.
    Incomplete,
    /// It is complete, and wants only the head of the response if `is_head`.
    Complete {
        /// What it asks for.
        question: Question,
        /// Its method is HEAD.
        is_head: bool,
    },
    /// It gets this response, whatever follows.
    Refused(Response),
}

/// Reads a request from the bytes that have arrived.
#[must_use]
pub fn read(bytes: &[u8]) -> Request {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let refused = |status, body: &str| Request::Refused(Response::text(status, body));
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Request::Incomplete,
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => {}
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return refused(Status::TooLarge, "the request has too many header fields, or too long ones");
        }
        Err(_) => return refused(Status::Bad, "this is not an HTTP request"),
    }
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    let question = match path {
        "/" | "/live" => Question::Probe(Probe::Live),
        "/ready" => Question::Probe(Probe::Ready),
        "/drained" => Question::Probe(Probe::Drained),
        "/status" => Question::Status,
        "/metrics" => Question::Metrics,
        _ => return refused(Status::NotFound, "there are /live, /ready, /drained, /status and /metrics"),
    };
    match request.method {
        Some("GET") => Request::Complete { question, is_head: false },
        Some("HEAD") => Request::Complete { question, is_head: true },
        _ => refused(Status::NotAllowed, "only GET and HEAD are answered"),
    }
}

/// The status codes in use (RFC 9110).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200: yes.
    Ok,
    /// 400: it is no request.
    Bad,
    /// 404: there is no such path.
    NotFound,
    /// 405: this method changes something, or is unknown.
    NotAllowed,
    /// 431: the head is too large.
    TooLarge,
    /// 500: the answer cannot be given.
    Failed,
    /// 503: no.
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Bad => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Failed => "500 Internal Server Error",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: Status,
    media_type: &'static str,
    body: String,
}

impl Response {
    /// A line of text.
    #[must_use]
    pub fn text(status: Status, line: &str) -> Self {
        Self { status, media_type: "text/plain; charset=utf-8", body: format!("{line}\n") }
    }

    /// A JSON document.
    #[must_use]
    pub fn json(body: String) -> Self {
        Self { status: Status::Ok, media_type: "application/json", body }
    }

    /// Metrics, as OpenMetrics 1.0 text.
    #[must_use]
    pub fn metrics(body: String) -> Self {
        Self { status: Status::Ok, media_type: "application/openmetrics-text; version=1.0.0; charset=utf-8", body }
    }

    /// As it is sent; without its body if only its head `is_head` was asked for. The connection ends with it.
    #[must_use]
    pub fn into_bytes(self, is_head: bool) -> Vec<u8> {
        let allow = if self.status == Status::NotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status.line(),
            self.media_type,
            self.body.len()
        );
        let body = if is_head { String::new() } else { self.body };
        (head + &body).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let table: &[(&str, Option<&str>)] = &[
            ("7433", Some("[::]:7433")),
            ("127.0.0.1:7433", Some("127.0.0.1:7433")),
            ("[::1]:65535", Some("[::1]:65535")),
            ("0.0.0.0:1", Some("0.0.0.0:1")),
            ("0", None),
            ("127.0.0.1:0", None),
            ("65536", None),
            ("-1", None),
            (" 7433", None),
            ("127.0.0.1", None),
            ("localhost:7433", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_address(text).map(|address| address.to_string()).as_deref(), *expected, "{text:?}");
        }
    }

    #[test]
    fn problems() {
        let address = parse_address("127.0.0.1:80").unwrap();
        let table: &[(Obstacle<'_>, u32, Option<&str>)] = &[
            (Obstacle::Sibling, 1, None),
            (Obstacle::Sibling, 9, None),
            (Obstacle::Taken, 1, None),
            (Obstacle::Taken, 2, Some("another program has it")),
            (Obstacle::Error("Permission denied"), 1, Some("Permission denied")),
        ];
        for (obstacle, attempts, why) in table {
            let expected = why.map(|why| {
                format!("HTTP cannot be served at 127.0.0.1:80: {why}; set lifecycle.http to an address that is free")
            });
            assert_eq!(problem(address, *obstacle, *attempts), expected, "{obstacle:?} {attempts}");
        }
    }

    #[test]
    fn requests() {
        let complete = |question, is_head| Request::Complete { question, is_head };
        let get = |question| complete(question, false);
        let table: &[(&str, Request)] = &[
            ("", Request::Incomplete),
            ("GET", Request::Incomplete),
            ("GET /ready HTTP/1.1\r\nHost: a\r\n", Request::Incomplete),
            ("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n", get(Question::Probe(Probe::Ready))),
            ("GET /ready HTTP/1.0\r\n\r\n", get(Question::Probe(Probe::Ready))),
            ("GET / HTTP/1.1\r\n\r\n", get(Question::Probe(Probe::Live))),
            ("GET /live?a=/ready HTTP/1.1\r\n\r\n", get(Question::Probe(Probe::Live))),
            ("GET /drained HTTP/1.1\r\n\r\nGET /ready HTTP/1.1\r\n\r\n", get(Question::Probe(Probe::Drained))),
            ("HEAD /status HTTP/1.1\r\n\r\n", complete(Question::Status, true)),
            ("GET /metrics HTTP/1.1\n\n", get(Question::Metrics)),
        ];
        for (text, expected) in table {
            assert_eq!(read(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn refused_requests() {
        let long = format!("GET /ready HTTP/1.1\r\nA: {}", "a".repeat(HEAD_LIMIT));
        let ended = format!("{long}\r\n\r\n");
        let many = format!("GET /ready HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        let table: &[(&str, &str)] = &[
            ("GET /nothing HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET http://a/ready HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET /ready/ HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST /ready HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("\u{16}\u{3}\u{1}\u{2}", "400 Bad Request"),
            ("GET /ready HTTP/2.0\r\n\r\n", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
            (&ended, "431 Request Header Fields Too Large"),
            (&many, "431 Request Header Fields Too Large"),
        ];
        for (text, expected) in table {
            let Request::Refused(response) = read(text.as_bytes()) else { panic!("{text:?} is not refused") };
            assert_eq!(response.status.line(), *expected, "{text:?}");
        }
    }

    /// Requests with random changes, as they arrive: no panic, and what was answered once stays the answer.
    #[test]
    fn fuzzed() {
        let mut random = fastrand::Rng::with_seed(14);
        let good = ["GET /live HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", "HEAD /status?a=b HTTP/1.0\r\n\r\n"];
        for round in 0..3000 {
            let mut bytes = good[round % good.len()].repeat(random.usize(1..3)).into_bytes();
            for _ in 0..random.usize(0..6) {
                let at = random.usize(0..bytes.len());
                bytes[at] = if random.bool() { random.u8(..) } else { *random.choice(b"\r\n\0 :/?").unwrap() };
            }
            let mut answer = Request::Incomplete;
            for end in 0..=bytes.len() {
                let now = read(&bytes[..end]);
                assert!(
                    answer == Request::Incomplete || now == answer,
                    "round {round}: {:?}",
                    String::from_utf8_lossy(&bytes)
                );
                answer = now;
            }
        }
    }

    #[test]
    fn responses() {
        let text = |response: Response, is_head| String::from_utf8(response.into_bytes(is_head)).unwrap();
        assert_eq!(
            text(Response::text(Status::Ok, "ready"), false),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 6\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\nready\n"
        );
        let head = text(Response::json("{}".to_owned()), true);
        assert!(head.contains("Content-Length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(text(Response::text(Status::NotAllowed, "no"), false).contains("\r\nAllow: GET, HEAD\r\n"));
    }
}

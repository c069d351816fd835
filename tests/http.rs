//! The HTTP endpoint in a process: what it costs, and that one client takes it from no other.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::worker::http;

/// How much memory it may take, in KiB.
const LIMIT: u64 = 300;

/// The process's memory that is in no file, in KiB.
fn anonymous_memory() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ask(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Sends until the endpoint ends the connection.
fn send_for_ever(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    while stream.write_all(&[b'\n'; 65536]).is_ok() {}
}

#[test]
fn it_takes_little_memory_and_answers_whoever_else_asks() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let home = tempfile::TempDir::new().unwrap();
    let before = anonymous_memory();
    http::serve(Some(address), Directory::new(home.path(), None)).unwrap();
    while ask(address, "/live").is_none() {
        thread::sleep(Duration::from_millis(10));
    }
    for path in ["/live", "/ready", "/drained", "/status", "/metrics", "/nothing"].into_iter().cycle().take(1200) {
        assert!(ask(address, path).unwrap().starts_with("HTTP/1.1 "));
    }
    let taken = anonymous_memory().saturating_sub(before);
    println!("{taken} KiB");
    assert!(taken < LIMIT, "it takes {taken} KiB");
    let sender = thread::spawn(move || send_for_ever(address));
    while !sender.is_finished() {
        assert!(ask(address, "/live").unwrap().starts_with("HTTP/1.1 "));
    }
    http::serve(None, Directory::new(home.path(), None)).unwrap();
    assert_eq!(ask(address, "/live"), None);
}

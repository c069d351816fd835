//! The format of the flight recorder: which jobs a process has in hand, in a file that outlives it.
//!
//! ```text
//! header    magic, version, number of blocks, the recorder's id, its owner, the last heartbeat
//! index     64 bytes a block: state, number, start, lengths, checksum of the job that begins in this block
//! blocks    4 KiB each: queue and payload; a large job has several in a row
//! ```
//!
//! A job for which no blocks are free has a file of its own beside the recorder: its entry in the index, and then its queue
//! and payload.
//!
//! All numbers are little-endian. A process that is killed may have written any part of a job: its state is `HELD` only once
//! everything else is there. After a power failure a page may be older than another, which the checksum shows.

use std::ops::Range;

use thiserror::Error;

use super::job;

/// The version of the format. A reader takes no other.
pub const VERSION: u32 = 1;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Bytes of the header.
pub const HEADER: usize = 4096;

/// How many blocks a recorder has at most. A block's number fits into 16 bits, and one is left over.
pub const MAX_BLOCKS: usize = (1 << 16) - 1;

/// The state of a block in which no job begins.
pub const EMPTY: u64 = 0;
/// The state while a job is being written.
pub const WRITING: u64 = 1;
/// The state once it has been written.
pub const HELD: u64 = 2;

/// Set for a job of a fetch that keeps its own copy: it is named, and not put back.
pub const KEPT_ELSEWHERE: u64 = 1;

const MAGIC: &[u8; 8] = b"SLflight";
/// Where the last heartbeat is in the header, which the checksum leaves out.
pub const BEAT: usize = 56;
const OWNER: usize = 64;
const ENTRY: usize = 64;

/// Where the parts are in a recorder with so many blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many blocks it has.
    pub blocks: usize,
}

impl Layout {
    /// Room for the jobs of so many threads: 16 KiB for each, and a mebibyte for large ones.
    #[must_use]
    pub fn for_threads(threads: usize) -> Self {
        Self { blocks: threads.saturating_mul(4).saturating_add(256).min(MAX_BLOCKS) }
    }

    /// Where a block's entry in the index begins.
    #[must_use]
    pub const fn entry(self, block: usize) -> usize {
        HEADER + block * ENTRY
    }

    /// Where a block begins.
    #[must_use]
    pub const fn block(self, block: usize) -> usize {
        HEADER + (self.blocks * ENTRY).next_multiple_of(BLOCK) + block * BLOCK
    }

    /// The size of the file.
    #[must_use]
    pub const fn size(self) -> usize {
        self.block(self.blocks)
    }
}

/// A job, beside its queue and its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts the jobs of a recorder. With the recorder's id it names this fetch of the job and no other.
    pub number: u64,
    /// When it was fetched: milliseconds since 1970.
    pub started: u64,
    /// [`KEPT_ELSEWHERE`], or 0.
    pub flags: u64,
}

impl Entry {
    /// The entry in the index without its state, which is written last.
    #[must_use]
    pub fn encode(&self, queue: &[u8], payload: &[u8]) -> [[u8; 8]; 5] {
        let lengths = lengths(queue, payload);
        let sum = checksum(&[self.number, self.started, lengths, self.flags], queue, payload);
        [self.number, self.started, lengths, self.flags, sum].map(u64::to_le_bytes)
    }
}

fn lengths(queue: &[u8], payload: &[u8]) -> u64 {
    (queue.len() as u64) << 32 | payload.len() as u64 & 0xFFFF_FFFF
}

/// A job that was in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the index says of it.
    pub entry: Entry,
    /// Redis' key of its queue.
    pub queue: Vec<u8>,
    /// Sidekiq's JSON, as fetched.
    pub payload: Vec<u8>,
}

impl Job {
    /// Its fetch keeps a copy, so it is not put back.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.entry.flags & KEPT_ELSEWHERE != 0
    }

    /// The job as everyone may see it.
    #[must_use]
    pub fn named(&self) -> job::Job {
        job::Job::fetched(&self.queue, &self.payload, self.entry.started)
    }
}

/// What a recorder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// A random number, in hexadecimal.
    pub id: String,
    /// Who writes it, as the store has encoded it.
    pub owner: Vec<u8>,
    /// The owner's last heartbeat: milliseconds since 1970.
    pub beat: u64,
    /// The jobs in hand, in the order in which they were fetched.
    pub jobs: Vec<Job>,
    /// How many jobs were being written, or are damaged.
    pub torn: usize,
}

/// Why a file cannot be read as a recorder.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin like one.
    #[error("it is no flight recorder")]
    NotOne,
    /// Another version of the gem wrote it.
    #[error("its format has version {0}, and this gem reads {VERSION}")]
    OtherVersion(u32),
    /// Its header is wrong, or the file has another size than its header says.
    #[error("it is damaged")]
    Damaged,
}

/// The header; `None` if the owner's description has no room.
#[must_use]
pub fn header(layout: Layout, id: [u8; 16], owner: &[u8], beat: u64) -> Option<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&u32::try_from(layout.blocks).ok()?.to_le_bytes());
    header.extend_from_slice(&id);
    header.extend_from_slice(&u64::try_from(owner.len()).ok()?.to_le_bytes());
    header.resize(BEAT - 8, 0);
    let sum = checksum(&[], &header, owner);
    header.extend_from_slice(&sum.to_le_bytes());
    header.extend_from_slice(&beat.to_le_bytes());
    header.extend_from_slice(owner);
    let has_room = header.len() <= HEADER;
    header.resize(HEADER, 0);
    has_room.then_some(header)
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the parts are.
    pub layout: Layout,
    /// A random number, in hexadecimal.
    pub id: String,
    /// Who writes the recorder, as the store has encoded it.
    pub owner: Vec<u8>,
    /// The owner's last heartbeat: milliseconds since 1970.
    pub beat: u64,
}

/// Reads the header, the first [`HEADER`] bytes.
///
/// # Errors
/// It is none, is damaged, or has another version.
pub fn parse_header(bytes: &[u8]) -> Result<Header, Malformed> {
    if bytes.get(..8) != Some(MAGIC) {
        return Err(Malformed::NotOne);
    }
    let version = number32(bytes, 8).ok_or(Malformed::Damaged)?;
    if version != VERSION {
        return Err(Malformed::OtherVersion(version));
    }
    header_of_this_version(bytes).ok_or(Malformed::Damaged)
}

fn header_of_this_version(bytes: &[u8]) -> Option<Header> {
    let layout = Layout { blocks: usize::try_from(number32(bytes, 12)?).ok()? };
    let id: String = bytes.get(16..32)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let length = usize::try_from(number(bytes, 32)?).ok()?;
    let owner = bytes.get(OWNER..HEADER)?.get(..length)?;
    let is_whole = checksum(&[], bytes.get(..BEAT - 8)?, owner) == number(bytes, BEAT - 8)?;
    let header = || Some(Header { layout, id, owner: owner.to_vec(), beat: number(bytes, BEAT)? });
    if is_whole && layout.blocks <= MAX_BLOCKS { header() } else { None }
}

/// Reads a whole recorder. Whatever the bytes are, it reads only jobs whose checksum is right.
///
/// # Errors
/// It is none, is damaged, or has another version.
pub fn parse(bytes: &[u8]) -> Result<Contents, Malformed> {
    let Header { layout, id, owner, beat } = parse_header(bytes)?;
    let read = |block| {
        let state = number(bytes, layout.entry(block))?;
        Some((state, if state == HELD { job(bytes, layout, block) } else { None }))
    };
    let blocks: Option<Vec<_>> =
        (0..layout.blocks).map(read).filter(|block| block.as_ref().is_none_or(|block| block.0 != EMPTY)).collect();
    let Some(blocks) = blocks.filter(|_| bytes.len() == layout.size()) else { return Err(Malformed::Damaged) };
    let all = blocks.len();
    let mut jobs: Vec<Job> = blocks.into_iter().filter_map(|(_, job)| job).collect();
    jobs.sort_by_key(|job| job.entry.number);
    Ok(Contents { id, owner, beat, torn: all - jobs.len(), jobs })
}

/// What the file of a single job holds.
#[must_use]
pub fn single(entry: &Entry, queue: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = HELD.to_le_bytes().to_vec();
    bytes.extend_from_slice(entry.encode(queue, payload).as_flattened());
    bytes.resize(ENTRY, 0);
    bytes.extend_from_slice(queue);
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads the file of a single job; `None`: it is damaged.
#[must_use]
pub fn parse_single(bytes: &[u8]) -> Option<Job> {
    job_at(bytes, 0, ENTRY)
}

fn job(bytes: &[u8], layout: Layout, block: usize) -> Option<Job> {
    job_at(bytes, layout.entry(block), layout.block(block))
}

fn job_at(bytes: &[u8], at: usize, start: usize) -> Option<Job> {
    let field = |index: usize| number(bytes, at + 8 * index);
    let entry = Entry { number: field(1)?, started: field(2)?, flags: field(4)? };
    let lengths = field(3)?;
    let queue_length = usize::try_from(lengths >> 32).ok()?;
    let length = queue_length.checked_add(usize::try_from(lengths & 0xFFFF_FFFF).ok()?)?;
    let (queue, payload) =
        bytes.get(Range { start, end: start.checked_add(length)? })?.split_at_checked(queue_length)?;
    let is_whole = checksum(&[entry.number, entry.started, lengths, entry.flags], queue, payload) == field(5)?;
    is_whole.then(|| Job { entry, queue: queue.to_vec(), payload: payload.to_vec() })
}

fn number(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

fn number32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// Detects torn and damaged jobs, not forged ones.
fn checksum(numbers: &[u64], one: &[u8], other: &[u8]) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    numbers.iter().for_each(|number| sum.update(&number.to_le_bytes()));
    sum.update(one);
    sum.update(other);
    sum.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { blocks: 6 };

    fn empty() -> Vec<u8> {
        let mut bytes = header(LAYOUT, [0xAB; 16], b"its owner", 7).unwrap();
        bytes.resize(LAYOUT.size(), 0);
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
        bytes[at..at + part.len()].copy_from_slice(part);
    }

    fn record(bytes: &mut [u8], block: usize, number: u64, payload: &[u8]) {
        let entry = Entry { number, started: 1000 + number, flags: 0 };
        put(bytes, LAYOUT.entry(block), &HELD.to_le_bytes());
        put(bytes, LAYOUT.entry(block) + 8, &entry.encode(b"queue:default", payload).concat());
        put(bytes, LAYOUT.block(block), &[b"queue:default", payload].concat());
    }

    fn numbers(bytes: &[u8]) -> (Vec<u64>, usize) {
        let contents = parse(bytes).unwrap();
        (contents.jobs.iter().map(|job| job.entry.number).collect(), contents.torn)
    }

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = empty();
        assert_eq!(numbers(&bytes), (vec![], 0));
        record(&mut bytes, 0, 9, b"{\"class\":\"One\"}");
        record(&mut bytes, 1, 3, &[b'x'; 3 * BLOCK]);
        record(&mut bytes, 5, 4, b"");
        let contents = parse(&bytes).unwrap();
        assert_eq!(
            (contents.id.as_str(), contents.owner.as_slice(), contents.beat),
            (&*"ab".repeat(16), &b"its owner"[..], 7)
        );
        assert_eq!(contents.jobs.iter().map(|job| job.entry.number).collect::<Vec<_>>(), [3, 4, 9], "as fetched");
        let last = contents.jobs.last().unwrap();
        assert_eq!(
            (last.queue.as_slice(), last.payload.as_slice()),
            (&b"queue:default"[..], &b"{\"class\":\"One\"}"[..])
        );
        assert_eq!(last.entry.started, 1009);
        put(&mut bytes, LAYOUT.entry(0), &EMPTY.to_le_bytes());
        assert_eq!(numbers(&bytes), (vec![3, 4], 0));
    }

    #[test]
    fn a_job_that_was_being_written_is_torn() {
        let mut bytes = empty();
        record(&mut bytes, 0, 1, b"whole");
        record(&mut bytes, 1, 2, b"torn");
        put(&mut bytes, LAYOUT.entry(1), &WRITING.to_le_bytes());
        assert_eq!(numbers(&bytes), (vec![1], 1));
    }

    #[test]
    fn every_single_wrong_bit_of_a_job_is_noticed() {
        let mut bytes = empty();
        record(&mut bytes, 2, 1, b"{\"class\":\"One\",\"args\":[1]}");
        let index = LAYOUT.entry(2)..LAYOUT.entry(2) + 48;
        let data = LAYOUT.block(2)..LAYOUT.block(2) + 13 + 26;
        for at in index.chain(data) {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let (jobs, torn) = numbers(&changed);
                let is_gone = at < LAYOUT.entry(2) + 8 && changed[LAYOUT.entry(2)] == 0;
                assert_eq!((jobs.len(), torn), (0, usize::from(!is_gone)), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_single_job_is_read_whole_or_not_at_all() {
        let entry = Entry { number: 7, started: 1007, flags: KEPT_ELSEWHERE };
        let bytes = single(&entry, b"queue:default", b"{\"class\":\"One\"}");
        let job = parse_single(&bytes).unwrap();
        assert_eq!((job.entry, job.is_kept()), (entry, true));
        assert_eq!(
            (job.queue.as_slice(), job.payload.as_slice()),
            (&b"queue:default"[..], &b"{\"class\":\"One\"}"[..])
        );
        for length in 0..bytes.len() {
            assert_eq!(parse_single(bytes.get(..length).unwrap()), None, "{length} bytes");
        }
        for at in (8..48).chain(ENTRY..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(parse_single(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn what_is_no_recorder_says_why() {
        let good = empty();
        let with = |at: usize, part: &[u8]| {
            let mut bytes = good.clone();
            put(&mut bytes, at, part);
            bytes
        };
        for (bytes, why) in [
            (vec![], Malformed::NotOne),
            (b"a text".to_vec(), Malformed::NotOne),
            (with(0, b"x"), Malformed::NotOne),
            (with(8, &[9]), Malformed::OtherVersion(9)),
            (with(12, &[7]), Malformed::Damaged),
            (with(12, &[0xFF; 4]), Malformed::Damaged),
            (with(20, b"x"), Malformed::Damaged),
            (with(32, &[0xFF; 8]), Malformed::Damaged),
            (with(OWNER, b"another's"), Malformed::Damaged),
            (good[..good.len() - 1].to_vec(), Malformed::Damaged),
            (good[..20].to_vec(), Malformed::Damaged),
            ([good.as_slice(), b"x"].concat(), Malformed::Damaged),
        ] {
            assert_eq!(parse(&bytes), Err(why));
        }
        assert!(header(LAYOUT, [0; 16], &[b'x'; HEADER], 0).is_none());
    }

    /// Random bytes, and recorders with random changes: no panic, and no job that was not written.
    #[test]
    fn fuzzed() {
        let mut random = fastrand::Rng::with_seed(15);
        let mut good = empty();
        let payloads: [&[u8]; 3] = [b"{\"jid\":\"1\"}", &[b'y'; 2 * BLOCK], b"{}"];
        for (block, payload) in [0, 1, 5].into_iter().zip(payloads) {
            record(&mut good, block, block as u64, payload);
        }
        for round in 0..3000 {
            let mut bytes = if round % 3 == 0 { vec![0; random.usize(0..2 * HEADER)] } else { good.clone() };
            if round % 3 == 0 {
                random.fill(&mut bytes);
                let kept = MAGIC.len().min(bytes.len());
                put(&mut bytes, 0, MAGIC.get(..kept).unwrap_or_default());
            } else {
                for _ in 0..random.usize(1..40) {
                    let limit = if random.bool() { LAYOUT.block(0) } else { bytes.len() };
                    bytes[random.usize(8..limit)] = random.u8(..);
                }
                bytes.truncate(if random.u8(..) == 0 { random.usize(0..bytes.len()) } else { bytes.len() });
            }
            for job in parse(&bytes).map(|contents| contents.jobs).unwrap_or_default() {
                assert!(payloads.contains(&job.payload.as_slice()) && job.queue == b"queue:default", "round {round}");
            }
        }
    }
}

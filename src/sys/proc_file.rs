//! A file of /proc, read in as few system calls as possible.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Room for nearly every one of them.
const ROOM: usize = 2048;

/// Its contents. `std::fs::read` begins with 32 bytes, because /proc tells no sizes, and needs eight reads for a status.
///
/// # Errors
/// The system's error: there is no such process, or it may not be inspected.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut contents = Vec::with_capacity(ROOM);
    // With a limit std does not ask for the size.
    File::open(path)?.take(u64::MAX).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Its contents as text.
///
/// # Errors
/// As [`read`], or it is not UTF-8.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_any_size() {
        let home = tempfile::TempDir::new().unwrap();
        let path = home.path().join("file");
        for size in [0, 1, ROOM - 1, ROOM, ROOM + 1, 100_000] {
            fs::write(&path, "x".repeat(size)).unwrap();
            assert_eq!(text(&path).unwrap().len(), size);
        }
        fs::write(&path, [0xff]).unwrap();
        assert_eq!((read(&path).unwrap(), text(&path).is_err()), (vec![0xff], true));
        assert_eq!(read(home.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

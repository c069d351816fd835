//! The descriptors that a writer keeps between two writes.

use nix::sys::stat::fstat;

use super::directory::Processes;
use super::files::device_and_inode;
use super::writing::OpenDirectory;

/// What a writer keeps of the directory between two writes: a descriptor of `processes` by which others find the
/// record, and spare copies of it, to release when the process has run out of descriptors.
#[derive(Debug, Default)]
pub struct KeptDescriptors(pub(super) Vec<Processes>);

/// How many descriptors a write needs at once: the directory, `processes`, the directory of a ready file elsewhere,
/// the lock, and the file that is written.
pub(super) const NEEDED: usize = 5;

impl KeptDescriptors {
    /// Keeps what `open` has opened, with `spare` copies to release, once nothing else is done with it. What was kept
    /// before stays, unless the directory has been replaced since.
    pub fn keep(&mut self, open: OpenDirectory<'_>, spare: bool) {
        let OpenDirectory { top, processes, .. } = open;
        drop(top);
        let Some(place) = fstat(&processes).ok().map(|stat| device_and_inode(&stat)) else { return };
        for held in std::mem::take(&mut self.0) {
            match held.is_sound() {
                true if held.place == place => self.0.push(held),
                true => drop(held),
                false => held.forget(),
            }
        }
        let wanted = if spare { NEEDED } else { 1 };
        if self.0.len() < wanted {
            self.0.push(Processes { descriptor: processes, place });
        }
        while let Some(first) = self.0.first().filter(|_| self.0.len() < wanted) {
            let Ok(descriptor) = first.descriptor.try_clone() else { return };
            self.0.push(Processes { descriptor, place });
        }
    }

    /// Releases all descriptors, and returns whether there were any.
    pub fn release(&mut self) -> bool {
        let held = std::mem::take(&mut self.0);
        let is_any = !held.is_empty();
        held.into_iter().for_each(|held| if held.is_sound() { drop(held) } else { held.forget() });
        is_any
    }
}

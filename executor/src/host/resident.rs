//! What an idle host holds of the memory.

use std::fs;
use std::io;

use rustix::mm::{Advice, madvise};

/// Unmaps the pages of this program that were read and never written: its code and constants, most of which only a query needs.
/// They stay in the page cache, from where the next use maps them again, sixteen at a time, without reading the disk; but they
/// are the kernel's to take, and nobody's memory.
pub(super) fn unmap_program() {
    match unmap() {
        Ok(bytes) => tracing::debug!(bytes, "idle: the program's pages are unmapped"),
        Err(error) => tracing::debug!(%error, "the program's pages stay mapped"),
    }
}

fn unmap() -> io::Result<u64> {
    let program = fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    let mut bytes = 0;
    for mapping in unwritten(&fs::read_to_string("/proc/self/smaps")?, &program) {
        let length = mapping.end - mapping.start;
        // SAFETY: the mapping is of a file, private, and cannot be written; it holds no page that ever was (relocations, break
        // points). So the same bytes come back when they are touched.
        unsafe { madvise(std::ptr::without_provenance_mut(mapping.start), length, Advice::LinuxDontNeed) }?;
        bytes += mapping.resident_bytes;
    }
    Ok(bytes)
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    resident_bytes: u64,
}

/// Mappings of `program` in the text of an `smaps` file that cannot be written and never were.
fn unwritten(smaps: &str, program: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            found.extend(current.take());
            current = mapping.filter(|_| line.ends_with(program)).map(|(start, end)| Mapping {
                start,
                end,
                resident_bytes: 0,
            });
            continue;
        }
        let mut words = line.split_whitespace();
        let (name, kib) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
        match (name, kib) {
            (Some("Rss:"), Some(kib)) => {
                current.iter_mut().for_each(|mapping| mapping.resident_bytes = kib.saturating_mul(1024));
            }
            (Some("Anonymous:" | "Private_Dirty:" | "Shared_Dirty:" | "Swap:" | "Locked:"), Some(1..)) => {
                current = None
            }
            _ => {}
        }
    }
    found.extend(current);
    found
}

/// `None`: no header. `Some(None)`: of a mapping that may be written or is shared.
fn header(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some(matches!(words.next(), Some("r--p" | "r-xp")).then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_unmapped() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 7 /bin/onward\nRss: 8 kB\nAnonymous: 0 kB\nVmFlags: rd mr mw me\n\
3000-9000 r-xp 00002000 fe:00 7 /bin/onward\nRss: 16 kB\nPrivate_Dirty: 0 kB\nAnonymous: 0 kB\n\
9000-a000 r--p 00008000 fe:00 7 /bin/onward\nRss: 4 kB\nPrivate_Dirty: 4 kB\nAnonymous: 4 kB\n\
a000-b000 rw-p 00009000 fe:00 7 /bin/onward\nRss: 4 kB\nAnonymous: 0 kB\n\
b000-c000 rw-p 00000000 00:00 0 [heap]\nRss: 4 kB\nAnonymous: 4 kB\n\
d000-e000 r-xp 00000000 fe:00 8 /lib/libc.so.6\nRss: 4 kB\nAnonymous: 0 kB\n";
        let mapping = |start, end, resident_bytes| Mapping { start, end, resident_bytes };
        assert_eq!(
            unwritten(smaps, "/bin/onward"),
            [mapping(0x1000, 0x3000, 8 << 10), mapping(0x3000, 0x9000, 16 << 10)]
        );
    }

    /// The test runs on what it just unmapped.
    #[test]
    fn a_program_runs_on() {
        assert!(unmap().expect("procfs") > 0);
        let again = unmap().expect("procfs");
        assert!(again > 0, "running maps pages");
    }
}

//! Memory that holds segment bytes: a mapped file, or an aligned heap copy of an image.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use arrow_buffer::Buffer;
use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::{Result, SegmentError};
use crate::format::ALIGNMENT;

/// A mapped file range from offset 0. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is owned; shared access is read-only, and writing needs `&mut`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes read-only. The file must not shrink while it is mapped (the store never shrinks a leased file).
    pub fn read_only(file: impl AsFd, length: usize) -> Result<Self> {
        Self::new(file, length, ProtFlags::READ, MapFlags::SHARED)
    }

    /// Maps `length` bytes for writing and makes page-table entries for all of them at once: page faults one by one cost
    /// more than the copy when the pages exist already.
    pub fn writable(file: impl AsFd, length: usize) -> Result<Self> {
        Self::new(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE)
    }

    fn new(file: impl AsFd, length: usize, protection: ProtFlags, flags: MapFlags) -> Result<Self> {
        let size =
            rustix::fs::fstat(&file).map_err(|error| SegmentError::io("stat", "a segment file")(error.into()))?;
        if (size.st_size as u64) < length as u64 || length == 0 {
            let detail = format!("its file has {} bytes of {length}", size.st_size);
            return Err(SegmentError::Torn { id: onward_wire::SegmentId(0), detail });
        }
        // SAFETY: a fresh mapping at an address the kernel chooses; nothing else refers to it.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }
            .map_err(|error| SegmentError::io("map", "a segment file")(error.into()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| {
            SegmentError::io("map", "a segment file")(std::io::Error::from(std::io::ErrorKind::OutOfMemory))
        })?;
        Ok(Self { start, length })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable until drop.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// Only for mappings made by [`Mapping::writable`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped writable until drop, and `&mut self` is the only access in this process; the host
        // gives one writer the file and reads it after the writer unmapped it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start..start + length` was mapped by `new`, and no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            tracing::warn!(%error, "a segment could not be unmapped");
        }
    }
}

/// Where a readable segment lies.
#[derive(Debug)]
pub(crate) enum Memory {
    Mapped(Mapping),
    /// Received bytes that happen to be aligned.
    Shared(Bytes),
    /// A copy of received bytes, aligned.
    Heap(Buffer),
}

impl Memory {
    /// `image` itself where it is aligned, else a copy: images are small.
    pub fn from_image(image: Bytes) -> Self {
        match image.as_ptr().align_offset(ALIGNMENT) {
            0 => Self::Shared(image),
            _ => Self::Heap(Buffer::from_slice_ref(&image)),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Shared(bytes) => bytes,
            Self::Heap(buffer) => buffer,
        }
    }
}

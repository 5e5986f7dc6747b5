//! Buffers of this backend.

/// Alignment of every buffer: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// Zeroed bytes at a 64-byte boundary.  Large buffers are backed by the system lazily.
pub struct Buffer {
    /// `len + ALIGN` bytes.  Rust's allocator zeroes lazily only without extra alignment, hence the slack.
    owned: Vec<u8>,
    start: usize,
    len: usize,
}

// SAFETY: a `Vec<u8>` may be shared; writes go through raw pointers whose users keep them apart.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Buffer {
        if len == 0 {
            return Buffer { owned: vec![], start: 0, len };
        }
        let mut owned = vec![0u8; len + ALIGN];
        let start = owned.as_ptr().align_offset(ALIGN);
        huge_pages(owned.as_mut_ptr(), owned.len());
        Buffer { owned, start, len }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte, for kernels that write disjoint parts from several threads.
    pub fn ptr(&self) -> *mut u8 {
        // SAFETY: the offset is within the allocation (or 0 of an empty one).
        unsafe { self.owned.as_ptr().cast_mut().add(self.start) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.owned[self.start..self.start + self.len]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.owned[self.start..self.start + self.len]
    }
}

/// Asks for 2 MiB pages where the system grants them: weights are read front to back on every token,
/// and page walks cost 5 to 30 % of that.
#[cfg(target_os = "linux")]
fn huge_pages(ptr: *mut u8, len: usize) {
    const HUGE: usize = 2 << 20;
    let start = (ptr as usize).next_multiple_of(HUGE);
    let end = (ptr as usize + len) / HUGE * HUGE;
    if end > start {
        // SAFETY: advice on pages of our own; failure changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn huge_pages(_: *mut u8, _: usize) {}

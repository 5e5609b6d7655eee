//! Memory: the heap, what is needed at the start only, and what a process that waits can do without.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;

use dlmalloc::Dlmalloc;

/// The heap: musl's own allocator makes a system call for every few objects, a tenth of a start. And a scratch for
/// what is needed at the start only: the definition of the command line takes 140 kB, half of what a supervisor may.
pub struct Heap {
    lasting: UnsafeCell<Dlmalloc>,
    scratch: UnsafeCell<Scratch>,
    /// Where the kernel has no more: what is begun can be ended, or taken back and told, without it.
    reserve: UnsafeCell<Scratch>,
}

/// Bytes; what is not touched costs nothing.
const RESERVE: usize = 256 * 1024;
static mut PLACE: [u8; RESERVE] = [0; RESERVE];

/// Memory that is handed out in order, and given back as a whole, or never.
struct Scratch {
    start: usize,
    size: usize,
    used: usize,
    is_open: bool,
}

impl Scratch {
    /// Bytes of address space; what is not touched costs nothing.
    const SIZE: usize = 1024 * 1024;

    const fn closed() -> Self {
        Scratch {
            start: 0,
            size: 0,
            used: 0,
            is_open: false,
        }
    }

    fn open(&mut self) {
        // SAFETY: a new private mapping, at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start != libc::MAP_FAILED {
            *self = Scratch {
                start: start as usize,
                size: Self::SIZE,
                used: 0,
                is_open: true,
            };
        }
    }

    fn open_reserve(&mut self) {
        if !self.is_open {
            *self = Scratch {
                start: (&raw mut PLACE) as usize,
                size: RESERVE,
                used: 0,
                is_open: true,
            };
        }
    }

    fn owns(&self, place: *mut u8) -> bool {
        (self.start..self.start + self.size).contains(&(place as usize))
    }

    /// `None` when it is closed or full.
    fn alloc(&mut self, layout: Layout) -> Option<*mut u8> {
        let place = (self.start + self.used).next_multiple_of(layout.align());
        let used = (place - self.start).checked_add(layout.size())?;
        if !self.is_open || used > self.size {
            return None;
        }
        self.used = used;
        Some(place as *mut u8)
    }
}

impl Heap {
    const fn new() -> Self {
        Heap {
            lasting: UnsafeCell::new(Dlmalloc::new()),
            scratch: UnsafeCell::new(Scratch::closed()),
            reserve: UnsafeCell::new(Scratch::closed()),
        }
    }
}

// SAFETY: this program has one thread (its tests have more, and use another allocator).
unsafe impl Sync for Heap {}

// SAFETY: Dlmalloc keeps the contract of malloc(3) with the sizes and alignments that it is given; the scratch gives
// each byte away once, and what it owns never reaches Dlmalloc. Nobody else is inside either: one thread.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as said at the impl.
        unsafe {
            if let Some(place) = (*self.scratch.get()).alloc(layout) {
                return place;
            }
            let place = (*self.lasting.get()).malloc(layout.size(), layout.align());
            if !place.is_null() {
                return place;
            }
            let reserve = &mut *self.reserve.get();
            reserve.open_reserve();
            reserve.alloc(layout).unwrap_or(std::ptr::null_mut())
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back what alloc gave, with the same layout.
        unsafe {
            let is_lasting =
                !(*self.scratch.get()).owns(place) && !(*self.reserve.get()).owns(place);
            if is_lasting {
                (*self.lasting.get()).free(place, layout.size(), layout.align());
            }
        }
    }
}

/// Does something whose memory is given back afterwards, but for what `keep` copies of its result.
pub fn with_scratch<T, U>(work: impl FnOnce() -> T, keep: impl FnOnce(&T) -> U) -> U {
    // SAFETY: one thread; no reference into the heap's own state outlives these statements.
    unsafe { (*HEAP.scratch.get()).open() };
    let result = work();
    // SAFETY: as above.
    unsafe { (*HEAP.scratch.get()).is_open = false };
    let kept = keep(&result);
    drop(result);
    // SAFETY: what the scratch holds was owned by `result`, which is gone; libraries that kept some of it for
    // themselves would find zeroes, so that its addresses stay ours and are never given away again.
    unsafe {
        let scratch = &*HEAP.scratch.get();
        if scratch.start != 0 {
            libc::madvise(
                scratch.start as *mut libc::c_void,
                Scratch::SIZE,
                libc::MADV_DONTNEED,
            );
        }
    }
    kept
}

/// The heap of this program.
#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap::new();

/// Gives back the memory that a process which only waits does not need: what is free of the heap, the pages of this
/// program's own file, which are read again from the page cache when they are used, and of the stack below what is in
/// use.
pub fn release_memory() {
    // SAFETY: one thread, which is not inside the heap at this moment; only what is free is given back.
    unsafe { (*HEAP.lasting.get()).trim(0) };
    unsafe extern "C" {
        static __executable_start: u8;
        static __init_array_start: u8;
    }
    const PAGE: usize = 4096;
    const STACK: usize = 512 * 1024;
    // What the next calls need of the stack, the red zone included.
    const IN_USE: usize = 2 * PAGE;
    let file = &raw const __executable_start as usize;
    // The linker puts what is written behind what is only read, on a page of its own.
    let file_end = (&raw const __init_array_start as usize) & !(PAGE - 1);
    let here = (&raw const file as usize) & !(PAGE - 1);
    // SAFETY: the first range is this program's own text and constants, a private mapping of a file that was never
    // written: MADV_DONTNEED drops clean pages, and the next access reads the same bytes again (madvise(2)). The
    // second one lies below every frame of this thread, the only one; where nothing is mapped, nothing is done.
    unsafe {
        libc::madvise(
            file as *mut libc::c_void,
            file_end - file,
            libc::MADV_DONTNEED,
        );
        let unused = (here - STACK) as *mut libc::c_void;
        libc::madvise(unused, STACK - IN_USE, libc::MADV_DONTNEED);
    }
}

/// Gives back the memory that a vector has reserved and does not use; it stays reserved.
pub fn release_spare<T>(vector: &mut Vec<T>) {
    const PAGE: usize = 4096;
    let spare = vector.spare_capacity_mut().as_mut_ptr_range();
    let start = (spare.start as usize).next_multiple_of(PAGE);
    let end = spare.end as usize & !(PAGE - 1);
    if start < end {
        // SAFETY: whole pages that are all within the spare capacity, which is uninitialized: zeroes are as good.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

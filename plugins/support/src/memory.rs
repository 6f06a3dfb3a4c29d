//! Memory back to the system after a burst: the allocator would keep it for the next one.

use crate::raw;

/// Gives back what is free. Takes milliseconds: not for every day.
pub fn give_back() {
    raw::trim_heap();
}

//! Outputs on this machine, for people and for tools: a terminal or a file.

use std::io;

use crate::pipeline::wire::Batch;

pub(crate) mod console;
pub(crate) mod file;
pub(crate) mod line_protocol;
mod table;

/// Takes points, in order.
pub(crate) trait Sink {
    /// Writes a batch. On an error none of it counts as written.
    fn write(&mut self, batch: &Batch) -> io::Result<()>;

    /// Called now and then, and once at the end.
    fn tick(&mut self) -> io::Result<()> {
        Ok(())
    }
}

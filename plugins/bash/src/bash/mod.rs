//! Commands of bash: which files to watch, what belongs to one command, who entered it.

pub(crate) mod command;
pub(crate) mod files;
pub(crate) mod point;
pub(crate) mod user;

//! Commands of shells: which files to watch, what belongs to one command, who entered it where.

pub(crate) mod command;
pub(crate) mod container;
pub(crate) mod files;
pub(crate) mod flavour;
pub(crate) mod point;
pub(crate) mod redact;
pub(crate) mod user;

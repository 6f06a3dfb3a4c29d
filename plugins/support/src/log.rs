//! The `log` crate's macros, in this plugin, to the host's log. A library has its own copy of
//! every global, so without this nobody would hear it.

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use plugin_api::{Host, Level, LogField};

struct Bridge(Host);

/// Sends what this plugin logs to the host. A second call changes nothing.
pub fn install(host: Host) {
    if log::set_boxed_logger(Box::new(Bridge(host))).is_ok() {
        // The host filters; what aya tells below this level is of no use to it.
        log::set_max_level(LevelFilter::Debug);
    }
}

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // aya reports at info what is only of interest to who debugs a loader.
        !metadata.target().starts_with("aya") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug | log::Level::Trace => Level::Debug,
        };
        let mut fields = Fields(Vec::new());
        if record.key_values().visit(&mut fields).is_err() {
            fields.0.push(LogField::new("fields", "incomplete"));
        }
        self.0.log(level, &record.args().to_string(), &fields.0);
    }

    fn flush(&self) {}
}

struct Fields(Vec<LogField>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push(LogField::new(key.as_str(), value));
        Ok(())
    }
}

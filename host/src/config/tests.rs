//! The way from sources to configuration as a whole. What concerns one source or one unit is
//! tested beside it.

mod meaning;
mod sources;
mod table;

use super::{options::Entry, *};

const SAMPLE: &str = include_str!("../../../conf/ebpf.conf.sample");
const COLLECTOR: &str = include_str!("../../../conf/collector.toml");

/// A host with one source for each layer, from which a test takes or to which it adds.
#[derive(Clone, Default)]
struct Host {
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    file: Option<String>,
}

impl Host {
    fn flags(flags: &[&str]) -> Self {
        Self::default().and(flags)
    }

    fn file(text: &str) -> Self {
        Self { file: Some(text.to_owned()), ..Self::default() }
    }

    fn and(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    fn with(mut self, name: &str, text: &str) -> Self {
        self.environment.push((name.to_owned(), text.to_owned()));
        self
    }

    fn load(&self) -> Result<Config> {
        let options = Options::load()?;
        let environment = environment::read(&options, self.environment.clone(), "")?;
        let flags = flags::read(&options, &self.flags, "")?.layer;
        let file = match &self.file {
            Some(text) => file::parse(&options, text, "x")?,
            None => File::default(),
        };
        combine(&options, environment, flags, file, Path::new("/plugins"), Purpose::Run)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{:?}: {error:#}", self.flags))
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

/// A host that runs one plugin and sends to DataKit.
fn host() -> Host {
    Host::flags(&["--enabled", "one"])
}

fn settings(config: &Config, key: &str) -> toml::Value {
    config.collector[key].clone()
}

fn strings(items: &[&str]) -> toml::Value {
    items.to_vec().into()
}

fn interval_of(flags: &[&str]) -> (Duration, usize) {
    let config = host().and(flags).config();
    (config.interval, config.warnings.len())
}

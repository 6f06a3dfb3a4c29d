//! The file format of profiles, `profile.proto` of pprof, as far as it is written here. In: stacks
//! with values. Out: a gzip'ed message. Knows nothing about where stacks come from.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::code::{Code, Name};

/// All of a profile; text is an index into `string_table`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
    #[prost(int64, repeated, tag = "13")]
    pub(crate) comment: Vec<i64>,
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) r#type: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

/// A stack, the innermost location first.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(int64, tag = "1")]
    pub(crate) key: i64,
    #[prost(int64, tag = "2")]
    pub(crate) str: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Mapping {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) memory_start: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) memory_limit: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) file_offset: u64,
    #[prost(int64, tag = "5")]
    pub(crate) filename: i64,
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
}

/// A type and its unit, such as `cpu` in `nanoseconds`.
pub(crate) type Kind<'a> = (&'a str, &'a str);

/// Puts a profile together; each text, function and location is written once.
pub(crate) struct Builder {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, u64), u64>,
}

impl Builder {
    /// A profile without samples, whose values are of these kinds.
    pub(crate) fn new(kinds: &[Kind<'_>], period: (Kind<'_>, i64)) -> Self {
        let mut this = Self {
            profile: Profile::default(),
            texts: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The format wants it to be the first.
        this.text("");
        this.profile.sample_type = kinds.iter().map(|kind| this.kind(*kind)).collect();
        this.profile.period_type = Some(this.kind(period.0));
        this.profile.period = period.1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        this.profile.time_nanos = now.as_nanos() as i64;
        this
    }

    /// How long was measured.
    pub(crate) fn lasted(&mut self, duration: Duration) {
        self.profile.duration_nanos = duration.as_nanos() as i64;
    }

    /// Something that a reader should know.
    pub(crate) fn comment(&mut self, text: &str) {
        let text = self.text(text);
        self.profile.comment.push(text);
    }

    /// The files that are mapped; their ids by where they begin in memory.
    pub(crate) fn mappings(&mut self, code: &Code) -> HashMap<u64, u64> {
        let files = code.files();
        files
            .iter()
            .map(|file| {
                let id = self.profile.mapping.len() as u64 + 1;
                let filename = self.text(&file.path);
                self.profile.mapping.push(Mapping {
                    id,
                    memory_start: file.memory.start,
                    memory_limit: file.memory.end,
                    file_offset: file.offset,
                    filename,
                    // Without it, tools look for the file and name functions anew.
                    has_functions: true,
                });
                (file.memory.start, id)
            })
            .collect()
    }

    /// A place in a function; its id. Without mapping and address (0), it is the function alone.
    pub(crate) fn location(&mut self, mapping_id: u64, address: u64, function: &Name) -> u64 {
        let name = self.text(&function.text);
        // Tools shorten a name that is the linker's too.
        let system_name = self.text(&function.symbol);
        let functions = &mut self.profile.function;
        let function_id = *self.functions.entry((name, system_name)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name });
            id
        });
        let locations = &mut self.profile.location;
        *self.locations.entry((address, function_id)).or_insert_with(|| {
            let id = locations.len() as u64 + 1;
            locations.push(Location { id, mapping_id, address, line: vec![Line { function_id }] });
            id
        })
    }

    /// A stack, the innermost location first, with a value for each kind.
    pub(crate) fn sample(&mut self, stack: Vec<u64>, value: Vec<i64>, labels: &[(&str, &str)]) {
        let label = labels
            .iter()
            .map(|(key, value)| Label { key: self.text(key), str: self.text(value) })
            .collect();
        self.profile.sample.push(Sample { location_id: stack, value, label });
    }

    /// The file.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.profile.encode_to_vec())?;
        gzip.finish()
    }

    fn kind(&mut self, (r#type, unit): Kind<'_>) -> ValueType {
        ValueType { r#type: self.text(r#type), unit: self.text(unit) }
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(index) = self.texts.get(text) {
            return *index;
        }
        let index = self.texts.len() as i64;
        self.texts.insert(text.to_owned(), index);
        self.profile.string_table.push(text.to_owned());
        index
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn texts_functions_and_locations_are_written_once() {
        let mut builder = Builder::new(&[("cpu", "nanoseconds")], (("cpu", "nanoseconds"), 7));
        let name = Name::plain("f");
        let first = builder.location(0, 20, &name);
        assert_eq!(builder.location(0, 20, &name), first);
        let second = builder.location(0, 24, &name);
        builder.sample(vec![first, second], vec![7], &[("thread", "f")]);
        let bytes = builder.finish().expect("memory takes it");
        let mut raw = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut raw).expect("it is gzip");
        let profile = Profile::decode(&raw[..]).expect("it is a profile");
        assert_eq!(profile.string_table, ["", "cpu", "nanoseconds", "f", "thread"]);
        assert_eq!((profile.function.len(), profile.location.len()), (1, 2));
        assert_eq!(profile.sample[0].location_id, [first, second]);
        assert_eq!(profile.sample[0].label, [Label { key: 4, str: 3 }]);
        assert_eq!(profile.period, 7);
    }
}

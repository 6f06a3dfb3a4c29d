//! Points to a file or to standard output, one per line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::config::FileFormat;
use crate::output::{Sink, line_protocol};
use crate::pipeline::wire::{Batch, PbPoint, PbValue};

pub(crate) struct FileSink {
    target: Box<dyn Write + Send>,
    format: FileFormat,
}

impl FileSink {
    /// Appends to `path`, or writes to standard output if there is none.
    pub(crate) fn open(path: Option<&Path>, format: FileFormat) -> Result<Self> {
        let target: Box<dyn Write + Send> = match path {
            None => Box::new(io::stdout()),
            Some(path) => Box::new(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("open the output file {}", path.display()))?,
            ),
        };
        Ok(Self { target, format })
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut lines = String::new();
        for point in &batch.points {
            match self.format {
                FileFormat::LineProtocol => line_protocol::write(&mut lines, point),
                FileFormat::Json => lines.push_str(&to_json(point).to_string()),
            }
            lines.push('\n');
        }
        self.target.write_all(lines.as_bytes())?;
        self.target.flush()
    }
}

fn to_json(point: &PbPoint) -> Value {
    let (mut tags, mut fields) = (Map::new(), Map::new());
    for field in &point.fields {
        let key = String::from_utf8_lossy(&field.key).into_owned();
        let value = match &field.value {
            Some(PbValue::I64(value)) => json!(value),
            Some(PbValue::U64(value)) => json!(value),
            Some(PbValue::F64(value)) => json!(value),
            Some(PbValue::Bool(value)) => json!(value),
            Some(PbValue::Text(_)) | None => json!(field.text()),
        };
        if field.is_tag { &mut tags } else { &mut fields }.insert(key, value);
    }
    let measurement = String::from_utf8_lossy(&point.name);
    json!({ "measurement": measurement, "tags": tags, "fields": fields, "time": point.time_ns })
}

#[cfg(test)]
mod tests {
    use super::FileSink;
    use crate::config::FileFormat;
    use crate::output::Sink as _;
    use crate::pipeline::wire::tests::batch;

    #[test]
    fn a_json_line_has_tags_and_typed_fields_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points");
        let mut sink = FileSink::open(Some(&path), FileFormat::Json).unwrap();
        sink.write(&batch()).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(line["measurement"], "flows");
        assert_eq!(line["tags"]["src_ip"], "10.0.0.5");
        assert_eq!(line["fields"]["bytes_read"], 5);
        assert_eq!(line["fields"]["cut"], true);
    }
}

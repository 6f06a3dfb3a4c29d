//! A point as a line of `InfluxDB` line protocol, the text form that DataKit reads. Tags with an
//! empty value have no place in it and are left out.

use std::fmt::Write as _;

use crate::pipeline::wire::{PbPoint, PbValue};

/// Appends one line, without its end.
pub(crate) fn write(line: &mut String, point: &PbPoint) {
    escape(line, &String::from_utf8_lossy(&point.name), ", ");
    for tag in point.fields.iter().filter(|field| field.is_tag) {
        let value = tag.text();
        if !value.is_empty() {
            line.push(',');
            escape(line, &String::from_utf8_lossy(&tag.key), ",= ");
            line.push('=');
            escape(line, &value, ",= ");
        }
    }
    let mut separator = ' ';
    for field in point.fields.iter().filter(|field| !field.is_tag) {
        line.push(separator);
        separator = ',';
        escape(line, &String::from_utf8_lossy(&field.key), ",= ");
        line.push('=');
        match &field.value {
            Some(PbValue::I64(value)) => append(line, format_args!("{value}i")),
            Some(PbValue::U64(value)) => append(line, format_args!("{value}u")),
            Some(PbValue::F64(value)) => append(line, format_args!("{value}")),
            Some(PbValue::Bool(value)) => append(line, format_args!("{value}")),
            Some(PbValue::Text(_)) | None => {
                line.push('"');
                escape(line, &field.text(), "\"\\");
                line.push('"');
            }
        }
    }
    append(line, format_args!(" {}", point.time_ns));
}

fn append(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).unwrap_or_default();
}

/// A line break would end the point, so it becomes a space.
fn escape(line: &mut String, text: &str, special: &str) {
    for character in text.chars() {
        let character = if matches!(character, '\n' | '\r') { ' ' } else { character };
        if special.contains(character) {
            line.push('\\');
        }
        line.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::pipeline::wire::tests::batch;

    #[test]
    fn every_type_has_its_notation_and_empty_tags_are_left_out() {
        let mut line = String::new();
        write(&mut line, &batch().points[0]);
        assert_eq!(
            line,
            "flows,src_ip=10.0.0.5 bytes_read=5i,share=0.5,cut=true,seq=7u,path=\"/a b\" \
             1761800000000000000"
        );
    }

    #[test]
    fn special_characters_are_escaped() {
        let mut points = plugin_api::Points::new(plugin_api::Category::Logging, "f");
        let mut point = points.point("m", 1);
        point.tag("k", "a,b=c d\ne").field_display("s", "say \"hi\" \\");
        let batch = crate::pipeline::wire::Batch::from(points);
        let mut line = String::new();
        write(&mut line, &batch.points[0]);
        assert_eq!(line, "m,k=a\\,b\\=c\\ d\\ e s=\"say \\\"hi\\\" \\\\\" 1");
    }
}

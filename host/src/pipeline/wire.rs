//! The shape of points inside the host, which is that of DataKit's protobuf message `PBPoints`,
//! so that encoding needs no translation.
//!
//! Strings are `Bytes`: on the wire both are the same, and a slice of a batch's buffer is shared
//! and not copied.

use std::borrow::Cow;

use abi_stable::std_types::RString;
use bytes::Bytes;
use plugin_api::{Category, Point, Points, Text, Value};
use prost::{Message, Oneof};

/// A body of `/v1/write/...`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PbPoints {
    #[prost(message, repeated, tag = "1")]
    pub(crate) points: Vec<PbPoint>,
}

/// One point. Tags are fields with `is_tag`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PbPoint {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) name: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub(crate) fields: Vec<PbField>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "3")]
    pub(crate) time_ns: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PbField {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(oneof = "PbValue", tags = "2, 3, 4, 5, 11")]
    pub(crate) value: Option<PbValue>,
    #[prost(bool, tag = "8")]
    pub(crate) is_tag: bool,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum PbValue {
    #[prost(int64, tag = "2")]
    I64(i64),
    #[prost(uint64, tag = "3")]
    U64(u64),
    #[prost(double, tag = "4")]
    F64(f64),
    #[prost(bool, tag = "5")]
    Bool(bool),
    #[prost(bytes = "bytes", tag = "11")]
    Text(Bytes),
}

/// The points of one plugin call, on their way to one place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    pub(crate) category: Category,
    pub(crate) feed: &'static str,
    pub(crate) points: Vec<PbPoint>,
}

/// What DataKit keeps of a tag's value.
const MAX_TAG_BYTES: usize = 1024;

/// Room for the tags that are added to every point later, to grow a point's list only once.
const ADDED_LATER: usize = 4;

impl From<Points> for Batch {
    fn from(points: Points) -> Self {
        Self::of_kept(points, |_| true)
    }
}

impl Batch {
    /// Takes over the points at those positions that `keeps` says yes to.
    pub(crate) fn of_kept(mut points: Points, keeps: impl Fn(usize) -> bool) -> Self {
        let buffer = Bytes::from_owner(Buffer(points.take_text()));
        let field = |key: &'static str, value, is_tag| {
            let value = convert(&buffer, value);
            let value = if is_tag { fit_for_a_tag(value) } else { value };
            PbField { key: Bytes::from_static(key.as_bytes()), value: Some(value), is_tag }
        };
        let convert = |point: Point<'_>| {
            let (tags, values) = (point.tags(), point.fields());
            let mut fields = Vec::with_capacity(tags.len() + values.len() + ADDED_LATER);
            fields.extend(tags.map(|(key, text)| field(key, Value::Text(text), true)));
            fields.extend(values.map(|(key, value)| field(key, value, false)));
            let name = Bytes::from_static(point.measurement().as_bytes());
            PbPoint { name, fields, time_ns: point.time_ns() }
        };
        let kept = points.iter().enumerate().filter(|(index, _)| keeps(*index));
        let converted = kept.map(|(_, point)| convert(point)).collect();
        Self { category: points.category(), feed: points.feed(), points: converted }
    }
}

impl Batch {
    /// Gives every point a further field.
    pub(crate) fn add_field(&mut self, key: &'static str, value: f64) {
        for point in &mut self.points {
            let key = Bytes::from_static(key.as_bytes());
            let value = Some(PbValue::F64(value));
            point.fields.push(PbField { key, value, is_tag: false });
        }
    }
}

/// The text of a batch, kept in the plugin's own allocation.
struct Buffer(RString);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

fn convert(buffer: &Bytes, value: Value) -> PbValue {
    match value {
        Value::I64(value) => PbValue::I64(value),
        Value::U64(value) => PbValue::U64(value),
        Value::F64(value) => PbValue::F64(value),
        Value::Bool(value) => PbValue::Bool(value),
        Value::Text(Text::Static(text)) => {
            PbValue::Text(Bytes::from_static(text.as_str().as_bytes()))
        }
        Value::Text(Text::Written { start, end }) => {
            let range = start as usize..end as usize;
            let inside = range.start <= range.end && range.end <= buffer.len();
            PbValue::Text(if inside { buffer.slice(range) } else { Bytes::new() })
        }
    }
}

/// Tags have one line, at most 1024 bytes, and no backslash at the end: names of processes and
/// the like come from anybody.
fn fit_for_a_tag(value: PbValue) -> PbValue {
    match value {
        PbValue::Text(text)
            if text.len() > MAX_TAG_BYTES || text.contains(&b'\n') || text.ends_with(b"\\") =>
        {
            let text = String::from_utf8_lossy(&text).replace('\n', " ");
            let cut = &text[..text.floor_char_boundary(MAX_TAG_BYTES)];
            PbValue::Text(Bytes::from(cut.trim_end_matches('\\').to_owned()))
        }
        other => other,
    }
}

impl PbPoint {
    /// Whether a tag or field of this name is there already.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.fields.iter().any(|field| field.key == key)
    }

    /// The value of a tag; empty if there is none.
    pub(crate) fn tag(&self, key: &str) -> Cow<'_, str> {
        self.fields
            .iter()
            .find(|field| field.is_tag && field.key == key)
            .map_or(Cow::Borrowed(""), |field| field.text())
    }

    /// The value of an integer field.
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        let field = self.fields.iter().find(|field| !field.is_tag && field.key == key)?;
        match field.value {
            Some(PbValue::I64(value)) => Some(value),
            _ => None,
        }
    }
}

impl PbField {
    /// A tag that is not the plugin's.
    pub(crate) fn tag(key: Bytes, value: Bytes) -> Self {
        Self { key, value: Some(PbValue::Text(value)), is_tag: true }
    }

    /// The value if it is text; empty if it is not.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match &self.value {
            Some(PbValue::Text(text)) => String::from_utf8_lossy(text),
            _ => Cow::Borrowed(""),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Batch, PbPoints};
    use plugin_api::{Category, Points};
    use prost::Message as _;

    /// One network point with a value of each type.
    pub(crate) fn batch() -> Batch {
        let mut points = Points::new(Category::Network, "some-plugin/flows");
        points.point("skipped", 1).tag("a", "b");
        let mut point = points.point("flows", 1_761_800_000_000_000_000);
        point.tag_display("src_ip", "10.0.0.5").tag("dst_domain", "").field("bytes_read", 5_i64);
        point.field("share", 0.5).field("cut", true).field("seq", 7_u64);
        point.field_display("path", "/a b");
        let mut batch = Batch::from(points);
        batch.points.remove(0);
        batch
    }

    #[test]
    fn what_the_reference_uploaded_is_understood_to_the_last_byte() {
        for body in [
            include_bytes!("../../../tests/golden/netflow-1.pb").as_slice(),
            include_bytes!("../../../tests/golden/netflow-2.pb").as_slice(),
            include_bytes!("../../../tests/golden/dnsflow.pb").as_slice(),
            include_bytes!("../../../tests/golden/bash.pb").as_slice(),
        ] {
            let decoded = PbPoints::decode(body).unwrap();
            assert!(!decoded.points.is_empty());
            // The reference writes `is_tag` before the value; the order means nothing.
            let encoded = decoded.encode_to_vec();
            assert_eq!(encoded.len(), body.len());
            assert_eq!(PbPoints::decode(encoded.as_slice()).unwrap(), decoded);
        }
    }

    #[test]
    fn only_kept_points_are_taken_over() {
        let mut points = Points::new(Category::Network, "f");
        for number in 0..4_i64 {
            points.point("m", number).tag_display("n", number);
        }
        let batch = Batch::of_kept(points, |index| index % 2 == 1);
        let shown = batch.points.iter().map(|point| (point.time_ns, point.tag("n").into_owned()));
        assert_eq!(shown.collect::<Vec<_>>(), [(1, "1".to_owned()), (3, "3".to_owned())]);
    }

    #[test]
    fn text_ends_up_in_the_point_that_it_was_written_for() {
        let batch = batch();
        let point = &batch.points[0];
        assert_eq!(point.tag("src_ip"), "10.0.0.5");
        assert_eq!(point.integer("bytes_read"), Some(5));
        assert_eq!(point.fields.last().unwrap().text(), "/a b");
        assert!(point.has(b"dst_domain") && !point.has(b"a"));
    }

    #[test]
    fn a_point_costs_the_host_a_few_allocations() {
        let points = 10_000;
        let mut batch = Points::new(Category::Network, "f");
        for number in 0..points {
            let mut point = batch.point("netflow", number);
            for key in ["src_ip", "dst_ip", "src_port", "dst_port", "pid", "process_name"] {
                point.tag_display(key, number);
            }
            for key in ["family", "direction", "transport", "src_ip_type", "dst_ip_type"] {
                point.tag(key, "constant");
            }
            for key in ["bytes_read", "bytes_written", "rtt", "rtt_var"] {
                point.field(key, number);
            }
        }
        let cost = allocation_counter::measure(|| {
            for request in crate::pipeline::encode::encode(Batch::from(batch), false) {
                assert!(!request.body.is_empty());
            }
        });
        let per_point = cost.count_total as f64 / points as f64;
        println!("{per_point:.2} allocations per point in the host");
        assert!(per_point < 3.0, "{per_point}");
    }

    #[test]
    fn a_tag_is_made_to_fit_and_a_field_is_left_as_it_is() {
        let mut points = Points::new(Category::Network, "f");
        let mut point = points.point("m", 0);
        let text = point.text("a\nb\\");
        point.tag("t", text).field("f", text).tag_display("long", "ä".repeat(600));
        let point = Batch::from(points).points.remove(0);
        assert_eq!(point.tag("t"), "a b");
        assert_eq!(point.tag("long").len(), 1024);
        assert_eq!(point.fields[2].text(), "a\nb\\");
    }

    #[test]
    fn an_empty_tag_and_a_zero_are_written_out() {
        let mut points = Points::new(Category::Network, "f");
        points.point("m", 0).tag("t", "").field("n", 0_i64);
        let body = PbPoints { points: Batch::from(points).points }.encode_to_vec();
        let fields = &PbPoints::decode(body.as_slice()).unwrap().points[0].fields;
        assert!(fields.iter().all(|field| field.value.is_some()), "{fields:?}");
    }
}

//! Request bodies to points. In: the protobuf `PBPoints` of a request. Out: points with their tags and typed fields.
//! Written from the schema, not from the product: it is stricter than `DataKit` and refuses what a receiver would drop.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use serde_json::json;

/// `PBPoints`: a request body.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PbPoints {
    /// The points, in the order they were sent.
    #[prost(message, repeated, tag = "1")]
    pub arr: Vec<PbPoint>,
}

/// `PBPoint`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PbPoint {
    /// The measurement.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Tags and fields, in any order.
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<PbField>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "3")]
    pub time: i64,
    /// What the sender had to adjust.
    #[prost(message, repeated, tag = "4")]
    pub warns: Vec<PbWarn>,
    /// Notes for debugging.
    #[prost(message, repeated, tag = "5")]
    pub debugs: Vec<PbDebug>,
}

/// `Warn`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PbWarn {
    /// The kind of adjustment.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// What was adjusted.
    #[prost(string, tag = "2")]
    pub msg: String,
}

/// `Debug`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PbDebug {
    /// The note.
    #[prost(string, tag = "1")]
    pub info: String,
}

/// `Field`: a tag or a field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PbField {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value; written even when it is zero or empty.
    #[prost(oneof = "PbValue", tags = "2, 3, 4, 5, 6, 7, 11")]
    pub val: Option<PbValue>,
    /// Whether it is a tag.
    #[prost(bool, tag = "8")]
    pub is_tag: bool,
    /// The metric type: 0 is unspecified.
    #[prost(int32, tag = "9")]
    pub kind: i32,
    /// The unit, mostly empty.
    #[prost(string, tag = "10")]
    pub unit: String,
}

/// The value of a [`PbField`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PbValue {
    /// A signed integer.
    #[prost(int64, tag = "2")]
    I(i64),
    /// An unsigned integer.
    #[prost(uint64, tag = "3")]
    U(u64),
    /// A floating point number.
    #[prost(double, tag = "4")]
    F(f64),
    /// A truth value.
    #[prost(bool, tag = "5")]
    B(bool),
    /// Bytes.
    #[prost(bytes, tag = "6")]
    D(Vec<u8>),
    /// `google.protobuf.Any`: kept as bytes, nobody sends it.
    #[prost(bytes, tag = "7")]
    A(Vec<u8>),
    /// Text.
    #[prost(string, tag = "11")]
    S(String),
}

/// One decoded point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The measurement.
    pub name: String,
    /// Tags by name.
    pub tags: BTreeMap<String, String>,
    /// Fields by name.
    pub fields: BTreeMap<String, PbValue>,
    /// Nanoseconds since 1970.
    pub time: i64,
}

impl Point {
    /// A tag, if the point has it.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }

    /// A field, if the point has it as a signed integer.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.fields.get(key) {
            Some(PbValue::I(value)) => Some(*value),
            _ => None,
        }
    }

    /// A field, if the point has it as text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.fields.get(key) {
            Some(PbValue::S(value)) => Some(value),
            _ => None,
        }
    }

    /// The shape of a line of the golden `.jsonl` files, without `order`.
    pub fn to_json(&self) -> serde_json::Value {
        let fields: serde_json::Map<_, _> =
            self.fields.iter().map(|(key, value)| (key.clone(), value_to_json(value))).collect();
        json!({ "name": self.name, "tags": self.tags, "fields": fields, "time": self.time })
    }
}

fn value_to_json(value: &PbValue) -> serde_json::Value {
    match value {
        PbValue::I(value) => json!({ "i": value }),
        PbValue::U(value) => json!({ "u": value }),
        PbValue::F(value) => json!({ "f": value }),
        PbValue::B(value) => json!({ "b": value }),
        PbValue::D(value) => json!({ "d": value }),
        PbValue::A(value) => json!({ "a": value }),
        PbValue::S(value) => json!({ "s": value }),
    }
}

/// Decodes a request body; an error is something that a receiver would drop or mistake.
pub fn decode(body: &[u8]) -> anyhow::Result<Vec<Point>> {
    let points = PbPoints::decode(body).context("not a PBPoints message")?;
    points.arr.into_iter().map(point).collect()
}

fn point(raw: PbPoint) -> anyhow::Result<Point> {
    let PbPoint { name, fields: raw_fields, time, warns: _, debugs: _ } = raw;
    ensure!(!name.is_empty(), "a point without a name");
    let mut tags = BTreeMap::new();
    let mut fields = BTreeMap::new();
    for PbField { key, val, is_tag, kind: _, unit: _ } in raw_fields {
        let value = val.with_context(|| format!("{name}: `{key}` has no value"))?;
        ensure!(
            !tags.contains_key(&key) && !fields.contains_key(&key),
            "{name}: `{key}` occurs twice"
        );
        match value {
            PbValue::S(text) if is_tag => drop(tags.insert(key, text)),
            other => {
                ensure!(!is_tag, "{name}: tag `{key}` is not text");
                fields.insert(key, other);
            }
        }
    }
    ensure!(!fields.is_empty(), "{name}: a point without fields");
    Ok(Point { name, tags, fields, time })
}

//! The receiver's own decoder against request bodies that the replaced collector really uploaded: only a receiver that reads
//! those may judge ours. In: `golden/`. The product's encoder is tested where it lives.

use std::fs;
use std::path::Path;

use serde_json::Value;
use system_tests::wire::{PbField, PbPoint, PbPoints, PbValue, decode};

use prost::Message as _;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden_lines(name: &str) -> Vec<Value> {
    let text = String::from_utf8(golden(name)).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

const BODIES: [&str; 4] = ["netflow-1", "netflow-2", "dnsflow", "bash"];

#[test]
fn golden_bodies_decode_to_their_golden_lines() {
    for body in BODIES {
        let points = decode(&golden(&format!("{body}.pb"))).expect("a golden body decodes");
        let lines = golden_lines(&format!("{body}.jsonl"));
        assert_eq!(points.len(), lines.len(), "{body}");
        for (point, mut line) in points.iter().zip(lines) {
            line.as_object_mut().expect("an object").remove("order");
            assert_eq!(point.to_json(), line, "{body}");
        }
    }
}

#[test]
fn the_schema_names_everything_in_the_golden_bodies() {
    for body in BODIES {
        let bytes = golden(&format!("{body}.pb"));
        let points = PbPoints::decode(bytes.as_slice()).expect("a golden body decodes");
        // A field without a name here would be dropped. The order within a message is the encoder's choice.
        assert_eq!(points.encoded_len(), bytes.len(), "{body}");
    }
}

#[test]
fn every_truncation_inside_a_point_is_an_error() {
    let bytes = golden("netflow-2.pb");
    let whole = decode(&bytes).expect("a golden body decodes").len();
    for len in 0..bytes.len() {
        // A cut between two points leaves a valid, shorter body.
        let decoded = decode(&bytes[..len]).map_or(0, |points| points.len());
        assert!(decoded < whole, "len {len}");
    }
}

/// A valid point, from which each test below takes one thing.
fn point() -> PbPoint {
    let tag = |key: &str| PbField {
        key: key.to_owned(),
        val: Some(PbValue::S("value".to_owned())),
        is_tag: true,
        ..PbField::default()
    };
    let field = PbField { key: "bytes".to_owned(), val: Some(PbValue::I(0)), ..PbField::default() };
    PbPoint { name: "netflow".to_owned(), fields: vec![tag("host"), field], ..PbPoint::default() }
}

fn error_of(point: PbPoint) -> String {
    let body = PbPoints { arr: vec![point] }.encode_to_vec();
    decode(&body).expect_err("it is not valid").to_string()
}

#[test]
fn a_valid_point_decodes() {
    let body = PbPoints { arr: vec![point()] }.encode_to_vec();
    assert_eq!(decode(&body).expect("it is valid").len(), 1);
}

#[test]
fn a_key_that_occurs_twice_is_an_error() {
    let mut twice = point();
    twice.fields.push(PbField { key: "host".to_owned(), ..twice.fields[1].clone() });
    assert_eq!(error_of(twice), "netflow: `host` occurs twice");
}

#[test]
fn a_field_without_a_value_is_an_error() {
    let mut without = point();
    without.fields[1].val = None;
    assert_eq!(error_of(without), "netflow: `bytes` has no value");
}

#[test]
fn a_tag_that_is_not_text_is_an_error() {
    let mut number = point();
    number.fields[0].val = Some(PbValue::I(1));
    assert_eq!(error_of(number), "netflow: tag `host` is not text");
}

#[test]
fn a_point_without_fields_is_an_error() {
    let mut tags_only = point();
    tags_only.fields.pop();
    assert_eq!(error_of(tags_only), "netflow: a point without fields");
}

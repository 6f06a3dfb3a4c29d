//! Points: what plugins measure. They cross the boundary in batches of one destination, laid
//! out so that a point costs no allocation of its own.

use std::fmt::{Display, Write as _};
use std::mem;

use abi_stable::StableAbi;
use abi_stable::std_types::{RStr, RString, RVec};

/// Which of DataKit's data categories a batch belongs to.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Flows: `/v1/write/network`.
    Network,
    /// Log lines: `/v1/write/logging`.
    Logging,
    /// Spans: `/v1/bpftracing`.
    Tracing,
}

/// Text in a batch: a constant of the plugin, or written into the batch. Only valid in the batch
/// that it came from.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub enum Text {
    /// A constant. Plugins are never unmapped, so it stays valid.
    Static(RStr<'static>),
    /// The bytes from `start` to `end` of the batch's buffer.
    Written {
        /// Offset of the first byte.
        start: u32,
        /// Offset behind the last byte.
        end: u32,
    },
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::Static(text.into())
    }
}

/// The value of a field.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub enum Value {
    /// A signed integer.
    I64(i64),
    /// An unsigned integer.
    U64(u64),
    /// A floating-point number.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(Text),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Text> for Value {
    fn from(value: Text) -> Self {
        Self::Text(value)
    }
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
struct TagEntry {
    key: RStr<'static>,
    value: Text,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
struct FieldEntry {
    key: RStr<'static>,
    value: Value,
}

/// A point's own facts, and where its tags and fields end (they start where the last point's
/// end).
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
struct Head {
    measurement: RStr<'static>,
    time_ns: i64,
    group: u64,
    tags_end: u32,
    fields_end: u32,
}

/// A batch of points for one destination.
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct Points {
    category: Category,
    feed: RStr<'static>,
    text: RString,
    tags: RVec<TagEntry>,
    fields: RVec<FieldEntry>,
    heads: RVec<Head>,
}

impl Points {
    /// An empty batch. `feed` names the stream for DataKit, which stores it as the source of the
    /// data: by custom the plugin's name, or `<plugin>/<measurement>`.
    pub fn new(category: Category, feed: &'static str) -> Self {
        Self {
            category,
            feed: feed.into(),
            text: RString::new(),
            tags: RVec::new(),
            fields: RVec::new(),
            heads: RVec::new(),
        }
    }

    /// Adds a point; `time_ns` is nanoseconds since 1970 in UTC. Tags and fields follow on the
    /// builder. A key may be used once per point.
    pub fn point(&mut self, measurement: &'static str, time_ns: i64) -> PointBuilder<'_> {
        self.heads.push(Head {
            measurement: measurement.into(),
            time_ns,
            group: 0,
            tags_end: self.tags.len() as u32,
            fields_end: self.fields.len() as u32,
        });
        PointBuilder { points: self }
    }

    /// Where the points go.
    pub fn category(&self) -> Category {
        self.category
    }

    /// The stream's name; see [`Points::new`].
    pub fn feed(&self) -> &'static str {
        self.feed.as_str()
    }

    /// The number of points.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The points, in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Point<'_>> {
        self.heads.iter().enumerate().map(move |(index, head)| Point { points: self, index, head })
    }

    /// `text` as a string. Text of another batch reads as something else or as nothing.
    pub fn resolve(&self, text: Text) -> &str {
        match text {
            Text::Static(text) => text.as_str(),
            Text::Written { start, end } => {
                self.text.as_str().get(start as usize..end as usize).unwrap_or_default()
            }
        }
    }

    /// Takes out the buffer that [`Text::Written`] points into, for whoever wants to keep it
    /// without a copy. Afterwards [`Points::resolve`] finds nothing there.
    pub fn take_text(&mut self) -> RString {
        mem::take(&mut self.text)
    }
}

/// Adds tags and fields to the point that was added last.
#[derive(Debug)]
pub struct PointBuilder<'a> {
    points: &'a mut Points,
}

impl PointBuilder<'_> {
    /// Writes `value` into the batch once, to be used for several tags or fields.
    pub fn text(&mut self, value: impl Display) -> Text {
        let start = self.points.text.len() as u32;
        if write!(self.points.text, "{value}").is_err() {
            // Writing to a string cannot fail: the value itself refused.
            return Text::from("");
        }
        Text::Written { start, end: self.points.text.len() as u32 }
    }

    /// Adds a tag: a constant, or what [`PointBuilder::text`] returned.
    pub fn tag(&mut self, key: &'static str, value: impl Into<Text>) -> &mut Self {
        self.points.tags.push(TagEntry { key: key.into(), value: value.into() });
        let end = self.points.tags.len() as u32;
        self.head().tags_end = end;
        self
    }

    /// Adds a tag whose value is how `value` displays itself.
    pub fn tag_display(&mut self, key: &'static str, value: impl Display) -> &mut Self {
        let value = self.text(value);
        self.tag(key, value)
    }

    /// Adds a field.
    pub fn field(&mut self, key: &'static str, value: impl Into<Value>) -> &mut Self {
        self.points.fields.push(FieldEntry { key: key.into(), value: value.into() });
        let end = self.points.fields.len() as u32;
        self.head().fields_end = end;
        self
    }

    /// Adds a text field whose value is how `value` displays itself.
    pub fn field_display(&mut self, key: &'static str, value: impl Display) -> &mut Self {
        let value = self.text(value);
        self.field(key, value)
    }

    /// Puts the point into a group: when the host samples, points of one group are kept or
    /// dropped together. 0, the default, is no group.
    pub fn group(&mut self, group: u64) -> &mut Self {
        self.head().group = group;
        self
    }

    fn head(&mut self) -> &mut Head {
        let last = self.points.heads.len() - 1;
        &mut self.points.heads[last]
    }
}

/// One point of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    points: &'a Points,
    index: usize,
    head: &'a Head,
}

impl<'a> Point<'a> {
    /// The measurement's name.
    pub fn measurement(&self) -> &'static str {
        self.head.measurement.as_str()
    }

    /// Nanoseconds since 1970 in UTC.
    pub fn time_ns(&self) -> i64 {
        self.head.time_ns
    }

    /// See [`PointBuilder::group`].
    pub fn group(&self) -> u64 {
        self.head.group
    }

    /// The tags; [`Points::resolve`] turns a value into a string.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = (&'static str, Text)> + use<'a> {
        let start = self.previous().map_or(0, |head| head.tags_end);
        between(&self.points.tags, start, self.head.tags_end)
            .iter()
            .map(|tag| (tag.key.as_str(), tag.value))
    }

    /// The fields.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'static str, Value)> + use<'a> {
        let start = self.previous().map_or(0, |head| head.fields_end);
        between(&self.points.fields, start, self.head.fields_end)
            .iter()
            .map(|field| (field.key.as_str(), field.value))
    }

    fn previous(&self) -> Option<&'a Head> {
        self.index.checked_sub(1).and_then(|index| self.points.heads.get(index))
    }
}

fn between<T>(entries: &[T], start: u32, end: u32) -> &[T] {
    entries.get(start as usize..end as usize).unwrap_or_default()
}

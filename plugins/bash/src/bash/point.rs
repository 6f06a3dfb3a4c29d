//! Commands to points: the names on the wire, and nothing else.

use std::fmt::{self, Display};

use chrono::{DateTime, SecondsFormat, TimeZone};
use plugin_api::Points;

use crate::bash::command::Command;

pub(crate) const FEED: &str = "ebpf-bash";
const MEASUREMENT: &str = "bash";

/// Adds the point of a command that was entered at `time`, which is shown in its time zone.
pub(crate) fn bash<Zone: TimeZone<Offset: Display>>(
    points: &mut Points,
    command: &Command,
    user: &str,
    time: &DateTime<Zone>,
) {
    let Command { moment, text, is_cut } = command;
    let shown = Shown(text);
    let mut point = points.point(MEASUREMENT, time.timestamp_nanos_opt().unwrap_or_default());
    point
        .field_display("cmd", &shown)
        .field_display("user", user)
        .field_display("pid", moment.pid)
        .field_display(
            "message",
            format_args!(
                "{} pid:`{}` user:`{user}` cmd:`{shown}`",
                time.to_rfc3339_opts(SecondsFormat::Secs, true),
                moment.pid,
            ),
        );
    if *is_cut {
        point.field("truncated", true);
    }
}

/// Text as it is; bytes that are no UTF-8 as `\xff`.
struct Shown<'a>(&'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            formatter.write_str(chunk.valid())?;
            chunk.invalid().iter().try_for_each(|byte| write!(formatter, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FEED, bash};
    use crate::bash::command::Command;
    use crate::decode::Moment;
    use chrono::{DateTime, FixedOffset, TimeZone as _};
    use plugin_api::{Category, Points, Value};
    use std::collections::BTreeMap;

    fn fields_of(
        text: &[u8],
        is_cut: bool,
        time: &DateTime<FixedOffset>,
    ) -> BTreeMap<&'static str, String> {
        let moment = Moment { pid: 4321, uid: 1000, time_ns: 0 };
        let command = Command { moment, text: text.to_vec(), is_cut };
        let mut points = Points::new(Category::Logging, FEED);
        bash(&mut points, &command, "alice", time);
        let point = points.iter().next().unwrap();
        assert_eq!(point.measurement(), "bash");
        assert_eq!(Some(point.time_ns()), time.timestamp_nanos_opt());
        assert_eq!(point.tags().len(), 0);
        let fields = point.fields().map(|(key, value)| match value {
            Value::Text(text) => (key, points.resolve(text).to_owned()),
            Value::Bool(value) => (key, value.to_string()),
            other => panic!("{key} is {other:?}"),
        });
        fields.collect()
    }

    fn shanghai() -> DateTime<FixedOffset> {
        FixedOffset::east_opt(8 * 3600).unwrap().timestamp_nanos(1_761_793_615_123_456_789)
    }

    #[test]
    fn a_command_has_the_documented_fields_and_no_others() {
        let message = "2025-10-30T11:06:55+08:00 pid:`4321` user:`alice` cmd:`ls -l`";
        let expected = [("cmd", "ls -l"), ("message", message), ("pid", "4321"), ("user", "alice")];
        let fields = fields_of(b"ls -l", false, &shanghai());
        assert_eq!(fields, expected.map(|(key, value)| (key, value.to_owned())).into());
    }

    #[test]
    fn utc_is_written_as_the_replaced_collector_does() {
        let utc = FixedOffset::east_opt(0).unwrap().timestamp_nanos(1_795_335_942_288_288_780);
        let fields = fields_of(b"echo hello-from-bash", false, &utc);
        let message = "2026-11-22T08:25:42Z pid:`4321` user:`alice` cmd:`echo hello-from-bash`";
        assert_eq!(fields["message"], message);
    }

    #[test]
    fn what_is_no_utf_8_is_shown_byte_by_byte_and_the_rest_as_it_is() {
        let fields = fields_of("é\n\t\u{1f980}".as_bytes(), false, &shanghai());
        assert_eq!(fields["cmd"], "é\n\t\u{1f980}");
        let fields = fields_of(b"a\xff\xc3b", false, &shanghai());
        assert_eq!(fields["cmd"], r"a\xff\xc3b");
        assert!(fields["message"].ends_with(r"cmd:`a\xff\xc3b`"));
    }

    #[test]
    fn a_cut_command_says_so() {
        assert_eq!(fields_of(b"ls", true, &shanghai())["truncated"], "true");
    }
}

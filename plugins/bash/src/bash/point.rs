//! Commands to points: the names on the wire, and nothing else.

use std::fmt::{self, Display};

use chrono::{DateTime, SecondsFormat, TimeZone};
use plugin_api::Points;

use crate::bash::command::Command;
use crate::bash::flavour::Flavour;
use crate::config::{Config, Field};

pub(crate) const FEED: &str = "ebpf-bash";
const MEASUREMENT: &str = "bash";

/// Who entered a command, where and when.
pub(crate) struct Origin<'a, Zone: TimeZone> {
    pub(crate) user: &'a str,
    pub(crate) container: Option<&'a str>,
    /// Shown in its time zone.
    pub(crate) time: DateTime<Zone>,
}

/// Adds the point of a command. What is not known of it has no field.
pub(crate) fn bash<Zone: TimeZone<Offset: Display>>(
    points: &mut Points,
    config: &Config,
    command: &Command,
    origin: &Origin<'_, Zone>,
) {
    let Command { moment, text, is_cut, flavour, context } = command;
    let Origin { user, container, time } = origin;
    let text = config.redactor.apply(shown(text));
    let mut point = points.point(MEASUREMENT, time.timestamp_nanos_opt().unwrap_or_default());
    point
        .field_display("cmd", &text)
        .field_display("user", user)
        .field_display("pid", moment.pid)
        .field_display(
            "message",
            format_args!(
                "{} pid:`{}` user:`{user}` cmd:`{text}`",
                time.to_rfc3339_opts(SecondsFormat::Secs, true),
                moment.pid,
            ),
        );
    if *is_cut {
        point.field("truncated", true);
    }
    if *flavour != Flavour::Bash {
        point.field_display("shell", flavour.name());
    }
    let context = context.as_ref();
    for field in &config.extra_fields {
        let (key, value) = match field {
            Field::Ppid => ("ppid", context.map(|context| context.ppid.to_string())),
            Field::Tty => ("tty", context.and_then(|context| context.tty.clone())),
            Field::Cwd => ("cwd", context.and_then(|context| Some(shown(context.cwd.as_ref()?)))),
            Field::LoginUid => {
                ("login_uid", context.and_then(|context| Some(context.login_uid?.to_string())))
            }
            Field::ContainerId => ("container_id", container.map(str::to_owned)),
        };
        if let Some(value) = value {
            point.field_display(key, value);
        }
    }
}

fn shown(text: &[u8]) -> String {
    Shown(text).to_string()
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
    use super::{FEED, Origin, bash};
    use crate::bash::command::Command;
    use crate::bash::flavour::Flavour;
    use crate::config::Config;
    use crate::decode::{Context, Moment};
    use chrono::{DateTime, FixedOffset, TimeZone as _};
    use plugin_api::{Category, Points, Value};
    use std::collections::BTreeMap;

    fn command(text: &[u8], is_cut: bool) -> Command {
        let moment = Moment { pid: 4321, uid: 1000, time_ns: 0 };
        Command { moment, text: text.to_vec(), is_cut, flavour: Flavour::Bash, context: None }
    }

    fn fields_of(
        text: &[u8],
        is_cut: bool,
        time: &DateTime<FixedOffset>,
    ) -> BTreeMap<&'static str, String> {
        fields_with("", &command(text, is_cut), time)
    }

    fn fields_with(
        settings: &str,
        command: &Command,
        time: &DateTime<FixedOffset>,
    ) -> BTreeMap<&'static str, String> {
        let config = Config::parse(settings).unwrap();
        let mut points = Points::new(Category::Logging, FEED);
        let origin = Origin { user: "alice", container: None, time: *time };
        bash(&mut points, &config, command, &origin);
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

    #[test]
    fn a_secret_is_neither_in_the_command_nor_in_the_message() {
        let settings = "[settings]\nbash_redact = [\"-p[^ ]+\"]\n";
        let fields = fields_with(settings, &command(b"mysql -psecret x", false), &shanghai());
        assert_eq!(fields["cmd"], "mysql *** x");
        assert!(fields["message"].ends_with("cmd:`mysql *** x`"), "{fields:?}");
    }

    #[test]
    fn more_fields_are_those_that_were_asked_for_and_are_known() {
        let settings =
            "[settings]\nextra_fields = [\"ppid\", \"cwd\", \"tty\", \"container_id\"]\n";
        let context = Context {
            ppid: 4320,
            login_uid: Some(1000),
            tty: None,
            cwd: Some(b"/srv/\xff".to_vec()),
        };
        let zsh =
            Command { flavour: Flavour::Zsh, context: Some(context), ..command(b"ls", false) };
        let mut fields = fields_with(settings, &zsh, &shanghai());
        for key in ["cmd", "message", "pid", "user"] {
            assert!(fields.remove(key).is_some(), "{key}");
        }
        let expected = [("cwd", r"/srv/\xff"), ("ppid", "4320"), ("shell", "zsh")];
        assert_eq!(fields, expected.map(|(key, value)| (key, value.to_owned())).into());
    }
}

//! What settings mean together, and what is wrong with them.

use super::*;

#[test]
fn protocols_enabled_win_over_protocols_disabled() {
    for (flags, expected) in [
        (&["--l7net-enabled=httpflow"][..], &["httpflow"][..]),
        (&["--l7net-disabled=httpflow"], &["httpflow-tls"]),
        (&["--l7net-disabled=other"], &["httpflow", "httpflow-tls"]),
        (&["--l7net-enabled=httpflow", "--l7net-disabled=httpflow"], &["httpflow"]),
        (&["--l7net-enabled=", "--l7net-disabled=httpflow"], &["httpflow-tls"]),
        (&["--l7net-enabled=other"], &[]),
        (&[], &[]),
    ] {
        let config = host().and(flags).config();
        assert_eq!(settings(&config, "l7net"), strings(expected), "{flags:?}");
    }
}

#[test]
fn an_unknown_protocol_is_a_warning() {
    let config = host().and(&["--l7net-enabled", "httpflow,quic"]).config();
    assert_eq!(
        config.warnings,
        ["--l7net-enabled: \"quic\" is ignored; write httpflow or httpflow-tls"]
    );
}

#[test]
fn an_interval_that_datakit_may_not_have_is_a_warning_and_the_floor() {
    let seconds = Duration::from_secs;
    for (text, interval, warnings) in [
        ("", 60, 1),
        ("30s", 60, 1),
        ("60s", 60, 0),
        ("1m30s", 90, 0),
        ("120", 60, 1),
        ("-5s", 60, 1),
        ("2h", 7200, 0),
    ] {
        let flag = format!("--interval={text}");
        assert_eq!(interval_of(&[&flag]), (seconds(interval), warnings), "{text:?}");
    }
    assert_eq!(interval_of(&["--interval=30s", "--min-interval=10s"]), (seconds(30), 0));
    assert_eq!(interval_of(&["--min-interval=10s"]), (seconds(60), 0));
    assert_eq!(
        host().and(&["--interval=30s"]).config().warnings,
        ["--interval: \"30s\" is below 60s, which is used instead"]
    );
    assert_eq!(
        host().and(&["--interval=120"]).config().warnings,
        ["--interval: \"120\" is not a duration; write numbers with units such as 90s, 1m30s or \
          300ms; 60s is used instead"]
    );
}

#[test]
fn outputs_of_our_own_honour_any_interval_from_a_second_on() {
    let seconds = Duration::from_secs;
    assert_eq!(interval_of(&["--output=console"]), (seconds(2), 0));
    assert_eq!(interval_of(&["--output=file"]), (seconds(10), 0));
    assert_eq!(interval_of(&["--output=console", "--interval=5s"]), (seconds(5), 0));
    assert_eq!(interval_of(&["--output=console", "--interval=10ms"]), (seconds(1), 1));
}

#[test]
fn tags_are_split_at_commas_semicolons_and_the_first_equals_sign() {
    for (text, expected) in [
        ("a=1", &[("a", "1")][..]),
        ("a=1;b=2", &[("a", "1"), ("b", "2")]),
        ("a=1,b=2", &[("a", "1"), ("b", "2")]),
        (" a = 1 ", &[("a", "1")]),
        ("a=1=2", &[("a", "1=2")]),
        ("a=1,a=2", &[("a", "2")]),
        ("a=", &[("a", "")]),
    ] {
        let config = host().and(&["--tags", text]).config();
        let tags: Vec<(&str, &str)> =
            config.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(tags, expected, "{text:?}");
    }
    let config = host().and(&["--tags", "a,=b"]).config();
    assert_eq!((config.tags.len(), config.warnings.len()), (0, 2));
}

#[test]
fn names_are_trimmed_and_occur_once() {
    let config = Host::flags(&["--enabled", " one ,,two", "--enabled=one"]).config();
    assert_eq!(config.enabled, ["one", "two"]);
}

#[test]
fn only_the_datakit_output_must_be_told_what_to_run() {
    assert!(Host::default().error().starts_with("no plugin is enabled;"));
    for output in ["console", "file"] {
        assert!(Host::flags(&["--output", output]).config().enabled.is_empty());
    }
}

#[test]
fn files_are_beside_datakit_only_if_datakit_is_the_output() {
    let paths = |flags: &[&str]| {
        let config = host().and(flags).config();
        [config.log, config.pidfile, config.stderr_file]
            .map(|path| path.map_or(String::new(), |path| path.display().to_string()))
    };
    let externals = ["log", "pid", "stderr"]
        .map(|extension| format!("/usr/local/datakit/externals/datakit-ebpf.{extension}"));
    assert_eq!(paths(&[]), externals);
    assert_eq!(paths(&["--log=/tmp/x.log"])[2], "/tmp/x.stderr");
    assert_eq!(paths(&["--output=console"]), ["", "", ""]);
    assert_eq!(paths(&["--output=file", "--log=/tmp/x.log"]), ["/tmp/x.log", "", ""]);
}

#[test]
fn the_file_output_has_a_path_and_a_format() {
    let output = |flags: &[&str]| Host::flags(&["--output=file"]).and(flags).config().output;
    let (path, format) = (None, FileFormat::LineProtocol);
    assert_eq!(output(&["--output-path=-"]), Output::File { path, format });
    let (path, format) = (Some(PathBuf::from("/tmp/x")), FileFormat::Json);
    let flags = ["--output-path=/tmp/x", "--output-format=json"];
    assert_eq!(output(&flags), Output::File { path, format });
}

#[test]
fn the_status_is_served_where_pprof_was_unless_we_are_told_where() {
    let listen = |flags: &[&str]| host().and(flags).config().status_listen.unwrap_or_default();
    assert_eq!(listen(&[]), "127.0.0.1:6061");
    assert_eq!(listen(&["--status-listen=none"]), "");
    assert_eq!(listen(&["--pprof-host=10.0.0.1"]), "127.0.0.1:6061");
    assert_eq!(listen(&["--pprof-host=10.0.0.1", "--pprof-port=7"]), "10.0.0.1:7");
    assert_eq!(listen(&["--pprof-port=7"]), "0.0.0.0:7");
    assert_eq!(listen(&["--pprof-host=::1", "--pprof-port=7"]), "[::1]:7");
    assert_eq!(listen(&["--pprof-port=7", "--status-listen=127.0.0.1:8"]), "127.0.0.1:8");
}

#[test]
fn a_limit_of_zero_is_none() {
    let config = host().and(&["--res-cpu=0", "--res-mem=0", "--res-net=0B/s"]).config();
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn the_fixed_sampling_rate_wins_over_points_a_minute() {
    let points = "--sampling-rate-ptsperminute=1500";
    assert_eq!(host().and(&[points]).config().sampling, Sampling::PointsPerMinute(1500.0));
    let config = host().with("ENV_INPUT_EBPF_SAMPLING_RATE", "0.3").and(&[points]).config();
    assert_eq!(config.sampling, Sampling::Rate(0.3));
    assert_eq!(
        config.warnings[0],
        "--sampling-rate-ptsperminute is ignored: ENV_INPUT_EBPF_SAMPLING_RATE is set"
    );
}

#[test]
fn a_log_level_is_one_of_datakits_and_empty_is_debug() {
    let level = |text: &str| host().and(&["--log-level", text]).config().log_level;
    assert_eq!(host().config().log_level, LogLevel::Info);
    assert_eq!(level(""), LogLevel::Debug);
    assert_eq!((level("dpanic"), level("dpanic").filter()), (LogLevel::Dpanic, "error"));
    assert_eq!(
        host().and(&["--log-level=INFO"]).error(),
        "--log-level: \"INFO\" is not a log level; write debug, info, warn, error, panic, dpanic \
         or fatal"
    );
}

#[test]
fn a_probe_policy_is_of_known_words() {
    let policy = |text: &str| {
        let config = host().and(&["--probe-policy", text]).config();
        config.collector["probe_policy"].to_string()
    };
    assert_eq!(host().config().collector["probe_policy"].to_string(), "[\"auto\"]");
    assert_eq!(policy("no-fentry,no-uprobe"), "[\"no-fentry\", \"no-uprobe\"]");
    assert_eq!(
        host().and(&["--probe-policy=no-fentry,none"]).error(),
        "--probe-policy: \"none\" means nothing; write auto, no-tp-btf, no-fentry, no-kprobe, \
         no-uprobe, no-cgroup, no-map-iter"
    );
}

#[test]
fn an_empty_address_is_the_default_address() {
    let config = host().and(&["--datakit-apiserver=", "--trace-server="]).config();
    assert_eq!(config.api_server, "http://0.0.0.0:9529");
    assert_eq!(config.trace_server, "http://0.0.0.0:9529");
}

#[test]
fn every_bad_value_is_an_error_that_names_its_place() {
    for flag in [
        "--output=syslog",
        "--output-format=xml",
        "--datakit-apiserver=a b",
        "--min-interval=10",
        "--queue-size=0",
        "--status-listen=everywhere",
        "--pprof-port=http",
        "--ephemeral_port=65536",
        "--include-loopback=maybe",
        "--res-cpu=two",
        "--res-cpu=-1",
        "--res-mem=4XB",
        "--res-net=fast",
        "--sampling-rate=1.01",
        "--sampling-rate-ptsperminute=0",
        "--trace-server=http://",
    ] {
        let error = host().and(&[flag]).error();
        let name = flag.split('=').next().unwrap();
        assert!(error.starts_with(&format!("{name}: \"")), "{error}");
        assert!(error.contains(" is not ") && error.contains("; write "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = host().with("ENV_INPUT_EBPF_MEM_LIMIT", "4XB").error();
    assert!(error.starts_with("ENV_INPUT_EBPF_MEM_LIMIT: \"4XB\" is not a size;"), "{error}");
}

#[test]
fn an_option_without_effect_is_a_warning_only_if_somebody_set_it() {
    assert_eq!(host().config().warnings, [""; 0]);
    let config = host().with("DKE_K8S_URL", "https://k").config();
    assert_eq!(config.warnings, ["DKE_K8S_URL is accepted but has no effect yet"]);
}

#[test]
fn a_token_is_never_printed() {
    let config = host().with("DKE_K8S_BEARER_TOKEN", "hush").config();
    assert_eq!(config.kubernetes.token, Some(Secret("hush".to_owned())));
    assert!(!format!("{config:?}").contains("hush"));
}

//! The way from sources to configuration as a whole. What concerns one source or one unit is
//! tested beside it.

use super::{options::Entry, *};

const SAMPLE: &str = include_str!("../../../conf/ebpf.conf.sample");
const COLLECTOR: &str = include_str!("../../../conf/collector.toml");

/// A host with one source for each layer, from which a test takes or to which it adds.
#[derive(Clone, Default)]
struct Host {
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    file: Option<String>,
}

impl Host {
    fn flags(flags: &[&str]) -> Self {
        Self::default().and(flags)
    }

    fn file(text: &str) -> Self {
        Self { file: Some(text.to_owned()), ..Self::default() }
    }

    fn and(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    fn with(mut self, name: &str, text: &str) -> Self {
        self.environment.push((name.to_owned(), text.to_owned()));
        self
    }

    fn load(&self) -> Result<Config> {
        let options = Options::load()?;
        let environment = environment::read(&options, self.environment.clone(), "")?;
        let flags = flags::read(&options, &self.flags, "")?.layer;
        let file = match &self.file {
            Some(text) => file::parse(&options, text, "x")?,
            None => File::default(),
        };
        combine(&options, environment, flags, file, Path::new("/plugins"), Purpose::Run)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{:?}: {error:#}", self.flags))
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

/// A host that runs one plugin and sends to DataKit.
fn host() -> Host {
    Host::flags(&["--enabled", "one"])
}

fn settings(config: &Config, key: &str) -> toml::Value {
    config.collector[key].clone()
}

fn strings(items: &[&str]) -> toml::Value {
    items.to_vec().into()
}

fn interval_of(flags: &[&str]) -> (Duration, usize) {
    let config = host().and(flags).config();
    (config.interval, config.warnings.len())
}

// ------------------------------------------------------------------------------- The table

/// Hosts in which each option makes a difference in at least one.
fn bases() -> [Host; 2] {
    [
        Host::flags(&["--enabled=one", "--pprof-port=1"]),
        Host::flags(&["--output=file", "--pprof-port=1"]),
    ]
}

/// Everything but the messages, which name the source.
fn silent(host: &Host) -> Config {
    Config { warnings: Vec::new(), ..host.config() }
}

/// `entry.example` written in each place where the option can be.
fn written_everywhere(base: &Host, entry: &Entry) -> Vec<Host> {
    let options = Options::load().unwrap();
    let with_file = |text: String| Host { file: Some(text), ..base.clone() };
    let mut hosts = Vec::new();
    for flag in [&entry.name, &entry.name.replace('-', "_")].into_iter().chain(&entry.aliases) {
        if options.by_flag(flag).is_some() {
            hosts.push(base.clone().and(&[&format!("--{flag}={}", entry.example)]));
        }
    }
    for name in &entry.env {
        hosts.push(base.clone().with(name, &entry.example));
    }
    for path in entry.paths() {
        let (section, key) = path.split_once('.').unwrap_or(("", path));
        let head = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        hosts.push(with_file(format!("{head}{key} = \"{}\"", entry.example)));
    }
    hosts
}

#[test]
fn every_option_changes_the_configuration_and_means_the_same_in_every_place() {
    for entry in Options::load().unwrap().iter().filter(|entry| entry.name != "config") {
        let mut differs = false;
        for mut base in bases() {
            base.flags.retain(|flag| !flag.starts_with(&format!("--{}=", entry.name)));
            // Without the flag under test, a base may be no host at all.
            let Ok(unchanged) = base.load() else { continue };
            let hosts = written_everywhere(&base, entry);
            let configs: Vec<Config> = hosts.iter().map(silent).collect();
            differs |= configs[0] != (Config { warnings: Vec::new(), ..unchanged });
            for config in &configs {
                assert_eq!(config, &configs[0], "{}", entry.name);
            }
        }
        assert!(differs, "{} changes nothing", entry.name);
    }
}

#[test]
fn a_key_of_datakits_file_means_what_its_flag_means() {
    let options = Options::load().unwrap();
    let empty = "[[inputs.ebpf]]\n";
    let document: toml::Table = SAMPLE_KEYS.parse().unwrap();
    for (key, value) in &document {
        let entry = options.by_datakit_key(key).unwrap_or_else(|| panic!("{key} is not known"));
        let by_key = Host::file(&format!("{empty}{key} = {value}"));
        let text = match value {
            toml::Value::Array(items) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let by_source = match (options.by_flag(&entry.name), entry.env.first()) {
            (Some(_), _) => Host::file(empty).and(&[&format!("--{}={text}", entry.name)]),
            (None, Some(name)) => Host::file(empty).with(name, &text),
            (None, None) => panic!("{key} has no other source"),
        };
        assert_eq!(silent(&by_key), silent(&by_source), "{key}");
    }
}

/// Every key that DataKit knows and that is ours, with a value of the type it has there.
const SAMPLE_KEYS: &str = r#"
kubernetes_url = "https://kubernetes.default:443"
bearer_token = "/run/token"
bearer_token_string = "token"
workload_labels = ["app", "tier"]
workload_label_prefix = "label_"
netlog_blacklist = "ip_saddr=='127.0.0.1'"
netlog_metric_only = false
netlog_metric = false
netlog_log = true
enabled_plugins = ["one", "two"]
l7net_disabled = ["httpflow"]
l7net_enabled = ["httpflow-tls"]
trace_server = "10.0.0.2:9529"
conv_to_ddtrace = true
trace_all_process = true
pprof_host = "10.0.0.3"
pprof_port = "7070"
cpu_limit = "2.0"
mem_limit = "4GiB"
net_limit = "100MiB/s"
trace_env_list = ["A", "B"]
trace_env_blacklist = ["C"]
trace_name_list = ["d"]
trace_name_blacklist = ["e"]
ipv6_disabled = true
ephemeral_port = 10001
interval = "90s"
sampling_rate = "0.50"
sampling_rate_pts_per_min = "1500"
tags = ["a=1"]
"#;

// ------------------------------------------------------------------------ The shipped files

#[test]
fn datakits_sample_is_read_without_a_warning() {
    let config = Host::file(SAMPLE).config();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.enabled.len(), 1);
    assert_eq!(config.api_server, "http://0.0.0.0:9529");
    assert_eq!(config.status_listen.as_deref(), Some("127.0.0.1:6061"));
    assert_eq!(settings(&config, "l7net"), strings(&["httpflow"]));
    assert_eq!(settings(&config, "netlog_metric"), true.into());
    assert_eq!(settings(&config, "netlog_log"), false.into());
}

#[test]
fn datakits_sample_says_nothing_that_its_launcher_would_not_assume() {
    let sample = Host::file(SAMPLE).config();
    let empty = Host::file(
        "[[inputs.ebpf]]\ntrace_env_list = ['DK_BPFTRACE_SERVICE', \
                            'DD_SERVICE', 'OTEL_SERVICE_NAME']",
    );
    assert_eq!(empty.config(), sample);
}

#[test]
fn our_own_sample_changes_nothing_but_the_plugins() {
    let sample = Host::file(COLLECTOR).config();
    let enabled: Vec<&str> = sample.enabled.iter().map(String::as_str).collect();
    assert_eq!(Host::flags(&["--enabled", &enabled.join(",")]).config(), sample);
}

#[test]
fn our_own_sample_shows_every_key_with_a_value_that_is_allowed() {
    // Prose begins with `##`, a key that is switched off with `# `.
    let uncomment = |line: &str| match line.trim_start().strip_prefix("# ") {
        Some(key) => key.to_owned(),
        None => line.to_owned(),
    };
    let everything: Vec<String> = COLLECTOR.lines().map(uncomment).collect();
    let everything = everything.join("\n");
    Host::file(&everything).config();
    let document: toml::Table = everything.parse().unwrap();
    let has = |path: &str| match path.split_once('.') {
        Some((section, key)) => document[section].get(key).is_some(),
        None => document.contains_key(path),
    };
    let options = Options::load().unwrap();
    for entry in options.iter() {
        let paths = entry.paths();
        assert!(paths.is_empty() || paths.iter().any(|path| has(path)), "{}", entry.name);
    }
}

// ------------------------------------------------------------------------------ Precedence

#[test]
fn the_environment_wins_over_flags_over_the_file_over_defaults() {
    let file = "[[inputs.ebpf]]\ninterval = '70s'";
    let host = Host::file(file);
    assert_eq!(host.config().interval, Duration::from_secs(70));
    let host = Host::file(&format!("{file}\nargs = ['--interval', '80s']"));
    assert_eq!(host.config().interval, Duration::from_secs(80));
    let host = host.and(&["--interval", "90s"]);
    assert_eq!(host.config().interval, Duration::from_secs(90));
    let host =
        Host { file: Some(format!("{file}\nenvs = ['ENV_INPUT_EBPF_INTERVAL=100s']")), ..host };
    assert_eq!(host.config().interval, Duration::from_secs(100));
    let host = host.with("ENV_INPUT_EBPF_INTERVAL", "110s");
    assert_eq!(host.config().interval, Duration::from_secs(110));
}

#[test]
fn tags_of_all_sources_are_joined_and_the_flag_wins_per_tag() {
    let host = Host::file("[[inputs.ebpf]]\n[inputs.ebpf.tags]\na = 'file'\nb = 'file'");
    let config = host.and(&["--tags", "b=flag,c=flag"]).config();
    let expected = [("a", "file"), ("b", "flag"), ("c", "flag")];
    assert_eq!(config.tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

// ------------------------------------------------------------------------ DataKit's launcher

#[test]
fn below_datakits_file_the_launchers_defaults_hold() {
    let config = Host::file("[[inputs.ebpf]]\nenabled_plugins = []").config();
    assert_eq!(config.enabled.len(), 1);
    assert_eq!(settings(&config, "l7net"), strings(&["httpflow"]));
    assert_eq!(settings(&config, "netlog_metric"), true.into());
    let config = host().config();
    assert_eq!(settings(&config, "l7net"), strings(&[]));
    assert_eq!(settings(&config, "netlog_metric"), false.into());
}

#[test]
fn an_empty_list_of_protocols_turns_them_all_off() {
    for key in ["l7net_enabled = []", "l7net_disabled = []"] {
        let config = Host::file(&format!("[[inputs.ebpf]]\n{key}")).config();
        assert_eq!(settings(&config, "l7net"), strings(&[]), "{key}");
    }
}

#[test]
fn a_negative_ephemeral_port_is_as_good_as_none() {
    let config = Host::file("[[inputs.ebpf]]\nephemeral_port = -1").config();
    assert_eq!(settings(&config, "ephemeral_port"), 0.into());
}

#[test]
fn the_old_key_for_the_network_log_still_asks_for_it() {
    let config = Host::file("[[inputs.ebpf]]\nnetlog_metric_only = false").config();
    assert_eq!(settings(&config, "netlog_log"), true.into());
}

// --------------------------------------------------------------------------------- Meaning

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

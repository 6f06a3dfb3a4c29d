//! The shipped files, which source wins, and what DataKit's launcher means.

use super::*;

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

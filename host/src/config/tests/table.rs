//! Each row of the table of options, in each place where it can be said.

use super::*;

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

//! What was written to what we run on.
//!
//! In: [`Layers`] of texts. Out: a [`Config`] whose every value has been checked, or one sentence
//! that names the value, where it stands, and what is allowed. This is the only place where an
//! option has a meaning.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use toml::{Table, Value};

use super::{
    Config, FileFormat, Kubernetes, Limits, LogLevel, Output, Purpose, Sampling, Secret, Supervise,
    layers::{Given, Layers, Unfit},
    options::{Entry, Kind},
    units,
};

/// Where DataKit and its bug report look for our files; fixed by DataKit.
const EXTERNALS: &str = "/usr/local/datakit/externals";

/// How often collectors report if nobody says.
const DATAKIT_INTERVAL: Duration = Duration::from_mins(1);
const CONSOLE_INTERVAL: Duration = Duration::from_secs(2);
const FILE_INTERVAL: Duration = Duration::from_secs(10);
/// The least interval of outputs that `min-interval` does not speak of.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the configuration.
pub(super) fn config(
    mut layers: Layers<'_>,
    plugins: BTreeMap<String, Table>,
    default_plugin_dir: &Path,
    purpose: Purpose,
) -> Result<Config> {
    let mut warnings = layers.take_warnings();
    let output = output(&layers)?;
    let to_datakit = output == Output::Datakit;
    let enabled = layers.names("enabled");
    if enabled.is_empty() && to_datakit && purpose == Purpose::Run {
        bail!(
            "no plugin is enabled; name at least one with --enabled, \
             ENV_INPUT_EBPF_ENABLED_PLUGINS or enabled_plugins"
        );
    }
    let interval = interval(&layers, &output, &mut warnings)?;
    let path = |name| layers.text(name).map(PathBuf::from);
    let external = |name: &str| to_datakit.then(|| Path::new(EXTERNALS).join(name));
    let log = path("log").or_else(|| external("datakit-ebpf.log"));
    let stderr_file = log.as_ref().filter(|_| to_datakit).map(|log| log.with_extension("stderr"));
    let mut config = Config {
        enabled,
        plugin_dir: path("plugin-dir").unwrap_or_else(|| default_plugin_dir.to_owned()),
        isolated: layers.names("isolate"),
        supervise: parse(&layers, "supervise", supervise)?.unwrap_or(Supervise::Auto),
        trust_any_plugin: layers.switch("trust-any-plugin")?,
        keep_capabilities: layers.switch("keep-capabilities")?,
        output,
        api_server: parse(&layers, "datakit-apiserver", units::base_url)?.unwrap_or_default(),
        trace_server: parse(&layers, "trace-server", units::base_url)?.unwrap_or_default(),
        hostname: layers.text("hostname"),
        service: layers.text("service").unwrap_or_default(),
        tags: tags(&layers, &mut warnings),
        interval,
        log_level: parse(&layers, "log-level", log_level)?.unwrap_or(LogLevel::Info),
        log,
        pidfile: path("pidfile").or_else(|| external("datakit-ebpf.pid")),
        stderr_file,
        status_listen: status_listen(&layers)?,
        queue_bytes: parse(&layers, "queue-size", units::size_above_0)?.unwrap_or_default(),
        gzip: layers.switch("gzip")?,
        spool_dir: path("spool-dir"),
        spool_bytes: parse(&layers, "spool-size", units::size_above_0)?.unwrap_or_default(),
        limits: limits(&layers)?,
        sampling: sampling(&layers, &mut warnings)?,
        sampling_field: layers.switch("sampling-field")?,
        kubernetes: Kubernetes {
            url: layers.text("k8s-url"),
            token: layers.text("k8s-bearer-token").map(Secret),
            token_path: path("k8s-bearer-token-path"),
            workload_labels: layers.names("k8s-workload-labels"),
            workload_label_prefix: layers.text("k8s-workload-label-prefix").unwrap_or_default(),
        },
        collector: collector(&layers, interval, &mut warnings)?,
        plugins,
        warnings,
    };
    config.warnings.extend(without_effect(&layers));
    Ok(config)
}

fn parse<T>(
    layers: &Layers<'_>,
    name: &str,
    unit: fn(&str) -> Result<T, Unfit>,
) -> Result<Option<T>> {
    layers.find(name).map(|given| given.parse(unit)).transpose()
}

fn supervise(text: &str) -> Result<Supervise, Unfit> {
    match text {
        "on" => Ok(Supervise::On),
        "off" => Ok(Supervise::Off),
        "auto" => Ok(Supervise::Auto),
        _ => Err(Unfit { is_not: "a way to be supervised", write: "on, off or auto" }),
    }
}

fn output(layers: &Layers<'_>) -> Result<Output> {
    let path = layers.text("output-path").filter(|path| path != "-").map(PathBuf::from);
    let format = parse(layers, "output-format", |text| match text {
        "line-protocol" => Ok(FileFormat::LineProtocol),
        "json" => Ok(FileFormat::Json),
        _ => Err(Unfit { is_not: "an output format", write: "line-protocol or json" }),
    })?;
    let format = format.unwrap_or(FileFormat::LineProtocol);
    // None is the file output, which takes a path and a format besides.
    let output = parse(layers, "output", |text| match text {
        "datakit" => Ok(Some(Output::Datakit)),
        "console" => Ok(Some(Output::Console)),
        "file" => Ok(None),
        _ => Err(Unfit { is_not: "an output", write: "datakit, console or file" }),
    })?;
    Ok(output.unwrap_or(Some(Output::Datakit)).unwrap_or(Output::File { path, format }))
}

fn log_level(text: &str) -> Result<LogLevel, Unfit> {
    match text {
        "" | "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" => Ok(LogLevel::Error),
        "panic" => Ok(LogLevel::Panic),
        "dpanic" => Ok(LogLevel::Dpanic),
        "fatal" => Ok(LogLevel::Fatal),
        _ => Err(Unfit {
            is_not: "a log level",
            write: "debug, info, warn, error, panic, dpanic or fatal",
        }),
    }
}

/// An interval that cannot be had is never an error: DataKit has always started with it.
fn interval(layers: &Layers<'_>, output: &Output, warnings: &mut Vec<String>) -> Result<Duration> {
    let min_interval = parse(layers, "min-interval", units::duration_from_1s)?;
    let (least, usual) = match output {
        Output::Datakit => {
            let least = min_interval.unwrap_or(DATAKIT_INTERVAL);
            (least, least.max(DATAKIT_INTERVAL))
        }
        Output::Console => (LEAST_INTERVAL, CONSOLE_INTERVAL),
        Output::File { .. } => (LEAST_INTERVAL, FILE_INTERVAL),
    };
    let Some(given) = layers.find("interval") else { return Ok(usual) };
    match given.parse(units::duration) {
        Ok(interval) if interval >= least => Ok(interval),
        Ok(_) => {
            let (origin, text) = (&given.origin, given.text());
            warnings
                .push(format!("{origin}: \"{text}\" is below {least:?}, which is used instead"));
            Ok(least)
        }
        Err(error) => {
            warnings.push(format!("{error}; {usual:?} is used instead"));
            Ok(usual)
        }
    }
}

/// Custom tags of all sources; for one key, the last that was written counts.
fn tags(layers: &Layers<'_>, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for given in layers.all("tags") {
        for item in given.names() {
            let Some((key, value)) = item.split_once('=').filter(|(key, _)| !key.trim().is_empty())
            else {
                let origin = &given.origin;
                warnings.push(format!("{origin}: \"{item}\" is ignored; write tags as key=value"));
                continue;
            };
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            match tags.iter_mut().find(|(known, _)| *known == key) {
                Some(tag) => tag.1 = value,
                None => tags.push((key, value)),
            }
        }
    }
    tags
}

/// `status-listen`, or what `pprof-host` and `pprof-port` make of it.
fn status_listen(layers: &Layers<'_>) -> Result<Option<String>> {
    let pprof = layers.find("pprof-port").filter(|_| layers.written("status-listen").is_none());
    let Some(port) = pprof else {
        return Ok(parse(layers, "status-listen", units::listen_address)?.flatten());
    };
    let host = match layers.text("pprof-host") {
        None => "0.0.0.0".to_owned(),
        Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        Some(host) => host,
    };
    let address = format!("{host}:{}", port.text());
    Given { items: vec![address], origin: port.origin.clone() }.parse(units::listen_address)
}

fn limits(layers: &Layers<'_>) -> Result<Limits> {
    Ok(Limits {
        cpu_cores: parse(layers, "res-cpu", units::cores)?.filter(|cores| *cores > 0.0),
        mem_bytes: parse(layers, "res-mem", units::size)?.filter(|bytes| *bytes > 0),
        net_bytes_per_s: parse(layers, "res-bandwidth", units::bandwidth)?
            .filter(|bytes| *bytes > 0),
        optional: layers.names("optional"),
    })
}

fn sampling(layers: &Layers<'_>, warnings: &mut Vec<String>) -> Result<Sampling> {
    let points = layers.find("sampling-rate-ptsperminute");
    if let Some(rate) = layers.find("sampling-rate") {
        if let Some(points) = points {
            warnings.push(format!("{} is ignored: {} is set", points.origin, rate.origin));
        }
        return Ok(Sampling::Rate(rate.parse(units::sampling_rate)?));
    }
    Ok(match points {
        Some(points) => Sampling::PointsPerMinute(points.parse(units::points_per_minute)?),
        None => Sampling::Off,
    })
}

/// The settings handed to every plugin: those of the table as they stand, and the few that need
/// more than that.
fn collector(layers: &Layers<'_>, interval: Duration, warnings: &mut Vec<String>) -> Result<Table> {
    let mut settings = Table::new();
    for entry in layers.options.iter() {
        let Some(key) = &entry.setting else { continue };
        known_words(layers, entry)?;
        let value = match entry.kind {
            Kind::Text => Value::String(layers.text(&entry.name).unwrap_or_default()),
            Kind::Switch => Value::Boolean(layers.switch(&entry.name)?),
            Kind::List | Kind::Pairs => Value::from(layers.names(&entry.name)),
        };
        settings.insert(key.clone(), value);
    }
    let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
    settings.insert("interval_ms".to_owned(), millis.into());
    let port = parse(layers, "ephemeral-port", units::ephemeral_port)?.unwrap_or_default();
    settings.insert("ephemeral_port".to_owned(), i64::from(port).into());
    settings.insert("l7net".to_owned(), l7net(layers, warnings).into());
    if !layers.switch("netlog-metric-only")? {
        settings.insert("netlog_log".to_owned(), true.into());
    }
    Ok(settings)
}

/// What a list that plugins read as it stands may say is the table's to tell.
fn known_words(layers: &Layers<'_>, entry: &Entry) -> Result<()> {
    let Some(given) = layers.find(&entry.name).filter(|_| !entry.values.is_empty()) else {
        return Ok(());
    };
    let names = given.names();
    let Some(unknown) = names.iter().find(|name| !entry.values.contains(name)) else {
        return Ok(());
    };
    bail!("{}: \"{unknown}\" means nothing; write {}", given.origin, entry.values.join(", "))
}

/// The application protocols to report: those enabled, or else all but those disabled, or none.
fn l7net(layers: &Layers<'_>, warnings: &mut Vec<String>) -> Vec<String> {
    // Names to leave out that somebody wrote count for more than a default.
    let (enabled, disabled) = match layers.written("l7net-disabled") {
        Some(disabled) => (layers.written("l7net-enabled"), disabled.names()),
        None => (layers.find("l7net-enabled"), Vec::new()),
    };
    if enabled.is_some_and(|given| !given.names().is_empty()) {
        return known_names(layers, "l7net-enabled", warnings);
    }
    if disabled.is_empty() {
        return Vec::new();
    }
    let off = known_names(layers, "l7net-disabled", warnings);
    let all = layers.options.named("l7net-disabled").into_iter().flat_map(|entry| &entry.values);
    all.filter(|name| !off.contains(*name)).cloned().collect()
}

/// The items that mean something; the others are a warning.
fn known_names(layers: &Layers<'_>, name: &str, warnings: &mut Vec<String>) -> Vec<String> {
    let (Some(given), Some(entry)) = (layers.find(name), layers.options.named(name)) else {
        return Vec::new();
    };
    let (known, unknown) =
        given.names().into_iter().partition::<Vec<_>, _>(|item| entry.values.contains(item));
    let allowed = entry.values.join(" or ");
    for item in unknown {
        warnings.push(format!("{}: \"{item}\" is ignored; write {allowed}", given.origin));
    }
    known
}

/// A warning for each option that was set and does nothing yet.
fn without_effect(layers: &Layers<'_>) -> Vec<String> {
    layers
        .options
        .iter()
        .filter(|entry| entry.is_without_effect())
        .filter_map(|entry| layers.written(&entry.name))
        .map(|given| format!("{} is accepted but has no effect yet", given.origin))
        .collect()
}

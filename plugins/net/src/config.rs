//! What this plugin runs on, out of the operator's settings.

use std::time::Duration;

use anyhow::{Result, bail};
use plugin_proto::path;
use plugin_support::probe::Policy;
use plugin_support::settings;
use serde::Deserialize;

use crate::dnsflow::aggregate::DnsPorts;

/// Where DNS servers are, unless it is said.
const DNS_PORT: u16 = 53;

/// The name of HTTP among the application protocols.
const HTTPFLOW: &str = "httpflow";
/// And of HTTP through TLS.
const HTTPFLOW_TLS: &str = "httpflow-tls";

/// `[plugins.ebpf-net]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dns_ports: Option<Vec<u16>>,
    /// Distinct paths of a service that are told apart; 0: all.
    http_paths: Option<usize>,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What may be attached.
    pub(crate) policy: Policy,
    /// Time between two reports.
    pub(crate) interval: Duration,
    /// Report flows with a loopback address at an end.
    pub(crate) include_loopback: bool,
    /// Client ports from this one on are masked.
    pub(crate) ephemeral_port: u16,
    /// Ports of DNS servers; 0 is none.
    pub(crate) dns_ports: DnsPorts,
    /// Report HTTP exchanges.
    pub(crate) httpflow: bool,
    /// Report HTTP exchanges that go through a TLS library.
    pub(crate) httpflow_tls: bool,
    /// How paths are merged.
    pub(crate) http_paths: path::Limits,
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (collector, File { dns_ports, http_paths }) = settings::parse(text)?;
        let reports = |wanted: &str| collector.l7net.iter().any(|name| name == wanted);
        Ok(Self {
            policy: collector.policy()?,
            interval: collector.interval(),
            include_loopback: collector.include_loopback,
            ephemeral_port: collector.ephemeral_port,
            dns_ports: dns_ports_of(&dns_ports.unwrap_or_else(|| vec![DNS_PORT]))?,
            httpflow: reports(HTTPFLOW),
            httpflow_tls: reports(HTTPFLOW_TLS),
            http_paths: path::Limits {
                budget: http_paths.unwrap_or(path::Limits::default().budget),
                ..path::Limits::default()
            },
        })
    }
}

fn dns_ports_of(written: &[u16]) -> Result<DnsPorts> {
    let mut ports = DnsPorts::default();
    if written.len() > ports.len() || written.contains(&0) {
        bail!("dns_ports = {written:?}: give at most {} ports, and not 0", ports.len());
    }
    ports[..written.len()].copy_from_slice(written);
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn dns_is_at_port_53_unless_other_ports_are_named() {
        let ports = |text: &str| Config::parse(text).map(|config| config.dns_ports);
        assert_eq!(ports("").unwrap(), [53, 0, 0, 0]);
        assert_eq!(ports("[settings]\ndns_ports = [53, 5353]\n").unwrap(), [53, 5353, 0, 0]);
        assert_eq!(ports("[settings]\ndns_ports = []\n").unwrap(), [0; 4]);
        for wrong in ["[1, 2, 3, 4, 5]", "[0]", "[70000]", "53"] {
            let error = ports(&format!("[settings]\ndns_ports = {wrong}\n")).unwrap_err();
            assert!(format!("{error:#}").contains("dns_ports"), "{wrong}: {error:#}");
        }
    }
}

//! The tags that netflow and httpflow have in common: who talked to whom, as seen from this host.

use plugin_api::{PointBuilder, Text};
use plugin_support::process::Processes;

use crate::decode::{Direction, Endpoint, Owner};
use crate::domains::Domains;
use crate::netflow::aggregate::ip_type;

const MASKED: &str = "*";
const NOT_TRANSLATED: &str = "N/A";
pub(crate) const UNKNOWN: &str = "";

/// Who talked to whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversation<'a> {
    /// This host's end.
    pub(crate) source: &'a Endpoint,
    pub(crate) destination: &'a Endpoint,
    /// Where the destination really is, if that is elsewhere.
    pub(crate) translated: Option<&'a Endpoint>,
    pub(crate) direction: Direction,
    /// `tcp` or `udp`.
    pub(crate) transport: &'static str,
    pub(crate) owner: &'a Owner,
    pub(crate) netns: u32,
}

impl Conversation<'_> {
    /// Adds the tags to a point.
    pub(crate) fn tag(
        &self,
        point: &mut PointBuilder<'_>,
        processes: &Processes,
        domains: &Domains,
    ) {
        let Self { source, destination, translated, direction, transport, owner, netns } = *self;
        let here = End::write(point, source);
        let there = End::write(point, destination);
        let elsewhere = translated.map(|end| End::write(point, end));
        let domain = point.text(domains.name(netns, destination.ip).unwrap_or(UNKNOWN));
        let (side, name, client, server, server_domain) = match direction {
            Direction::Outgoing => ("client", "outgoing", here, there, domain),
            Direction::Incoming => ("server", "incoming", there, here, UNKNOWN.into()),
        };
        point
            .tag("family", if source.ip.is_ipv4() { "IPv4" } else { "IPv6" })
            .tag("direction", name)
            .tag("transport", transport)
            .tag("src_ip", here.ip)
            .tag("src_port", here.port)
            .tag("src_ip_type", here.ip_type)
            .tag("dst_ip", there.ip)
            .tag("dst_port", there.port)
            .tag("dst_ip_type", there.ip_type)
            .tag("dst_domain", domain)
            .tag("dst_nat_ip", elsewhere.map_or(NOT_TRANSLATED.into(), |end| end.ip))
            .tag("dst_nat_port", elsewhere.map_or(NOT_TRANSLATED.into(), |end| end.port))
            .tag_display("pid", owner.pid)
            .tag_display("process_name", processes.name(owner.pid, &owner.comm))
            .tag_display("netns", netns)
            .tag("conn_side", side)
            .tag("client_ip", client.ip)
            .tag("client_port", client.port)
            .tag("client_ip_type", client.ip_type)
            .tag("server_ip", server.ip)
            .tag("server_port", server.port)
            .tag("server_ip_type", server.ip_type)
            .tag("server_domain", server_domain);
    }
}

/// One end of a flow as text in the batch, written once and used by several tags.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) ip: Text,
    pub(crate) port: Text,
    pub(crate) ip_type: Text,
}

impl End {
    pub(crate) fn write(point: &mut PointBuilder<'_>, end: &Endpoint) -> Self {
        Self {
            ip: point.text(end.ip),
            port: end.port.map_or(MASKED.into(), |port| point.text(port)),
            ip_type: ip_type(end.ip).into(),
        }
    }
}

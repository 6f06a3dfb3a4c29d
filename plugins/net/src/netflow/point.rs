//! Flows to points: the names on the wire, and nothing else.

use plugin_api::Points;
use plugin_support::process::Processes;

use crate::conversation::Conversation;
use crate::decode::{Direction, Rtt};
use crate::domains::Domains;
use crate::netflow::aggregate::{FlowKey, FlowStats, Transport};

pub(crate) const FEED: &str = "ebpf-net/netflow";
const MEASUREMENT: &str = "netflow";

/// Adds the point of one flow. `source` is this host's end.
pub(crate) fn netflow(
    points: &mut Points,
    processes: &Processes,
    domains: &Domains,
    key: &FlowKey,
    stats: &FlowStats,
    time_ns: i64,
) {
    let FlowKey { source, destination, transport, direction, owner, netns, translated } = key;
    let is_tcp = *transport == Transport::Tcp;
    let mut point = points.point(MEASUREMENT, time_ns);
    let conversation = Conversation {
        source,
        destination,
        translated: translated.as_ref(),
        direction: *direction,
        transport: if is_tcp { "tcp" } else { "udp" },
        owner,
        netns: *netns,
    };
    conversation.tag(&mut point, processes, domains);

    // A correction of an earlier report may be all there is.
    let (sent, received) = (stats.sent.max(0), stats.received.max(0));
    let (client_sent, server_sent) = match direction {
        Direction::Outgoing => (sent, received),
        Direction::Incoming => (received, sent),
    };
    point
        .field("bytes_read", received)
        .field("bytes_written", sent)
        .field("client_sent", client_sent)
        .field("server_sent", server_sent);
    if is_tcp {
        let Rtt { mean_us, deviation_us } = stats.rtt();
        point
            .field("retransmits", stats.retransmits as i64)
            .field("rtt", i64::from(mean_us))
            .field("rtt_var", i64::from(deviation_us))
            .field("tcp_closed", stats.closed as i64)
            .field("tcp_established", stats.opened as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::{FEED, netflow};
    use crate::decode::tests::closed;
    use crate::decode::{Delta, Direction, Endpoint, tcp};
    use crate::domains::Domains;
    use crate::netflow::aggregate::Aggregate;
    use plugin_api::{Category, Points, Value};
    use plugin_support::process::Processes;
    use std::collections::BTreeMap;
    use zerocopy::IntoBytes as _;

    type Shown = (BTreeMap<&'static str, String>, BTreeMap<&'static str, i64>);

    fn point_of(direction: Direction) -> Shown {
        let mut delta = tcp(closed().as_bytes()).unwrap();
        delta.direction = direction;
        if direction == Direction::Incoming {
            std::mem::swap(&mut delta.local, &mut delta.remote);
        }
        point_with(&delta)
    }

    fn point_with(delta: &Delta) -> Shown {
        let mut aggregate = Aggregate::new(false, 0);
        aggregate.observe(delta);
        let mut points = Points::new(Category::Network, FEED);
        let domains = Domains::default();
        for (key, stats) in &aggregate.flush().flows {
            netflow(&mut points, &Processes::default(), &domains, key, stats, 17);
        }
        let point = points.iter().next().unwrap();
        let tags = point.tags().map(|(key, value)| (key, points.resolve(value).to_owned()));
        let fields = point.fields().map(|(key, value)| match value {
            Value::I64(value) => (key, value),
            other => panic!("{key} is {other:?}"),
        });
        (tags.collect(), fields.collect())
    }

    #[test]
    fn an_outgoing_flow_has_every_documented_tag_and_field() {
        let (tags, fields) = point_of(Direction::Outgoing);
        let expected = [
            ("client_ip", "10.0.0.5"),
            ("client_ip_type", "private"),
            ("client_port", "*"),
            ("conn_side", "client"),
            ("direction", "outgoing"),
            ("dst_domain", ""),
            ("dst_ip", "93.184.216.34"),
            ("dst_ip_type", "other"),
            ("dst_nat_ip", "N/A"),
            ("dst_nat_port", "N/A"),
            ("dst_port", "443"),
            ("family", "IPv4"),
            ("netns", "4026531840"),
            ("pid", "2210"),
            ("process_name", "curl"),
            ("server_domain", ""),
            ("server_ip", "93.184.216.34"),
            ("server_ip_type", "other"),
            ("server_port", "443"),
            ("src_ip", "10.0.0.5"),
            ("src_ip_type", "private"),
            ("src_port", "*"),
            ("transport", "tcp"),
        ];
        assert_eq!(tags, expected.map(|(key, value)| (key, value.to_owned())).into());
        let expected = [
            ("bytes_read", 5120),
            ("bytes_written", 820),
            ("client_sent", 820),
            ("retransmits", 2),
            ("rtt", 23110),
            ("rtt_var", 4100),
            ("server_sent", 5120),
            ("tcp_closed", 1),
            ("tcp_established", 1),
        ];
        assert_eq!(fields, expected.into());
    }

    #[test]
    fn a_translated_flow_shows_both_where_it_seems_to_go_and_where_it_goes() {
        let mut delta = tcp(closed().as_bytes()).unwrap();
        delta.translated = Some(Endpoint { ip: "10.0.0.9".parse().unwrap(), port: Some(8080) });
        let (tags, _) = point_with(&delta);
        assert_eq!((tags["dst_ip"].as_str(), tags["dst_port"].as_str()), ("93.184.216.34", "443"));
        assert_eq!(
            (tags["dst_nat_ip"].as_str(), tags["dst_nat_port"].as_str()),
            ("10.0.0.9", "8080")
        );
        assert_eq!(tags["server_ip"], "93.184.216.34");
    }

    #[test]
    fn in_an_incoming_flow_this_host_is_the_server() {
        let (tags, fields) = point_of(Direction::Incoming);
        assert_eq!(tags["conn_side"], "server");
        assert_eq!(
            (tags["server_ip"].as_str(), tags["server_port"].as_str()),
            ("93.184.216.34", "443")
        );
        assert_eq!(
            (tags["server_ip_type"].as_str(), tags["client_ip_type"].as_str()),
            ("other", "private")
        );
        assert_eq!((tags["src_port"].as_str(), tags["dst_port"].as_str()), ("443", "*"));
        assert_eq!((fields["client_sent"], fields["server_sent"]), (5120, 820));
    }
}

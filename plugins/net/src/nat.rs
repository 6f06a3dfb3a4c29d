//! Where translated connections really go, as another plugin of this collector has seen it.
//!
//! That plugin may not be there, and may come and go: its table is asked for again before each
//! report. Without it nothing is translated, and all else is the same.

use std::net::IpAddr;

use bpf::conntrack::MAP;
use bpf::conntrack::abi::{NAT_AMBIGUOUS, NAT_NETNS_ANY, NAT_PORT_ANY, nat_key, nat_value};
use plugin_api::Host;
use plugin_support::map::Map;

use crate::decode::{Delta, Direction, Endpoint};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A connection is followed over so many translations at most: its own namespace, the host, and
/// two more.
const MOST_HOPS: usize = 4;

/// The table of translations, while there is one.
#[derive(Debug, Default)]
pub(crate) struct Nat {
    table: Option<Map<nat_key, nat_value>>,
    failing: bool,
}

impl Nat {
    /// Asks the host for the table. Costs a few system calls.
    pub(crate) fn refresh(&mut self, host: &Host) {
        let had_table = self.table.is_some();
        match Map::of_host(host, MAP) {
            Ok(table) => {
                self.table = table;
                self.failing = false;
            }
            Err(error) => {
                self.table = None;
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!(error:% = format!("{error:#}");
                        "the table of translated connections is of no use");
                }
            }
        }
        if had_table != self.table.is_some() {
            log::info!(available = self.table.is_some(); "table of translated connections");
        }
    }

    /// For the last report: all plugins are being stopped, and the table that we hold is as good as
    /// it was.
    pub(crate) fn refresh_unless_held(&mut self, host: &Host) {
        if self.table.is_none() {
            self.refresh(host);
        }
    }

    /// Where the peer of an outgoing conversation really is, if that is not where it seems to be.
    pub(crate) fn destination(&self, delta: &Delta) -> Option<Endpoint> {
        if delta.direction == Direction::Incoming {
            return None;
        }
        let protocol = if delta.tcp.is_some() { TCP } else { UDP };
        self.real_end(protocol, delta.netns, delta.local, delta.remote)
    }

    /// The same for a TCP connection from a socket in `netns`.
    pub(crate) fn tcp_destination(
        &self,
        netns: u32,
        from: Endpoint,
        to: Endpoint,
    ) -> Option<Endpoint> {
        self.real_end(TCP, netns, from, to)
    }

    /// Whether anything may be translated.
    pub(crate) fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// The same for a packet from a socket in `netns`.
    fn real_end(&self, protocol: u8, netns: u32, from: Endpoint, to: Endpoint) -> Option<Endpoint> {
        let table = self.table.as_ref()?;
        let seen = key_of(protocol, netns, from, to)?;
        follow(seen, |key| table.get(key).ok().flatten())
    }
}

fn key_of(protocol: u8, netns: u32, from: Endpoint, to: Endpoint) -> Option<nat_key> {
    Some(nat_key {
        src_addr: octets(from.ip),
        dst_addr: octets(to.ip),
        src_port: from.port.unwrap_or(NAT_PORT_ANY as u16),
        dst_port: to.port?,
        netns,
        protocol,
        padding: [0; 3],
    })
}

/// From the socket's namespace outwards: what leaves one translation may meet another one.
fn follow(seen: nat_key, find: impl Fn(&nat_key) -> Option<nat_value>) -> Option<Endpoint> {
    let find = |key: &nat_key| find(key).filter(|value| value.flags & NAT_AMBIGUOUS == 0);
    let mut key = seen;
    for hop in 0..MOST_HOPS {
        let own = if hop == 0 { find(&key) } else { None };
        let anywhere = || find(&nat_key { netns: NAT_NETNS_ANY, ..key });
        let Some(nat_value { src_addr, dst_addr, src_port, dst_port, .. }) = own.or_else(anywhere)
        else {
            break;
        };
        key = nat_key { src_addr, dst_addr, src_port, dst_port, ..key };
    }
    let moved = (key.dst_addr, key.dst_port) != (seen.dst_addr, seen.dst_port);
    moved.then(|| Endpoint {
        ip: IpAddr::from(key.dst_addr).to_canonical(),
        port: Some(key.dst_port),
    })
}

/// The table has IPv4 addresses as mapped ones.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::{TCP, UDP, follow, key_of, octets};
    use crate::decode::tests::closed;
    use crate::decode::{Delta, tcp};
    use bpf::conntrack::abi::{NAT_AMBIGUOUS, nat_key, nat_value};
    use std::net::SocketAddr;
    use zerocopy::IntoBytes as _;

    /// 10.0.0.5:40000 to 93.184.216.34:443, in namespace 4026531840.
    fn delta() -> Delta {
        tcp(closed().as_bytes()).unwrap()
    }

    fn key(netns: u32, from: &str, to: &str) -> nat_key {
        let [from, to]: [SocketAddr; 2] = [from, to].map(|end| end.parse().unwrap());
        nat_key {
            src_addr: octets(from.ip()),
            dst_addr: octets(to.ip()),
            src_port: from.port(),
            dst_port: to.port(),
            netns,
            protocol: TCP,
            padding: [0; 3],
        }
    }

    /// Where `delta` goes when the table has these, each as a key and its translation.
    fn destination(delta: &Delta, table: &[(nat_key, nat_key, u32)]) -> Option<String> {
        let found = follow(key_of(TCP, delta.netns, delta.local, delta.remote)?, |wanted| {
            let (_, to, flags) =
                table.iter().find(|(key, ..)| key.as_bytes() == wanted.as_bytes())?;
            let nat_key { src_addr, dst_addr, src_port, dst_port, .. } = *to;
            let value =
                nat_value { src_addr, dst_addr, src_port, dst_port, ..nat_value::default() };
            Some(nat_value { flags: *flags, ..value })
        })?;
        Some(format!("{} {}", found.ip, found.port.unwrap()))
    }

    const OWN: u32 = 4_026_531_840;
    const CLIENT: &str = "10.0.0.5:40000";
    const SERVICE: &str = "93.184.216.34:443";

    #[test]
    fn nothing_is_translated_that_is_not_in_the_table() {
        assert_eq!(destination(&delta(), &[]), None);
        let same = key(OWN, CLIENT, SERVICE);
        assert_eq!(destination(&delta(), &[(same, same, 0)]), None);
    }

    #[test]
    fn a_translation_in_the_own_namespace_comes_before_one_elsewhere() {
        let table = [
            (key(OWN, CLIENT, SERVICE), key(OWN, CLIENT, "10.0.0.9:8443"), 0),
            (key(0, CLIENT, SERVICE), key(0, CLIENT, "10.0.0.10:8443"), 0),
        ];
        assert_eq!(destination(&delta(), &table).unwrap(), "10.0.0.9 8443");
        assert_eq!(destination(&delta(), &table[1..]).unwrap(), "10.0.0.10 8443");
    }

    #[test]
    fn a_connection_that_is_translated_twice_is_followed_to_its_end() {
        let middle = ("192.168.0.1:5000", "10.96.0.1:80");
        let table = [
            (key(OWN, CLIENT, SERVICE), key(OWN, middle.0, middle.1), 0),
            (key(0, middle.0, middle.1), key(0, "172.16.0.1:6000", "10.0.0.9:8443"), 0),
        ];
        assert_eq!(destination(&delta(), &table).unwrap(), "10.0.0.9 8443");
    }

    #[test]
    fn translations_that_lead_in_a_circle_end() {
        let there = key(0, CLIENT, "10.0.0.9:8443");
        let table = [(key(0, CLIENT, SERVICE), there, 0), (there, key(0, CLIENT, SERVICE), 0)];
        assert_eq!(destination(&delta(), &table), None);
    }

    #[test]
    fn an_element_that_stands_for_different_places_says_nothing() {
        let table = [(key(0, CLIENT, SERVICE), key(0, CLIENT, "10.0.0.9:1"), NAT_AMBIGUOUS)];
        assert_eq!(destination(&delta(), &table), None);
    }

    #[test]
    fn a_masked_source_port_is_looked_up_as_such() {
        let Delta { mut local, remote, .. } = delta();
        local.port = None;
        assert_eq!(key_of(UDP, OWN, local, remote).unwrap().src_port, 0);
    }
}

//! Three hosts in a row: a client (a container, say), a node that forwards and translates for it, and a server. In: nothing. Out:
//! namespaces as in [`Hosts`](crate::hosts::Hosts), and an address that only the node knows what to do with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use crate::hosts::{Family, Netns, next_subnet};
use crate::process::run;

/// A client, a server, and a node between them.
pub struct Routed {
    /// Where connections come from; the node is its way to everywhere.
    pub client: Netns,
    /// Forwards between the two, `eth0` towards the client and `eth1` towards the server.
    pub node: Netns,
    /// Where they really go to.
    pub server: Netns,
    subnet: u8,
}

impl Routed {
    /// Makes the hosts and the cables between them. Nothing is translated yet.
    #[expect(clippy::new_without_default, reason = "making namespaces is not a default")]
    pub fn new() -> Self {
        let (subnet, _one_at_a_time) = next_subnet();
        // Two halves of one subnet: 1 and 2, 65 and 66.
        let [client, node, server] = [1, 2, 65].map(|host| Netns::new(subnet, host));
        for (end, port) in [(&client, "eth0"), (&server, "eth1")] {
            let mut link = Command::new("ip");
            link.args(["link", "add", "eth0", "netns", end.name(), "type", "veth"]);
            run(link.args(["peer", "name", port, "netns", node.name()]));
        }
        let v6 = |host: u16| Ipv6Addr::new(0xfd77, subnet.into(), 0, 0, 0, 0, 0, host);
        let v4 = |host: u8| Ipv4Addr::new(10, 77, subnet, host);
        for (end, own, way) in [(&client, 1, 2), (&server, 65, 66)] {
            let (far_v4, far_v6) = (v4(way), v6(way.into()));
            end.ip_command(&format!(
                "addr add {}/26 dev eth0\naddr add {}/122 dev eth0 nodad\nlink set lo up\n\
                 link set eth0 up\nroute add default via {far_v4}\nroute add default via {far_v6}\n",
                v4(own),
                v6(own.into())
            ));
        }
        node.ip_command(&format!(
            "addr add {}/26 dev eth0\naddr add {}/122 dev eth0 nodad\naddr add {}/26 dev eth1\n\
             addr add {}/122 dev eth1 nodad\nlink set lo up\nlink set eth0 up\nlink set eth1 up\n",
            v4(2),
            v6(2),
            v4(66),
            v6(66)
        ));
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        Self { client, node, server, subnet }
    }

    /// An address that nobody has: a service, to be translated on the way.
    pub fn service(&self, family: Family, port: u16) -> SocketAddr {
        let ip: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(198, 18, self.subnet, 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd96, self.subnet.into(), 0, 0, 0, 0, 0, 1).into(),
        };
        SocketAddr::new(ip, port)
    }

    /// The server's own address.
    pub fn real(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.server.ip(family), port)
    }
}

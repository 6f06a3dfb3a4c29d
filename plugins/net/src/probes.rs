//! What this plugin attaches, and what it cannot do without which.

use plugin_support::probe::{Hook, Need, Probe, Way};

const UDP: Need = Need::Optional("UDP flows");
const PACKETS_NEED: Need = Need::Optional("UDP flows, dnsflow, domains of addresses, and httpflow");

pub(crate) const REPORT_TCP: &str = "report_tcp";
pub(crate) const REPORT_TCP_OF_FILES: &str = "report_tcp_of_files";
pub(crate) const REPORT_UDP: &str = "report_udp_flows";
pub(crate) const WALK_HTTP: &str = "walk_http";
pub(crate) const WALK_HTTP_OF_FILES: &str = "walk_http_of_files";

/// What is read of the table of conversations.
const UDP_COUNTERS: Probe = Probe {
    name: "UDP counters",
    need: UDP,
    ways: &[
        Way { program: REPORT_UDP, hook: Hook::MapIterator("bpf_map_elem") },
        Way { program: "", hook: Hook::LookUps("udp_flows") },
    ],
};

/// The probes that see packets.
pub(crate) const PACKETS: [&str; 2] = ["packets received", "packets sent"];

pub(crate) const SOCKET_RELEASE: &str = "socket release";

pub(crate) const PROBES: &[Probe] = &[
    Probe {
        name: "TCP state change",
        need: Need::Required,
        ways: &[
            Way { program: "inet_sock_set_state", hook: Hook::Tracepoint("inet_sock_set_state") },
            Way { program: "state_store", hook: Hook::Entry("inet_sk_state_store") },
        ],
    },
    Probe {
        name: "TCP state change, again",
        need: Need::Optional("state changes in the middle of another one on the same CPU"),
        ways: &[
            Way { program: "state_again", hook: Hook::Tracepoint("inet_sock_set_state") },
            Way { program: "state_store_again", hook: Hook::Entry("inet_sk_state_store") },
        ],
    },
    Probe {
        name: SOCKET_RELEASE,
        need: Need::Optional("the process behind connections that were reset early"),
        ways: &[Way { program: "sock_release", hook: Hook::Socket("sock_release") }],
    },
    Probe {
        name: "socket creation",
        need: UDP,
        ways: &[Way { program: "sock_create", hook: Hook::Socket("sock_create") }],
    },
    Probe {
        name: PACKETS[0],
        need: PACKETS_NEED,
        ways: &[Way { program: "ingress", hook: Hook::SocketIngress }],
    },
    Probe {
        name: PACKETS[1],
        need: PACKETS_NEED,
        ways: &[Way { program: "egress", hook: Hook::SocketEgress }],
    },
    Probe {
        name: "scan for listeners",
        need: Need::Required,
        ways: &[Way { program: "scan_listeners", hook: Hook::Iterator("task_file") }],
    },
    Probe {
        name: "scan for open sockets",
        need: Need::Required,
        ways: &[Way { program: "scan_sockets", hook: Hook::Iterator("task_file") }],
    },
    Probe {
        name: "TCP counters",
        need: Need::Required,
        ways: &[
            Way { program: REPORT_TCP, hook: Hook::MapIterator("bpf_sk_storage_map") },
            Way { program: REPORT_TCP_OF_FILES, hook: Hook::Iterator("task_file") },
        ],
    },
    UDP_COUNTERS,
    Probe {
        name: "idle HTTP connections",
        need: Need::Optional("HTTP exchanges on connections that stay idle after them"),
        ways: &[
            Way { program: WALK_HTTP, hook: Hook::MapIterator("bpf_sk_storage_map") },
            Way { program: WALK_HTTP_OF_FILES, hook: Hook::Iterator("task_file") },
        ],
    },
];

/// What is attached where the former cannot be loaded: kernels before 5.12.
pub(crate) const EARLY_PROBES: &[Probe] = &[
    Probe {
        name: "TCP state change",
        need: Need::Required,
        ways: &[Way { program: "socket_events", hook: Hook::SocketEvents }],
    },
    Probe {
        name: "accept",
        need: Need::Optional("the process behind incoming connections before they close"),
        ways: &[Way { program: "accepted", hook: Hook::Return("inet_csk_accept") }],
    },
    Probe {
        name: SOCKET_RELEASE,
        need: Need::Optional("the process behind connections that were reset early"),
        ways: &[Way { program: "sock_release", hook: Hook::Socket("sock_release") }],
    },
    Probe {
        name: "socket creation",
        need: UDP,
        ways: &[Way { program: "sock_create", hook: Hook::Socket("sock_create") }],
    },
    Probe {
        name: PACKETS[0],
        need: EARLY_PACKETS,
        ways: &[Way { program: "ingress", hook: Hook::SocketIngress }],
    },
    Probe {
        name: PACKETS[1],
        need: EARLY_PACKETS,
        ways: &[Way { program: "egress", hook: Hook::SocketEgress }],
    },
    Probe {
        name: "TCP counters",
        need: Need::Required,
        ways: &[Way { program: REPORT_TCP, hook: Hook::MapIterator("bpf_sk_storage_map") }],
    },
    UDP_COUNTERS,
];

const EARLY_PACKETS: Need = Need::Optional("UDP flows, dnsflow and domains of addresses");

/// What there is no way to there.
pub(crate) const EARLY_HTTP: Probe = Probe {
    name: "HTTP in packets",
    need: Need::Optional("httpflow and httpflow-tls, which need Linux 5.12"),
    ways: &[],
};

pub(crate) const TLS_READ: &str = "tls_read";
pub(crate) const TLS_READ_EX: &str = "tls_read_ex";
pub(crate) const TLS_WRITE: &str = "tls_write";
pub(crate) const TLS_WRITE_EX: &str = "tls_write_ex";
pub(crate) const TLS_HANDSHAKE: &str = "tls_handshake";
pub(crate) const TLS_RETURN: &str = "tls_return";
pub(crate) const TLS_END: &str = "tls_end";
pub(crate) const TLS_FREE: &str = "tls_free";
pub(crate) const TLS_SENDFILE: &str = "tls_sendfile";
pub(crate) const GO_READ: &str = "go_read";
pub(crate) const GO_WRITE: &str = "go_write";
pub(crate) const GO_HANDSHAKE: &str = "go_handshake";
pub(crate) const GO_RETURN: &str = "go_return";
pub(crate) const GO_CLOSE: &str = "go_close";

const TLS: Need = Need::Optional("HTTP through TLS");
const GO: Need = Need::Optional("HTTP through TLS of Go");

/// What is attached as well if HTTP through TLS is wanted; uprobes to files as they appear.
pub(crate) const TLS_PROBES: &[Probe] = &[
    Probe {
        name: "socket below TLS, sending",
        need: TLS,
        ways: &[
            Way { program: "tls_socket_sends", hook: Hook::Tracepoint("sock_send_length") },
            Way { program: "tls_tcp_sends", hook: Hook::Entry("tcp_sendmsg") },
        ],
    },
    Probe {
        name: "socket below TLS, receiving",
        need: TLS,
        ways: &[
            Way { program: "tls_socket_receives", hook: Hook::Tracepoint("sock_recv_length") },
            Way { program: "tls_tcp_receives", hook: Hook::Entry("tcp_recvmsg") },
        ],
    },
    Probe {
        name: "TLS read begins",
        need: TLS,
        ways: &[Way { program: TLS_READ, hook: Hook::Uprobe("SSL_read") }],
    },
    Probe {
        name: "TLS read begins, with a size",
        need: TLS,
        ways: &[Way { program: TLS_READ_EX, hook: Hook::Uprobe("SSL_read_ex") }],
    },
    Probe {
        name: "TLS write begins",
        need: TLS,
        ways: &[Way { program: TLS_WRITE, hook: Hook::Uprobe("SSL_write") }],
    },
    Probe {
        name: "TLS write begins, with a size",
        need: TLS,
        ways: &[Way { program: TLS_WRITE_EX, hook: Hook::Uprobe("SSL_write_ex") }],
    },
    Probe {
        name: "TLS handshake",
        need: TLS,
        ways: &[Way { program: TLS_HANDSHAKE, hook: Hook::Uprobe("SSL_do_handshake") }],
    },
    Probe {
        name: "TLS call returns",
        need: TLS,
        ways: &[Way { program: TLS_RETURN, hook: Hook::Uprobe("SSL_read") }],
    },
    Probe {
        name: "TLS call is about to return",
        need: Need::Optional("a cheap place for the end of calls"),
        ways: &[Way { program: TLS_END, hook: Hook::Uprobe("SSL_read") }],
    },
    Probe {
        name: "TLS session is freed",
        need: TLS,
        ways: &[Way { program: TLS_FREE, hook: Hook::Uprobe("SSL_free") }],
    },
    Probe {
        name: "TLS sends a file",
        need: TLS,
        ways: &[Way { program: TLS_SENDFILE, hook: Hook::Uprobe("SSL_sendfile") }],
    },
    Probe {
        name: "Go's TLS read begins",
        need: GO,
        ways: &[Way { program: GO_READ, hook: Hook::Uprobe("crypto/tls.(*Conn).Read") }],
    },
    Probe {
        name: "Go's TLS write begins",
        need: GO,
        ways: &[Way { program: GO_WRITE, hook: Hook::Uprobe("crypto/tls.(*Conn).Write") }],
    },
    Probe {
        name: "Go's TLS handshake begins",
        need: GO,
        ways: &[Way {
            program: GO_HANDSHAKE,
            hook: Hook::Uprobe("crypto/tls.(*Conn).clientHandshake"),
        }],
    },
    Probe {
        name: "Go's TLS call returns",
        need: GO,
        ways: &[Way { program: GO_RETURN, hook: Hook::Uprobe("crypto/tls.(*Conn).Read") }],
    },
    Probe {
        name: "Go's TLS session is closed",
        need: GO,
        ways: &[Way { program: GO_CLOSE, hook: Hook::Uprobe("crypto/tls.(*Conn).Close") }],
    },
    Probe {
        name: START,
        need: Need::Optional("a program as soon as it starts: it is found within ten seconds"),
        ways: &[
            Way { program: "sched_process_exec", hook: Hook::Tracepoint("sched_process_exec") },
            Way { program: "exec_untyped", hook: Hook::UntypedTracepoint("sched_process_exec") },
        ],
    },
];

/// The one of them without which the others are of use.
pub(crate) const START: &str = "start of a program that may use TLS";

#[cfg(test)]
mod tests {
    use super::{PROBES, TLS_PROBES};
    use bpf::net::OBJECT;
    use plugin_api::ProbeStatus;
    use plugin_support::loader::{Facts, Global, load};

    #[test]
    fn every_program_passes_the_verifier_and_attaches_here() {
        let facts = Facts::of_this_host().unwrap();
        let globals = [
            Global { name: "release_is_seen", value: &[1] },
            Global { name: "ephemeral_port", value: &32768_u16.to_ne_bytes() },
            Global { name: "http_enabled", value: &[1] },
            Global { name: "tls_places", value: &[1] },
        ];
        let probes = [PROBES, TLS_PROBES].concat();
        let loaded = load(facts, OBJECT, &globals, &probes).unwrap();
        for verdict in loaded.verdicts() {
            assert_eq!(verdict.status, ProbeStatus::Attached, "{verdict:?}");
        }
        assert_eq!(loaded.verdicts().len(), probes.len());
    }
}

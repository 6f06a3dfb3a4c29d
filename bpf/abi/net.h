/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Records of ebpf-net: what its BPF programs write and its decoder reads.
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d; ports are in
 * host order. "Local" is the socket's own end.
 */
#ifndef ABI_NET_H
#define ABI_NET_H

#include "abi/types.h"

/* Who opened the conversation, as seen from the socket. */
enum role {
	ROLE_UNKNOWN = 0,
	/* A listening TCP socket: never reported, its children inherit from it. */
	ROLE_LISTENER = 1,
	/* The peer opened the conversation: the flow is incoming. */
	ROLE_ACCEPTOR = 2,
	/* This socket opened the conversation: the flow is outgoing. */
	ROLE_CONNECTOR = 3,
};

enum ip_family {
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* A port that the kernel side has masked; no real port is 0. */
enum masked_port {
	PORT_MASKED = 0,
};

/* Index into the per-CPU `counters` map: what could not be recorded. */
enum counter {
	/* Closing records that found no room in the ring. */
	COUNTER_CLOSES_LOST = 0,
	/* TCP connections for which the kernel had no memory. */
	COUNTER_CONNS_REFUSED = 1,
	/* UDP packets, and their payload bytes, that found the flow table full. */
	COUNTER_UDP_PACKETS_REFUSED = 2,
	COUNTER_UDP_BYTES_REFUSED = 3,
	/* Ports listened on at the start that found their table full. */
	COUNTER_LISTENERS_REFUSED = 4,
	/* Packets of DNS ports that found no room in their ring. */
	COUNTER_DNS_PACKETS_LOST = 5,
	/* HTTP exchanges, or pieces of streams, that found their ring full. */
	COUNTER_HTTP_LOST = 6,
	/* Requests and responses that could not be told or paired. */
	COUNTER_HTTP_NOT_UNDERSTOOD = 7,
	/* Connections that speak HTTP for which the kernel had no memory. */
	COUNTER_HTTP_CONNS_REFUSED = 8,
	/* Pieces of TLS sessions that found their ring full, or could not be told. */
	COUNTER_TLS_PIECES_LOST = 9,
	/* Starts of programs that found their ring full. */
	COUNTER_TLS_STARTS_LOST = 10,
	COUNTER_COUNT = 11,
};

enum ring_size {
	TCP_REPORTS_BYTES = 2 * 1024 * 1024,
	/* What the kernel puts before each record of a ring. */
	RING_HEADER_BYTES = 8,
};

/* The process that a socket belongs to; pid 0 when it is not known. */
struct owner {
	__u32 pid;
	__u8 comm[16];
};
_Static_assert(sizeof(struct owner) == 20, "owner is part of records");

struct tuple {
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port;
	__u16 remote_port;
	/* Inode of the network namespace; 0 when it is not known. */
	__u32 netns;
};
_Static_assert(sizeof(struct tuple) == 40, "tuple is part of records");

/*
 * What one TCP connection did since it was last reported. The byte counts are
 * signed: a count that was read in the middle of a FIN is put right later.
 */
struct tcp_delta {
	struct tuple tuple;
	struct owner owner;
	__u8 family;
	__u8 role;
	/* 1 in the one record that reports the opening, or the closing. */
	__u8 opened;
	__u8 closed;
	__s64 sent;
	__s64 received;
	__u32 retransmits;
	/* Smoothed round-trip time and its mean deviation, µs; 0: no sample. */
	__u32 rtt_us;
	__u32 rtt_var_us;
	__u32 padding;
};
_Static_assert(sizeof(struct tcp_delta) == 96, "tcp_delta is wire format");

/*
 * All that one TCP connection has done, `opened` always set: what kernels before 5.12
 * report. The cookie tells connections apart.
 */
struct tcp_total {
	struct tcp_delta delta;
	__u64 cookie;
};
_Static_assert(sizeof(struct tcp_total) == 104, "tcp_total is wire format");

/* One UDP conversation of one process, ephemeral ports masked. */
struct udp_key {
	struct tuple tuple;
	__u32 pid;
	__u8 family;
	__u8 role;
	__u16 padding;
};
_Static_assert(sizeof(struct udp_key) == 48, "udp_key is wire format");

/* Totals of a UDP conversation, and how much of them was reported. */
struct udp_flow {
	__u64 sent;
	__u64 received;
	__u64 sent_reported;
	__u64 received_reported;
	__u8 comm[16];
};
_Static_assert(sizeof(struct udp_flow) == 48, "udp_flow is wire format");

/* What a UDP conversation did since it was last reported: 0 and 0 when idle. */
struct udp_delta {
	struct udp_key key;
	__u8 comm[16];
	__u64 sent;
	__u64 received;
};
_Static_assert(sizeof(struct udp_delta) == 80, "udp_delta is wire format");

/* Here and not above: it is made of what is declared above. */
#include "abi/dns.h"
#include "abi/http.h"
#include "abi/tls.h"

#endif

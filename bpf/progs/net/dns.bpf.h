/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * DNS: packets of sockets that have a DNS port at either end are copied to user
 * space, which finds the messages in them and pairs answers with questions.
 *
 *   handle_udp     -> copy_udp: one packet is one message
 *   ingress/egress -> handle_dns_tcp: one packet is a piece of a stream
 *
 * The ports are the socket's own, where it is connected: as the application has
 * them, whatever a translation made of them on the wire.
 */
#ifndef NET_DNS_BPF_H
#define NET_DNS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/dns.h"
#include "lib/count.bpf.h"
#include "lib/packet.bpf.h"
#include "lib/sock.bpf.h"

/* Wake the reader when this much is waiting; it also comes by on its own. */
#define DNS_WAKEUP_BYTES (512 * 1024)

/* Set by the loader before load: the ports of DNS servers; 0 is none. */
const volatile __u16 dns_ports[DNS_PORTS_MOST] = {53};

/* Copied packets. Full: counted; their exchanges look unanswered, or never asked. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} dns_packets SEC(".maps");

/* Whether either is a server's port. What follows the last port, the verifier cuts off. */
static __always_inline bool has_dns_port(__u16 one, __u16 other)
{
#pragma unroll
	for (int i = 0; i < DNS_PORTS_MOST; i++) {
		__u16 port = dns_ports[i];

		if (!port)
			break;
		if (one == port || other == port)
			return true;
	}
	return false;
}

/*
 * Copies the packet, of which `offset` bytes are headers, into a record with
 * this much room, which the verifier must know beforehand.
 */
static __always_inline void copy_into(struct __sk_buff *skb, const struct dns_packet *packet,
				      __u32 offset, const __u32 room)
{
	struct dns_packet *record = bpf_ringbuf_reserve(&dns_packets, sizeof(*record) + room, 0);
	__u32 size = packet->len;
	__u64 waiting;

	if (!record) {
		count(COUNTER_DNS_PACKETS_LOST, 1);
		return;
	}
	*record = *packet;
	if (size > room)
		size = room;
	record->copied = size;
	if (size && !copy_bytes(skb, offset, record + 1, size, room)) {
		count(COUNTER_DNS_PACKETS_LOST, 1);
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return;
	}
	waiting = bpf_ringbuf_query(&dns_packets, BPF_RB_AVAIL_DATA);
	bpf_ringbuf_submit(record,
			   waiting >= DNS_WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* Most questions fit into the first size, most answers into the first two. */
static __noinline int copy_packet(struct __sk_buff *skb, struct dns_packet *packet, __u32 offset)
{
	packet->socket = bpf_get_socket_cookie(skb);
	packet->time_ns = bpf_ktime_get_ns();
	if (packet->len <= 128)
		copy_into(skb, packet, offset, 128);
	else if (packet->len <= 512)
		copy_into(skb, packet, offset, 512);
	else if (packet->len <= 2048)
		copy_into(skb, packet, offset, 2048);
	else
		copy_into(skb, packet, offset, DNS_COPIED_MOST);
	return 0;
}

/* `offset`: of the payload. */
static __always_inline void copy_udp(struct __sk_buff *skb, const struct tuple *tuple, __u8 family,
				     enum direction way, __u32 offset)
{
	struct dns_packet packet = {
		.tuple = *tuple,
		.len = skb->len - offset,
		.family = family,
		.transport = TRANSPORT_UDP,
		.sent = way == EGRESS,
	};

	copy_packet(skb, &packet, offset);
}

/* Looks at the socket alone: for a packet of another one this is all. */
static __always_inline bool is_dns_socket(struct __sk_buff *skb)
{
	return has_dns_port(skb->local_port, bpf_ntohl(skb->remote_port));
}

/* A packet that is TCP right behind its IP header. */
static __noinline int handle_dns_tcp(struct __sk_buff *skb, enum direction way)
{
	struct dns_packet packet = {.transport = TRANSPORT_TCP, .sent = way == EGRESS};
	__u32 offset = sizeof(struct ipv6_header);
	struct bpf_sock *sk = skb->sk;
	struct tcp_header tcp;
	__u8 version_ihl;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, &version_ihl, sizeof(version_ihl)))
			return 0;
		offset = (version_ihl & 15) * 4;
	}
	if (!sk || bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->type != SOCK_STREAM)
		return 0;
	offset += (tcp.data_offset >> 4) * 4;
	if (offset > skb->len)
		return 0;
	packet.len = skb->len - offset;
	if (tcp.flags & TCP_FLAG_FIN)
		packet.end |= STREAM_END_ONE;
	if (tcp.flags & TCP_FLAG_RST)
		packet.end |= STREAM_END_BOTH;
	if (!packet.len && !packet.end)
		return 0;
	/* A SYN counts as one byte before what it may carry. */
	packet.sequence = bpf_ntohl(tcp.sequence) + !!(tcp.flags & TCP_FLAG_SYN);
	packet.family = tuple_of_sock(kernel_sock(sk), &packet.tuple);
	return copy_packet(skb, &packet, offset);
}

#endif

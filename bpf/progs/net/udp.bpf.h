/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * UDP conversations: payload bytes, counted packet by packet because no socket
 * counts them. A packet of another protocol is let go after one look.
 */
#ifndef NET_UDP_BPF_H
#define NET_UDP_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "lib/holder.bpf.h"
#include "lib/packet.bpf.h"
#include "lib/seq.bpf.h"
#include "lib/sock.bpf.h"
#include "progs/net/dns.bpf.h"

/* sk_userlocks bit: bind() named a port. */
#define SOCK_BINDPORT_LOCK 8

/* Set by the loader before load: client ports from here on are masked. */
const volatile __u16 ephemeral_port = 0;

struct udp_sock_info {
	struct holder holder;
	__u32 netns;
	__u8 role;
	/* bind() named a port. */
	__u8 is_bound;
	__u8 padding[2];
	/* Whom it sent to last, folded. */
	__u32 last_peer;
};

/* Every UDP socket since its socket() or first packet. Dies with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct udp_sock_info);
} udp_socks SEC(".maps");

/*
 * Live conversations. Not LRU: an evicted one would take its unreported bytes
 * along. Full: counted and not reported; user space removes the idle ones.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct udp_key);
	__type(value, struct udp_flow);
} udp_flows SEC(".maps");

static __always_inline __u16 masked(__u16 port)
{
	return port >= ephemeral_port ? PORT_MASKED : port;
}

/*
 * Both addresses into `tuple` by direction, then the offset of what follows the
 * IP header; 0: not UDP. IPv6 extension headers do not hide UDP behind four.
 */
static __always_inline __u32 read_ipv4(struct __sk_buff *skb, enum direction way,
				       struct tuple *tuple)
{
	struct ipv4_header ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP)
		return 0;
	map_ipv4(tuple->local_addr, way == EGRESS ? ip.source : ip.destination);
	map_ipv4(tuple->remote_addr, way == EGRESS ? ip.destination : ip.source);
	return (ip.version_ihl & 15) * 4;
}

static __always_inline __u32 read_ipv6(struct __sk_buff *skb, enum direction way,
				       struct tuple *tuple)
{
	__u32 offset = sizeof(struct ipv6_header);
	struct ipv6_header ip;
	__u8 next, extension[2];

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return 0;
	__builtin_memcpy(tuple->local_addr, way == EGRESS ? ip.source : ip.destination, 16);
	__builtin_memcpy(tuple->remote_addr, way == EGRESS ? ip.destination : ip.source, 16);
	next = ip.next_header;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (next == IPPROTO_UDP)
			return offset;
		/* Hop-by-hop, routing and destination options have one shape. */
		if (next != 0 && next != 43 && next != IPPROTO_FRAGMENT && next != 60)
			return 0;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return 0;
		offset += next == IPPROTO_FRAGMENT ? 8 : (extension[1] + 1) * 8;
		next = extension[0];
	}
	return next == IPPROTO_UDP ? offset : 0;
}

static __always_inline bool is_bound(struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK;
}

/*
 * Who opened the conversation is a fact of the socket. Without a bind() it calls;
 * with one it serves if a packet came in first. A socket that is older than the
 * collector has no first packet: there the bind() decides.
 */
static __always_inline struct udp_sock_info *info_of_sock(struct bpf_sock *sk, enum direction way)
{
	struct udp_sock_info *info = bpf_sk_storage_get(&udp_socks, sk, NULL, 0);
	struct udp_sock_info older = {};

	if (info && info->role != ROLE_UNKNOWN)
		return info;
	older.is_bound = is_bound(kernel_sock(sk));
	if (info) {
		info->is_bound = older.is_bound;
		info->role = older.is_bound && way == INGRESS ? ROLE_ACCEPTOR : ROLE_CONNECTOR;
		return info;
	}
	older.role = older.is_bound ? ROLE_ACCEPTOR : ROLE_CONNECTOR;
	older.netns = netns_of_sock(kernel_sock(sk));
	return bpf_sk_storage_get(&udp_socks, sk, &older, BPF_SK_STORAGE_GET_F_CREATE);
}

/* A connected socket keeps its peer's address, also where packets are translated. */
static __always_inline void use_connected_peer(struct bpf_sock *sk, struct tuple *tuple)
{
	if (!sk->dst_port)
		return;
	if (sk->family == AF_INET) {
		map_ipv4(tuple->local_addr, sk->src_ip4);
		map_ipv4(tuple->remote_addr, sk->dst_ip4);
	} else {
		__u32 local[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
		__u32 remote[4] = {sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2], sk->dst_ip6[3]};

		__builtin_memcpy(tuple->local_addr, local, sizeof(local));
		__builtin_memcpy(tuple->remote_addr, remote, sizeof(remote));
	}
	tuple->local_port = sk->src_port;
	tuple->remote_port = bpf_ntohs(sk->dst_port);
}

static __always_inline __u32 fold_peer(const struct tuple *tuple)
{
	const __u32 *words = (const __u32 *)tuple->remote_addr;

	return words[0] ^ words[1] ^ words[2] ^ words[3] ^ tuple->remote_port << 16;
}

static __always_inline void mask_client_port(struct udp_key *key)
{
	if (key->role == ROLE_CONNECTOR)
		key->tuple.local_port = masked(key->tuple.local_port);
	else
		key->tuple.remote_port = masked(key->tuple.remote_port);
}

static __always_inline void add_udp(struct udp_key *key, const struct owner *owner,
				    enum direction way, __u64 bytes)
{
	struct udp_flow fresh = {};
	struct udp_flow *flow = bpf_map_lookup_elem(&udp_flows, key);

	if (!flow) {
		__builtin_memcpy(fresh.comm, owner->comm, sizeof(fresh.comm));
		/* Another CPU may come first: then its entry is the one. */
		bpf_map_update_elem(&udp_flows, key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&udp_flows, key);
	}
	if (!flow) {
		count(COUNTER_UDP_PACKETS_REFUSED, 1);
		count(COUNTER_UDP_BYTES_REFUSED, bytes);
		return;
	}
	/* The process may have a new name since an exec. */
	__builtin_memcpy(flow->comm, owner->comm, sizeof(flow->comm));
	__sync_fetch_and_add(way == EGRESS ? &flow->sent : &flow->received, bytes);
}

static __noinline int handle_udp(struct __sk_buff *skb, enum direction way)
{
	struct udp_key key = {};
	struct udp_sock_info *info;
	struct udp_header udp;
	__u16 unmasked_port;
	__u32 peer;
	struct bpf_sock *sk;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		key.family = FAMILY_IPV4;
		offset = read_ipv4(skb, way, &key.tuple);
	} else {
		key.family = FAMILY_IPV6;
		offset = read_ipv6(skb, way, &key.tuple);
	}
	if (!offset || bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
		return 0;
	sk = skb->sk;
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	/* Raw sockets get copies of what others receive. */
	if (!sk || sk->protocol != IPPROTO_UDP || sk->type != SOCK_DGRAM)
		return 0;
	info = info_of_sock(sk, way);
	if (!info) {
		count(COUNTER_UDP_PACKETS_REFUSED, 1);
		count(COUNTER_UDP_BYTES_REFUSED, skb->len - offset - sizeof(udp));
		return 0;
	}
	key.tuple.local_port = bpf_ntohs(way == EGRESS ? udp.source : udp.destination);
	key.tuple.remote_port = bpf_ntohs(way == EGRESS ? udp.destination : udp.source);
	use_connected_peer(sk, &key.tuple);
	if (!key.tuple.local_port || !key.tuple.remote_port)
		return 0;
	key.tuple.netns = info->netns;
	if (has_dns_port(key.tuple.local_port, key.tuple.remote_port))
		copy_udp(skb, &key.tuple, key.family, way, offset + sizeof(udp));
	key.pid = info->holder.owner.pid;
	key.role = info->role;
	unmasked_port = key.tuple.local_port;
	peer = fold_peer(&key.tuple);
	mask_client_port(&key);
	/*
	 * A server that spoke before anybody called shows by who calls it now: one
	 * that it neither talks to nor has just sent to.
	 */
	if (way == EGRESS)
		info->last_peer = peer;
	else if (key.role == ROLE_CONNECTOR && info->is_bound && info->last_peer != peer &&
		 !bpf_map_lookup_elem(&udp_flows, &key)) {
		info->role = ROLE_ACCEPTOR;
		key.role = ROLE_ACCEPTOR;
		key.tuple.local_port = unmasked_port;
		mask_client_port(&key);
	}
	add_udp(&key, &info->holder.owner, way, skb->len - offset - sizeof(udp));
	return 0;
}

/* The one look: at the protocol in the fixed part of the IP header. */
static __always_inline bool may_be_udp(struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;

	if (data + sizeof(struct ipv4_header) > end)
		return true;
	if (data[0] >> 4 == 4)
		return data[9] == IPPROTO_UDP;
	return data[6] != IPPROTO_TCP;
}

/* socket() runs in the process that calls it. */
static __always_inline void handle_created(struct bpf_sock *sk)
{
	struct udp_sock_info fresh = {.netns = netns_of_current()};

	held_by_current(&fresh.holder);
	bpf_sk_storage_get(&udp_socks, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

/* A process was found to hold this socket. */
static __always_inline void handle_held_udp(struct sock *sk, struct task_struct *task)
{
	struct udp_sock_info fresh = {.netns = netns_of_sock(sk)};
	struct udp_sock_info *info;

	info = bpf_sk_storage_get(&udp_socks, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!info)
		return;
	if (!info->holder.is_known && info->role == ROLE_UNKNOWN) {
		info->is_bound = is_bound(sk);
		info->role = info->is_bound ? ROLE_ACCEPTOR : ROLE_CONNECTOR;
	}
	info->netns = fresh.netns;
	held_by(&info->holder, task);
}

/* Reports one conversation: also an idle one, so that it can be removed. */
static __always_inline void report_udp(struct seq_file *seq, const struct udp_key *key,
				       struct udp_flow *flow)
{
	struct udp_delta delta = {};
	__u64 sent, received;

	if (!seq_has_room(seq, &delta, sizeof(delta)))
		return;
	sent = *(volatile __u64 *)&flow->sent;
	received = *(volatile __u64 *)&flow->received;
	delta.key = *key;
	__builtin_memcpy(delta.comm, flow->comm, sizeof(delta.comm));
	delta.sent = sent - flow->sent_reported;
	delta.received = received - flow->received_reported;
	flow->sent_reported = sent;
	flow->received_reported = received;
	bpf_seq_write(seq, &delta, sizeof(delta));
}

#endif

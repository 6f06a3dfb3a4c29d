/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * TCP connections on kernels before 5.12; see net_early.bpf.c. What is known of one
 * lives in its socket, written by the socket's own events, which come one at a time.
 * The walk reads it, and writes nothing but the number of the scan and what it waits for.
 */
#ifndef NET_TCP_EARLY_BPF_H
#define NET_TCP_EARLY_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "lib/holder.bpf.h"
#include "lib/packet.bpf.h"
#include "lib/sock.bpf.h"

/* skc_flags bit SOCK_DONE: the peer's FIN was received, and counted as one byte. */
#define EARLY_SOCK_DONE_BIT 1

/* Wake the reader when this much is waiting; it also comes by on its own. */
#define EARLY_WAKEUP_BYTES (256 * 1024)

/* Set by the loader before load: whether sock_release is attached. */
const volatile __u8 release_is_seen = 0;

/* What the kernel has counted for a connection since it was opened. */
struct early_totals {
	__u64 sent;
	__u64 received;
	__u32 retransmits;
	__u32 rtt_us;
	__u32 rtt_var_us;
	__u32 padding;
};

struct early_conn {
	struct tuple tuple;
	struct holder holder;
	__u8 family;
	__u8 role;
	__u8 is_established;
	__u8 is_closed;
	/* The last scan that has reported it. */
	__u32 reported_by;
	__u64 cookie;
	/* At the end, because the kernel may clear its own. */
	struct early_totals final;
};

/* Every TCP socket since its connect() or listen(). No limit but the number of sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct early_conn);
} tcp_conns SEC(".maps");

/*
 * Who was given which socket by accept(), until it closes. LRU: of the coldest one the
 * process is not known before it closes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct owner);
} accepted_by SEC(".maps");

/* Last reports of closed connections. Full: counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} tcp_closed SEC(".maps");

/* Reports of open connections. Full: the reader empties it and walks again. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TCP_REPORTS_BYTES);
} tcp_reports SEC(".maps");

static __always_inline void early_read(struct sock *sk, struct early_totals *totals)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u64 fin = (BPF_CORE_READ(sk, __sk_common.skc_flags) >> EARLY_SOCK_DONE_BIT) & 1;

	totals->sent = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
	totals->received = BPF_CORE_READ(tp, bytes_received) - fin;
	totals->retransmits = BPF_CORE_READ(tp, total_retrans);
	totals->rtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
	totals->rtt_var_us = BPF_CORE_READ(tp, mdev_us) >> 2;
}

static __always_inline void early_fill(struct tcp_total *total, const struct early_conn *conn,
				       const struct early_totals *totals, __u64 sk)
{
	struct owner *owner = NULL;

	total->cookie = conn->cookie;
	total->delta.tuple = conn->tuple;
	total->delta.owner = conn->holder.owner;
	if (!conn->holder.is_known)
		owner = bpf_map_lookup_elem(&accepted_by, &sk);
	if (owner)
		total->delta.owner = *owner;
	total->delta.family = conn->family;
	total->delta.role = conn->role;
	total->delta.opened = 1;
	total->delta.closed = conn->is_closed;
	total->delta.sent = totals->sent;
	total->delta.received = totals->received;
	total->delta.retransmits = totals->retransmits;
	total->delta.rtt_us = totals->rtt_us;
	total->delta.rtt_var_us = totals->rtt_var_us;
	total->delta.padding = 0;
}

static __always_inline void early_report_closed(struct early_conn *conn, __u64 sk)
{
	struct tcp_total *total = bpf_ringbuf_reserve(&tcp_closed, sizeof(*total), 0);
	__u64 waiting;

	if (!total) {
		count(COUNTER_CLOSES_LOST, 1);
		return;
	}
	early_fill(total, conn, &conn->final, sk);
	waiting = bpf_ringbuf_query(&tcp_closed, BPF_RB_AVAIL_DATA);
	bpf_ringbuf_submit(total,
			   waiting >= EARLY_WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	bpf_map_delete_elem(&accepted_by, &sk);
}

/* connect() and listen() run in the process that calls them. */
static __always_inline void early_start(struct bpf_sock *sk, __u8 role)
{
	struct early_conn fresh = {.role = role};
	struct early_conn *conn;

	held_by_current(&fresh.holder);
	conn = bpf_sk_storage_get(&tcp_conns, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (conn)
		*conn = fresh;
	else
		count(COUNTER_CONNS_REFUSED, 1);
}

static __always_inline void early_established(struct bpf_sock *sk, bool is_passive)
{
	struct early_conn fresh = {.role = ROLE_CONNECTOR};
	struct sock *raw = kernel_sock(sk);
	__u64 address = (__u64)raw;
	struct early_conn *conn;

	conn = bpf_sk_storage_get(&tcp_conns, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn) {
		count(COUNTER_CONNS_REFUSED, 1);
		return;
	}
	if (is_passive) {
		conn->role = ROLE_ACCEPTOR;
		/* Its listener's is not yet its own. */
		held_by_nobody(&conn->holder);
		bpf_map_delete_elem(&accepted_by, &address);
	}
	conn->family = tuple_of_sock(raw, &conn->tuple);
	conn->cookie = bpf_ktime_get_ns() ^ address << 16;
	conn->reported_by = 0;
	conn->is_closed = 0;
	conn->is_established = 1;
}

/* A reset may come before anyone is known to hold the socket: who does will release it. */
static __always_inline void early_closed(struct bpf_sock *sk)
{
	struct early_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	struct sock *raw = kernel_sock(sk);

	if (!conn || !conn->is_established || conn->is_closed)
		return;
	early_read(raw, &conn->final);
	conn->is_closed = 1;
	if (conn->holder.is_known || !release_is_seen || !BPF_CORE_READ(raw, sk_socket) ||
	    BPF_CORE_READ_BITFIELD_PROBED(raw, sk_kern_sock))
		early_report_closed(conn, (__u64)raw);
}

/* The last holder lets go of the socket, in its own context. */
static __always_inline void early_released(struct bpf_sock *sk)
{
	struct early_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);

	if (!conn || !conn->is_established)
		return;
	held_by_current(&conn->holder);
	/* Also when it was: user space knows by the cookie. */
	if (conn->is_closed)
		early_report_closed(conn, (__u64)kernel_sock(sk));
}

static __always_inline void early_accepted(__u64 sk)
{
	struct owner owner = {};

	if (owner_is_current(&owner))
		bpf_map_update_elem(&accepted_by, &sk, &owner, BPF_ANY);
}

/* Once per scan: a walk that has filled the ring is followed by another one. */
static __always_inline void early_report_open(struct sock *sk, struct early_conn *conn)
{
	struct early_totals totals = {};
	struct tcp_total *total;
	__u32 scan = current_scan();
	__u64 address = (__u64)sk;

	if (!conn->is_established || conn->is_closed || conn->reported_by == scan)
		return;
	if (!bpf_map_lookup_elem(&accepted_by, &address) && put_off_once(&conn->holder))
		return;
	early_read(sk, &totals);
	total = bpf_ringbuf_reserve(&tcp_reports, sizeof(*total), 0);
	if (!total)
		return;
	early_fill(total, conn, &totals, address);
	/* It may have closed meanwhile; that has a report of its own. */
	total->delta.closed = 0;
	bpf_ringbuf_submit(total, BPF_RB_NO_WAKEUP);
	conn->reported_by = scan;
}

#endif

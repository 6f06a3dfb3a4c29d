/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * TCP connections. What is known of one lives in its socket and dies with it;
 * byte counts are the kernel's own, read when somebody wants a report.
 *
 * Two programs may report the same connection at once: the one that walks all
 * connections and the one that sees it close. Each takes what was not reported
 * yet with one compare-and-swap per counter, so nothing is reported twice.
 */
#ifndef NET_TCP_BPF_H
#define NET_TCP_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "lib/holder.bpf.h"
#include "lib/sock.bpf.h"
#include "progs/net/listen.bpf.h"

/* skc_flags bit SOCK_DONE: the peer's FIN was received, and counted as one byte. */
#define SOCK_DONE_BIT 1

/* Wake the reader when this much is waiting; it also comes by on its own. */
#define WAKEUP_BYTES (256 * 1024)

/* Set by the loader before load: whether sock_release is attached. */
const volatile __u8 release_is_seen = 0;

/* What the kernel has counted for a connection since it was opened. */
struct tcp_totals {
	__u64 sent;
	__u64 received;
	__u64 retransmits;
	__u32 rtt_us;
	__u32 rtt_var_us;
};

/* Bits of `tcp_conn.life`, each set once and never cleared. */
enum life {
	LIFE_ESTABLISHED = 1,
	LIFE_CLOSED = 2,
	LIFE_OPENING_REPORTED = 4,
	LIFE_CLOSING_REPORTED = 8,
	/* It was there before us, and what it said until then was not seen. */
	LIFE_IS_OLDER = 16,
};

/*
 * Where a connection's HTTP stands. The two directions usually run on two CPUs, so what
 * each packet touches is in one cache line: that of the look-up, whose first 8 bytes are
 * the kernel's.
 */
struct http_stand {
	__u64 asked_at;
	__u64 latency_ns;
	__u64 request_bytes;
	__u64 response_bytes;
	/* Where the next new byte of each direction is, by `enum direction`. */
	__u32 next[2];
	/* An `enum http_state`. */
	__u32 state;
	__u16 status;
	/* The response's version: both digits. */
	__u8 major;
	__u8 minor;
	/* What the connection's bytes are, an `enum http_mode`; how often they were looked at. */
	__u8 mode;
	__u8 looks;
	/* The direction that requests have, an `enum direction`. */
	__u8 asks;
	/* One bit per direction: `next` is known. */
	__u8 known;
	/* The request is CONNECT. */
	__u8 connects;
	/* How far its head goes, an `enum http_head_end`. */
	__u8 head_end;
	__u8 padding[2];
};
_Static_assert(sizeof(struct http_stand) == 56, "http_stand fills a cache line");

struct tcp_conn {
	struct http_stand http;
	struct tuple tuple;
	struct holder holder;
	__u8 family;
	__u8 role;
	__u8 padding[6];
	__u64 life;
	/* How much of the totals was reported. */
	__u64 sent;
	__u64 received;
	__u64 retransmits;
	/* The totals at the end, because the kernel may clear its own. */
	struct tcp_totals final;
};

/*
 * Every TCP socket since its connect() or listen(). An accepted socket starts
 * as a copy of its listener's entry. No limit but the number of sockets.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tcp_conn);
} tcp_conns SEC(".maps");

/* Last reports of closed connections. Full: counted, and left to the walk. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} tcp_closed SEC(".maps");

/*
 * Reports of open connections, which only the walk writes. Full: the connection
 * stays as it is, and the reader empties the ring and walks again. Not a seq_file:
 * its buffer is small, and the kernel starts over from the first socket each time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TCP_REPORTS_BYTES);
} tcp_reports SEC(".maps");

static __always_inline bool tcp_totals_of(struct sock *sk, struct tcp_totals *totals)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 fin;

	if (!tp)
		return false;
	fin = (BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE_BIT) & 1;
	totals->sent = tp->bytes_sent - tp->bytes_retrans;
	totals->received = tp->bytes_received - fin;
	totals->retransmits = tp->total_retrans;
	totals->rtt_us = tp->srtt_us >> 3;
	totals->rtt_var_us = tp->mdev_us >> 2;
	return true;
}

/*
 * Takes what `total` has beyond `before`, the reported part as it was before
 * `total` was read. Gives 0 if somebody else took it in between.
 */
static __always_inline __s64 take(__u64 *reported, __u64 before, __u64 total)
{
	if (total == before)
		return 0;
	if (__sync_val_compare_and_swap(reported, before, total) != before)
		return 0;
	return total - before;
}

/* As `take`, for totals that no longer change: tries again if it came second. */
static __always_inline __s64 take_rest(__u64 *reported, __u64 total)
{
	__s64 taken = 0;

#pragma unroll
	for (int i = 0; i < 3; i++)
		taken += take(reported, *(volatile __u64 *)reported, total);
	return taken;
}

/* Takes the right to report an event that had `happened` when `life` was read. */
static __always_inline __u8 take_event(struct tcp_conn *conn, __u64 life, __u64 happened,
				       __u64 reported)
{
	if ((life & (happened | reported)) != happened)
		return 0;
	return !(__sync_fetch_and_or(&conn->life, reported) & reported);
}

static __always_inline void describe(const struct tcp_conn *conn, struct tcp_delta *delta)
{
	delta->tuple = conn->tuple;
	delta->owner = conn->holder.owner;
	delta->family = conn->family;
	delta->role = conn->role;
	delta->padding = 0;
}

static __always_inline void take_events(struct tcp_conn *conn, __u64 life, struct tcp_delta *delta)
{
	delta->opened = take_event(conn, life, LIFE_ESTABLISHED, LIFE_OPENING_REPORTED);
	delta->closed = take_event(conn, life, LIFE_CLOSED, LIFE_CLOSING_REPORTED);
}

/* The last report of a connection, out of `conn->final`. */
static __always_inline void report_closing(struct tcp_conn *conn)
{
	struct tcp_delta *delta;
	__u64 waiting;

	if (conn->life & LIFE_CLOSING_REPORTED)
		return;
	delta = bpf_ringbuf_reserve(&tcp_closed, sizeof(*delta), 0);
	if (!delta) {
		count(COUNTER_CLOSES_LOST, 1);
		return;
	}
	describe(conn, delta);
	take_events(conn, conn->life, delta);
	delta->sent = take_rest(&conn->sent, conn->final.sent);
	delta->received = take_rest(&conn->received, conn->final.received);
	delta->retransmits = take_rest(&conn->retransmits, conn->final.retransmits);
	delta->rtt_us = conn->final.rtt_us;
	delta->rtt_var_us = conn->final.rtt_var_us;
	waiting = bpf_ringbuf_query(&tcp_closed, BPF_RB_AVAIL_DATA);
	bpf_ringbuf_submit(delta, waiting >= WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* connect() and listen() run in the process that calls them. */
static __always_inline void handle_start(struct sock *sk, __u8 role)
{
	struct tcp_conn fresh = {.role = role};
	struct tcp_conn *conn;

	held_by_current(&fresh.holder);
	/* The socket may have had an earlier life, before connect(AF_UNSPEC). */
	conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	if (conn && (conn->life & LIFE_CLOSED)) {
		held_by_current(&conn->holder);
		report_closing(conn);
	}
	conn = bpf_sk_storage_get(&tcp_conns, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn) {
		count(COUNTER_CONNS_REFUSED, 1);
		return;
	}
	*conn = fresh;
}

/* With TCP Fast Open a server may have answered and closed by now. */
static __always_inline void handle_established(struct sock *sk, int oldstate, int newstate)
{
	struct tcp_conn unknown = {};
	struct tcp_conn *conn;

	conn = bpf_sk_storage_get(&tcp_conns, sk, &unknown, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn) {
		count(COUNTER_CONNS_REFUSED, 1);
		return;
	}
	/* Seen already: see state_again. */
	if (conn->role == ROLE_ACCEPTOR && (conn->life & LIFE_ESTABLISHED))
		return;
	conn->family = tuple_of_sock(sk, &conn->tuple);
	if (conn->role != ROLE_CONNECTOR && oldstate == TCP_SYN_RECV) {
		conn->role = ROLE_ACCEPTOR;
		conn->sent = 0;
		conn->received = 0;
		conn->retransmits = 0;
		held_by_nobody(&conn->holder);
		if (newstate == TCP_FIN_WAIT1)
			held_by_current(&conn->holder);
		conn->life = LIFE_ESTABLISHED;
		return;
	}
	__sync_fetch_and_or(&conn->life, LIFE_ESTABLISHED);
}

/*
 * Whether a process will let go of the socket and be seen doing so. Nobody does
 * if the connection was never accepted, or if the kernel holds it for itself, as
 * it does the parts of a multipath connection.
 */
static __always_inline bool will_be_released(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!release_is_seen || !BPF_CORE_READ(sk, sk_socket) ||
	    BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock))
		return false;
	return tp && !(bpf_core_field_exists(tp->is_mptcp) && BPF_CORE_READ(tp, is_mptcp));
}

static __always_inline void handle_closed(struct sock *sk)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);

	if (!conn || !(conn->life & LIFE_ESTABLISHED))
		return;
	tcp_totals_of(sk, &conn->final);
	__sync_fetch_and_or(&conn->life, LIFE_CLOSED);
	/*
	 * A reset may come before anyone is known to hold the socket. The process
	 * that does will release it, and is known then.
	 */
	if (conn->holder.is_known || !will_be_released(sk))
		report_closing(conn);
}

/* The last holder lets go of the socket, in its own context. */
static __always_inline void handle_release(struct tcp_conn *conn)
{
	held_by_current(&conn->holder);
	if (conn->life & LIFE_CLOSED)
		report_closing(conn);
}

/* A process was found to hold this socket. Creates what is not known yet. */
static __always_inline void handle_held_tcp(struct sock *sk, struct task_struct *task)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct tcp_conn older = {};
	struct tcp_totals totals = {};

	if (conn) {
		held_by(&conn->holder, task);
		return;
	}
	if (state == TCP_CLOSE || state == TCP_SYN_SENT || state == TCP_NEW_SYN_RECV)
		return;
	held_by(&older.holder, task);
	if (state == TCP_LISTEN) {
		older.role = ROLE_LISTENER;
	} else {
		if (!tcp_totals_of(sk, &totals))
			return;
		older.family = tuple_of_sock(sk, &older.tuple);
		older.role = is_listened(&older.tuple) ? ROLE_ACCEPTOR : ROLE_CONNECTOR;
		older.life = LIFE_ESTABLISHED | LIFE_OPENING_REPORTED | LIFE_IS_OLDER;
		older.sent = totals.sent;
		older.received = totals.received;
		older.retransmits = totals.retransmits;
	}
	if (!bpf_sk_storage_get(&tcp_conns, sk, &older, BPF_SK_STORAGE_GET_F_CREATE))
		count(COUNTER_CONNS_REFUSED, 1);
}

/* Reports what one connection did since it was last reported, if anything. */
static __always_inline void report_open(struct sock *sk, struct tcp_conn *conn)
{
	__u64 sent, received, retransmits, life;
	struct tcp_totals totals = {};
	struct tcp_delta *delta;

	if (!(conn->life & LIFE_ESTABLISHED))
		return;
	/* The reported parts first: see take(). */
	life = *(volatile __u64 *)&conn->life;
	sent = *(volatile __u64 *)&conn->sent;
	received = *(volatile __u64 *)&conn->received;
	retransmits = *(volatile __u64 *)&conn->retransmits;
	if (life & LIFE_CLOSED)
		totals = conn->final;
	else if (!tcp_totals_of(sk, &totals))
		return;
	/* Retransmissions alone make no report; they go along with the next one. */
	if (totals.sent == sent && totals.received == received && (life & LIFE_OPENING_REPORTED) &&
	    (!(life & LIFE_CLOSED) || (life & LIFE_CLOSING_REPORTED)))
		return;
	if (!(life & LIFE_CLOSED) && put_off_once(&conn->holder))
		return;
	delta = bpf_ringbuf_reserve(&tcp_reports, sizeof(*delta), 0);
	if (!delta)
		return;
	describe(conn, delta);
	take_events(conn, life, delta);
	delta->sent = take(&conn->sent, sent, totals.sent);
	delta->received = take(&conn->received, received, totals.received);
	delta->retransmits = take(&conn->retransmits, retransmits, totals.retransmits);
	delta->rtt_us = totals.rtt_us;
	delta->rtt_var_us = totals.rtt_var_us;
	bpf_ringbuf_submit(delta, BPF_RB_NO_WAKEUP);
}

#endif

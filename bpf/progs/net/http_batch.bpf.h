/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * From exchanges that have ended to records in the rings.
 *
 * Many clients ask for the same thing over and over. Exchanges of a connection whose requests are
 * equal byte for byte and whose status is the same are one record, a batch, with their number and
 * their sums. It is let go of when an exchange differs, when the connection is closed or
 * handed over, and when the walk comes by, which is before each report.
 *
 * Who ends the exchange that is open takes it by an atomic exchange of `state`; who changes the
 * batch has taken `is_taken`. Nobody waits for that for long: a program may have interrupted the
 * one that has it. Who does not get it lets an exchange go as a record of its own, and has user
 * space follow the connection from there on.
 */
#ifndef NET_HTTP_BATCH_BPF_H
#define NET_HTTP_BATCH_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/http_conn.bpf.h"

/* Wake the reader whenever another so many bytes are waiting. */
#define HTTP_WAKEUP_BYTES (1024 * 1024)
/* No more than this is added to the ring between two looks at how full it is. */
#define HTTP_WAKEUP_SLACK (8 * (sizeof(struct http_exchange) + HTTP_HEAD_BYTES))

/*
 * Exchanges that have ended, by who asked: the two ends of a conversation on this host
 * run on two CPUs, which would get in each other's way. Full: counted, and lost.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HTTP_EXCHANGES_BYTES);
} http_incoming SEC(".maps"), http_outgoing SEC(".maps");

/* The number of the walk, which user space sets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} http_walk_number SEC(".maps");

static __always_inline __u64 wakeup_flags(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	if (waiting < HTTP_WAKEUP_BYTES || waiting % HTTP_WAKEUP_BYTES >= HTTP_WAKEUP_SLACK)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

/* A walk leaves half of the ring to others. */
static __always_inline bool has_room(const struct http_conn *http)
{
	__u64 waiting = http->batch.way == HTTP_INCOMING
				? bpf_ringbuf_query(&http_incoming, BPF_RB_AVAIL_DATA)
				: bpf_ringbuf_query(&http_outgoing, BPF_RB_AVAIL_DATA);

	return waiting < HTTP_EXCHANGES_BYTES / 2;
}

static __always_inline bool take_batch(struct http_conn *http)
{
	return !__sync_lock_test_and_set(&http->is_taken, 1);
}

/* Tries so often that only one on this very CPU can be in the way. */
static __always_inline bool take_batch_firmly(struct http_conn *http)
{
	for (int i = 0; i < 64; i++)
		if (take_batch(http))
			return true;
	return false;
}

static __always_inline void give_batch_back(struct http_conn *http)
{
#ifdef __TARGET_ARCH_x86
	/* Stores become visible in their order there, without a word. */
	barrier();
	*(volatile __u32 *)&http->is_taken = 0;
#else
	__sync_lock_test_and_set(&http->is_taken, 0);
#endif
}

/* What records of a connection have in common. */
static __always_inline void describe_exchange(struct http_exchange *exchange,
					      const struct tcp_conn *conn)
{
	exchange->tuple = conn->tuple;
	exchange->owner = conn->holder.owner;
	exchange->family = conn->family;
}

/* The exchange that was open, as the first of `exchange`. */
static __always_inline void begin_with_open(struct http_exchange *exchange,
					    const struct http_stand *stand)
{
	exchange->count = 1;
	exchange->major = stand->major;
	exchange->minor = stand->minor;
	exchange->status = stand->status;
	exchange->latency_ns = stand->latency_ns;
	exchange->request_bytes = stand->request_bytes;
	exchange->response_bytes = stand->response_bytes;
}

/* Lets go of the batch, if there is one. The caller has taken it. */
__noinline int http_flush(const struct tcp_conn *conn, struct http_conn *http)
{
	struct http_exchange *batch;
	__u32 captured;
	long failed;

	if (!conn || !http)
		return 0;
	batch = &http->batch;
	captured = batch->captured;
	if (!batch->count || captured > HTTP_HEAD_BYTES)
		return 0;
	describe_exchange(batch, conn);
	if (batch->way == HTTP_INCOMING)
		failed = bpf_ringbuf_output(&http_incoming, batch, sizeof(*batch) + captured,
					    wakeup_flags(&http_incoming));
	else
		failed = bpf_ringbuf_output(&http_outgoing, batch, sizeof(*batch) + captured,
					    wakeup_flags(&http_outgoing));
	if (failed)
		count(COUNTER_HTTP_LOST, batch->count);
	batch->count = 0;
	return 0;
}

/* The exchange that was open is let go of alone. */
__noinline int http_emit_alone(const struct tcp_conn *conn, const struct http_conn *http)
{
	struct {
		struct http_exchange exchange;
		__u8 head[HTTP_HEAD_BYTES];
	} * record;

	if (!conn || !http)
		return 0;
	record = bpf_ringbuf_reserve(&http_incoming, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_HTTP_LOST, 1);
		return 0;
	}
	describe_exchange(&record->exchange, conn);
	begin_with_open(&record->exchange, &conn->http);
	record->exchange.way = http->batch.way;
	record->exchange.cookie = http->batch.cookie;
	record->exchange.captured = http->batch.captured;
	__builtin_memcpy(record->head, http->head, sizeof(record->head));
	bpf_ringbuf_submit(record, wakeup_flags(&http_incoming));
	return 0;
}

/* Takes the exchange that is open, if it was answered. */
static __always_inline bool take_answered(struct http_stand *stand)
{
	return __sync_lock_test_and_set(&stand->state, HTTP_IDLE) == HTTP_ANSWERED;
}

/* The exchange that was open goes into the batch, which the caller has taken. */
static __always_inline void http_add(const struct tcp_conn *conn, struct http_conn *http)
{
	const struct http_stand *stand = &conn->http;
	struct http_exchange *batch = &http->batch;

	if (batch->count && batch->status == stand->status && batch->major == stand->major &&
	    batch->minor == stand->minor && batch->request_bytes == stand->request_bytes) {
		batch->count++;
		batch->latency_ns += stand->latency_ns;
		batch->response_bytes += stand->response_bytes;
		return;
	}
	http_flush(conn, http);
	begin_with_open(batch, stand);
}

/* The exchange that was open goes into the batch, or by itself if somebody else has that. */
static __always_inline void http_add_or_emit(const struct tcp_conn *conn, struct http_conn *http,
					     bool is_taken)
{
	if (is_taken)
		http_add(conn, http);
	else
		http_emit_alone(conn, http);
}

/* Lets go of the batch, and of the exchange that was open if it is the caller's now. */
static __always_inline void http_let_go(const struct tcp_conn *conn, struct http_conn *http,
					bool is_answered, bool is_taken)
{
	if (is_answered)
		http_add_or_emit(conn, http, is_taken);
	if (is_taken) {
		http_flush(conn, http);
		give_batch_back(http);
	}
}

/* Lets go of everything that has ended. */
static __always_inline void http_end(struct tcp_conn *conn, struct http_conn *http)
{
	bool is_taken = take_batch_firmly(http);

	http_let_go(conn, http, take_answered(&conn->http), is_taken);
}

#endif

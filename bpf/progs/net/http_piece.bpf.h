/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Connections that user space follows: every packet as a piece of a stream.
 */
#ifndef NET_HTTP_PIECE_BPF_H
#define NET_HTTP_PIECE_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/http_batch.bpf.h"
#include "progs/net/http_conn.bpf.h"

static __always_inline void describe_piece(struct http_piece *piece, const struct tcp_conn *conn,
					   const struct http_conn *http)
{
	piece->tuple = conn->tuple;
	piece->owner = conn->holder.owner;
	piece->family = conn->family;
	piece->way = http->batch.way;
	piece->is_request = 0;
	piece->cookie = http->batch.cookie;
	piece->captured = 0;
	piece->head_end = HEAD_HAS_ENDED;
}

/*
 * Ships a part of a packet in a record with room for `size` bytes. The room is a constant:
 * the verifier wants to know how large a record is.
 */
#define SHIP(size)                                                                                 \
	do {                                                                                       \
		struct {                                                                           \
			struct http_piece piece;                                                   \
			__u8 bytes[size];                                                          \
		} *record = bpf_ringbuf_reserve(&http_pieces, sizeof(*record), 0);                 \
		if (!record) {                                                                     \
			count(COUNTER_HTTP_LOST, 1);                                               \
			return 0;                                                                  \
		}                                                                                  \
		describe_piece(&record->piece, conn, http);                                        \
		record->piece.kind = PIECE_BYTES;                                                  \
		record->piece.is_request = way == conn->http.asks;                                 \
		record->piece.time_ns = time_of(skb, way);                                         \
		record->piece.seq = segment.seq + start;                                           \
		record->piece.len = is_last ? left : part;                                         \
		if (copy_bytes(skb, segment.offset + start, record->bytes, part, size))            \
			record->piece.captured = part;                                             \
		bpf_ringbuf_submit(record, wakeup_flags(&http_pieces));                            \
	} while (0)

/* Ships one part of a packet: whether there are more. Global, so that it is verified once. */
__noinline int http_ship_part(struct __sk_buff *skb, const struct tcp_conn *conn,
			      const struct http_conn *http, __u32 start, enum direction way)
{
	struct segment segment;
	__u32 left, part;
	bool is_last;

	if (!conn || !http || !read_segment(skb, &segment) || start >= segment.len)
		return 0;
	left = segment.len - start;
	part = left < HTTP_PIECE_BYTES ? left : HTTP_PIECE_BYTES;
	is_last = start >= (HTTP_MOST_PIECES - 1) * HTTP_PIECE_BYTES;
	if (part <= 256)
		SHIP(256);
	else
		SHIP(HTTP_PIECE_BYTES);
	return left > part;
}

/* Ships a packet, or as much of it as is allowed; what it holds is for user space to find out. */
__noinline int http_ship(struct __sk_buff *skb, const struct tcp_conn *conn,
			 const struct http_conn *http, enum direction way)
{
	if (!conn || !http)
		return 0;
	for (__u32 i = 0; i < HTTP_MOST_PIECES; i++)
		if (!http_ship_part(skb, conn, http, i * HTTP_PIECE_BYTES, way))
			break;
	return 0;
}

/* Ships what is known of the request that is open. */
__noinline int http_ship_earlier(const struct tcp_conn *conn, const struct http_conn *http)
{
	struct {
		struct http_piece piece;
		__u8 bytes[HTTP_HEAD_BYTES];
	} * record;

	if (!conn || !http)
		return 0;
	record = bpf_ringbuf_reserve(&http_pieces, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_HTTP_LOST, 1);
		return 0;
	}
	describe_piece(&record->piece, conn, http);
	record->piece.kind = PIECE_EARLIER;
	record->piece.is_request = 1;
	record->piece.time_ns = conn->http.asked_at;
	record->piece.seq = http->asked_seq;
	record->piece.len = conn->http.request_bytes;
	record->piece.head_end = conn->http.head_end;
	record->piece.captured = http->batch.captured;
	__builtin_memcpy(record->bytes, http->head, sizeof(record->bytes));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* From this packet on, user space follows. What has ended before comes before it in the rings. */
static __always_inline void http_hand_over(struct __sk_buff *skb, struct tcp_conn *conn,
					   struct http_conn *http, enum direction way)
{
	__u32 state;

	/* In this order: who finds the request gone finds the new mode. */
	conn->http.mode = HTTP_HANDED_OVER;
	state = __sync_lock_test_and_set(&conn->http.state, HTTP_IDLE);
	/* It may have been answered a moment ago. Who has the batch is about to let go of it. */
	http_let_go(conn, http, state == HTTP_ANSWERED, take_batch(http));
	if (state == HTTP_ASKED)
		http_ship_earlier(conn, http);
	http_ship(skb, conn, http, way);
}

#endif

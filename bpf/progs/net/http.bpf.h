/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * HTTP/1 exchanges, out of the packets of local sockets.
 *
 *   packet -> its bytes that are new and in order -> request or response side
 *   request head        -> the exchange before it has ended: added up; remembered
 *   first response byte -> status, latency
 *   other bytes         -> counted
 *   close, idle walk    -> the last exchange has ended: into the ring, with what was added up
 *
 * Where one packet does not tell enough (a request line that is split, a second
 * request before the first is answered, HTTP/2), the connection is handed over to user
 * space for good: every packet goes into another ring as a piece.
 *
 * What is known of a connection lives in its socket. A connection that does not
 * speak HTTP costs one look-up per packet. Both programs may run at once for one
 * socket: the request side and the response side write different fields, and who
 * takes the exchange out is decided by one atomic exchange of `state`.
 */
#ifndef NET_HTTP_BPF_H
#define NET_HTTP_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/http_batch.bpf.h"
#include "progs/net/http_conn.bpf.h"
#include "progs/net/http_head.bpf.h"
#include "progs/net/http_piece.bpf.h"

static __always_inline struct http_conn *http_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_storage_get(&http_conns, sk, NULL, 0) : NULL;
}

/* Remembers the head of a request. False if user space must follow it. */
static __always_inline bool remember_head(struct __sk_buff *skb, struct http_conn *http,
					  struct http_stand *stand, const struct segment *segment,
					  enum http_token token)
{
	__u32 captured = segment->len;

	if (token == TOKEN_WITHOUT_BODY && captured > HTTP_LINE_BYTES)
		captured = HTTP_LINE_BYTES;
	if (captured > HTTP_HEAD_BYTES)
		captured = HTTP_HEAD_BYTES;
	if (captured < 8 ||
	    !copy_bytes(skb, segment->offset, http->head, captured, sizeof(http->head)))
		return false;
	http->batch.captured = captured;
	return is_simple(skb, http, stand, segment, token);
}

static __always_inline void http_asked(struct __sk_buff *skb, struct http_stand *stand,
				       struct http_conn *http, const struct segment *segment,
				       enum direction way)
{
	http->asked_seq = segment->seq;
	stand->request_bytes = segment->len;
	stand->response_bytes = 0;
	stand->connects = http->head[0] == 'C';
	stand->asked_at = time_of(skb, way);
	stand->state = HTTP_ASKED;
}

/* The other side may have handed the connection over after this packet was taken in hand. */
static __always_inline void
http_ship_if_handed_over(struct __sk_buff *skb, const struct tcp_conn *conn, enum direction way)
{
	struct http_conn *http;

	if (*(volatile __u8 *)&conn->http.mode != HTTP_HANDED_OVER)
		return;
	http = http_of(skb);
	if (http)
		http_ship(skb, conn, http, way);
}

/* While a request is open: its rest. */
static __always_inline void http_asks_on(struct __sk_buff *skb, struct tcp_conn *conn,
					 const struct segment *segment, enum direction way)
{
	struct http_stand *stand = &conn->http;
	struct http_conn *http = NULL;
	bool is_rest;

	if (stand->head_end == HEAD_HAS_ENDED) {
		enum http_token token = token_at(skb, segment);

		/* Or else another request, or a body that looks like one. */
		is_rest = token == TOKEN_NONE || token == TOKEN_SHORT;
	} else {
		http = http_of(skb);
		is_rest = http && stays_simple(skb, http, stand, segment);
	}
	if (is_rest) {
		stand->request_bytes += segment->len + segment->missed;
		http_ship_if_handed_over(skb, conn, way);
		return;
	}
	if (!http)
		http = http_of(skb);
	if (http)
		http_hand_over(skb, conn, http, way);
}

static __always_inline void http_request_side(struct __sk_buff *skb, struct tcp_conn *conn,
					      const struct segment *segment, enum direction way)
{
	struct http_stand *stand = &conn->http;
	enum http_token token;
	struct http_conn *http;
	bool is_followed;

	if (stand->state == HTTP_ASKED) {
		http_asks_on(skb, conn, segment, way);
		return;
	}
	http = http_of(skb);
	if (!http)
		return;
	token = look_at(skb, http, segment);
	if (token == TOKEN_NONE || (token == TOKEN_SHORT && stand->state != HTTP_IDLE)) {
		stand->request_bytes += segment->len + segment->missed;
		return;
	}
	/* A request may begin here, and what was before it has ended. */
	is_followed = take_batch(http);
	if (take_answered(stand))
		http_add_or_emit(conn, http, is_followed);
	if (is_followed) {
		if (!is_repeated(http, segment, token)) {
			http_flush(conn, http);
			is_followed = token < TOKEN_PREFACE &&
				      remember_head(skb, http, stand, segment, token);
		}
		give_batch_back(http);
	}
	if (is_followed)
		http_asked(skb, stand, http, segment, way);
	else
		http_hand_over(skb, conn, http, way);
}

/* The packet in which the owner writes is sent while it holds the socket's lock. */
static __always_inline void learn_holder(struct tcp_conn *conn, struct sock *sk)
{
	if (!conn->holder.is_known && BPF_CORE_READ(sk, sk_lock.owned))
		held_by_current(&conn->holder);
}

/* The request that is open has come to something; false if it was handed over meanwhile. */
static __always_inline bool take_asked(struct http_stand *stand, enum http_state state)
{
	return __sync_val_compare_and_swap(&stand->state, HTTP_ASKED, state) == HTTP_ASKED;
}

static __always_inline void http_response_side(struct __sk_buff *skb, struct tcp_conn *conn,
					       const struct segment *segment, enum direction way)
{
	struct http_stand *stand = &conn->http;
	__u8 line[STATUS_LINE_BYTES] = {};
	struct http_conn *http;
	__u32 status;

	if (stand->state != HTTP_ASKED) {
		stand->response_bytes += segment->len + segment->missed;
		http_ship_if_handed_over(skb, conn, way);
		return;
	}
	if (segment->len < sizeof(line)) {
		if (bpf_skb_load_bytes(skb, segment->offset, line, 1) || line[0] != 'H')
			goto not_understood;
		goto hand_over;
	}
	if (bpf_skb_load_bytes(skb, segment->offset, line, sizeof(line)))
		goto not_understood;
	if (line[0] != 'H' || line[1] != 'T' || line[2] != 'T' || line[3] != 'P' ||
	    line[4] != '/' || !is_digit(line[5]) || line[6] != '.' || !is_digit(line[7]) ||
	    line[8] != ' ' || !is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]))
		goto not_understood;
	status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
	if (status >= 100 && status < 200) {
		/* Another response follows; maybe in the same packet. */
		if (status == 100 && segment->len == CONTINUE_BYTES) {
			stand->response_bytes += segment->len;
			return;
		}
		if (status != 101 || mentions_h2c(skb))
			goto hand_over;
	}
	stand->latency_ns = time_of(skb, way) - stand->asked_at;
	stand->response_bytes += segment->len;
	stand->status = status;
	stand->major = line[5] - '0';
	stand->minor = line[7] - '0';
	if (way == EGRESS && !conn->holder.is_known && skb->sk)
		learn_holder(conn, kernel_sock(skb->sk));
	if (!take_asked(stand, HTTP_ANSWERED)) {
		http_ship_if_handed_over(skb, conn, way);
		return;
	}
	/* What follows is another protocol: after CONNECT, too. */
	if (status == 101 || (stand->connects && status >= 200 && status < 300)) {
		http = http_of(skb);
		if (http)
			http_end(conn, http);
		stand->mode = HTTP_OTHER;
	}
	return;
hand_over:
	http = http_of(skb);
	if (http)
		http_hand_over(skb, conn, http, way);
	return;
not_understood:
	if (take_asked(stand, HTTP_IDLE))
		count(COUNTER_HTTP_NOT_UNDERSTOOD, 1);
	else
		http_ship_if_handed_over(skb, conn, way);
}

/*
 * Leaves of a packet what is new and follows what is known; false if nothing does.
 * Bytes that never come by are given up once the kernel itself has them.
 */
static __always_inline bool in_order(struct http_stand *stand, struct segment *segment,
				     struct __sk_buff *skb, enum direction way)
{
	__s32 ahead = segment->seq - stand->next[way];

	if (!(stand->known & 1 << way)) {
		stand->known |= 1 << way;
	} else if (ahead < 0) {
		if (ahead + (__s32)segment->len <= 0)
			return false;
		segment->offset -= ahead;
		segment->len += ahead;
		segment->seq = stand->next[way];
	} else if (ahead > 0) {
		if (way == INGRESS && skb->sk) {
			struct tcp_sock *tp = (struct tcp_sock *)kernel_sock(skb->sk);

			if ((__s32)(BPF_CORE_READ(tp, rcv_nxt) - stand->next[way]) <= 0)
				return false;
		}
		segment->missed = ahead;
		if (stand->state == HTTP_ASKED) {
			count(COUNTER_HTTP_NOT_UNDERSTOOD, 1);
			stand->state = HTTP_IDLE;
		}
	}
	stand->next[way] = segment->seq + segment->len;
	return true;
}

/* The first bytes of a connection that were seen: does it speak HTTP? */
static __noinline int http_decide(struct __sk_buff *skb, struct tcp_conn *conn, enum direction way)
{
	struct segment segment;
	struct http_conn *http;
	enum http_token token;
	struct bpf_sock *sk;

	if (!conn || !read_segment(skb, &segment))
		return 0;
	/* One that was there before us may be in the middle of anything. */
	bool is_older = conn->life & LIFE_IS_OLDER;

	token = token_at(skb, &segment);
	if (token == TOKEN_NONE || (is_older && token >= TOKEN_PREFACE)) {
		if ((is_older && conn->http.looks < HTTP_MOST_LOOKS) ||
		    (conn->http.looks < HTTP_MOST_GREETINGS && greets(skb, &segment)))
			conn->http.looks++;
		else
			conn->http.mode = HTTP_OTHER;
		return 0;
	}
	sk = skb->sk;
	if (!sk)
		return 0;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!http) {
		count(COUNTER_HTTP_CONNS_REFUSED, 1);
		conn->http.mode = HTTP_OTHER;
		return 0;
	}
	conn->http.mode = HTTP_FOLLOWED;
	conn->http.state = HTTP_IDLE;
	conn->http.asks = way;
	conn->http.known = 1 << way;
	conn->http.next[way & 1] = segment.seq + segment.len;
	http->batch.cookie = bpf_get_socket_cookie(skb);
	http->batch.way = way == EGRESS ? HTTP_OUTGOING : HTTP_INCOMING;
	if (token < TOKEN_PREFACE && remember_head(skb, http, &conn->http, &segment, token))
		http_asked(skb, &conn->http, http, &segment, way);
	else
		http_hand_over(skb, conn, http, way);
	return 0;
}

static __always_inline void handle_http(struct __sk_buff *skb, enum direction way)
{
	struct segment segment;
	struct http_conn *http;
	struct tcp_conn *conn;
	struct bpf_sock *sk;

	if (!http_enabled || !read_segment(skb, &segment))
		return;
	sk = skb->sk;
	if (!sk)
		return;
	/* Gives nothing for what is not a whole socket. */
	conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	if (!conn || conn->http.mode == HTTP_OTHER)
		return;
	if (conn->http.mode == HTTP_UNDECIDED) {
		if (conn->role != ROLE_LISTENER)
			http_decide(skb, conn, way);
		return;
	}
	if (conn->http.mode == HTTP_HANDED_OVER) {
		if (way == EGRESS)
			learn_holder(conn, kernel_sock(sk));
		http = http_of(skb);
		if (http)
			http_ship(skb, conn, http, way);
		return;
	}
	if (!in_order(&conn->http, &segment, skb, way))
		return;
	if (conn->http.asks == way)
		http_request_side(skb, conn, &segment, way);
	else
		http_response_side(skb, conn, &segment, way);
}

/* The connection was closed, so its last exchange has ended. */
static __always_inline void http_closed(struct sock *sk)
{
	struct http_piece *piece;
	struct tcp_conn *conn;
	struct http_conn *http;

	if (!http_enabled)
		return;
	conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	if (!conn || conn->http.mode < HTTP_FOLLOWED)
		return;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	if (!http)
		return;
	http_end(conn, http);
	if (conn->http.mode == HTTP_FOLLOWED)
		return;
	piece = bpf_ringbuf_reserve(&http_pieces, sizeof(*piece), 0);
	if (!piece) {
		count(COUNTER_HTTP_LOST, 1);
		return;
	}
	describe_piece(piece, conn, http);
	piece->kind = PIECE_CLOSED;
	piece->time_ns = bpf_ktime_get_ns();
	piece->seq = 0;
	piece->len = 0;
	bpf_ringbuf_submit(piece, wakeup_flags(&http_pieces));
	conn->http.mode = HTTP_OTHER;
}

/*
 * Lets go of what was added up. An exchange that was answered and has been quiet since the last
 * walk has ended. If there is no room, the walk has to be gone on with: see
 * httpflow's collect.rs.
 */
static __always_inline void http_walk(struct sock *sk, struct http_conn *http)
{
	__u32 zero = 0, *walk = bpf_map_lookup_elem(&http_walk_number, &zero);
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	__u64 bytes;

	if (!conn || !walk || http->walked == *walk || !has_room(http))
		return;
	http->walked = *walk;
	bytes = conn->http.request_bytes + conn->http.response_bytes;
	if (conn->http.state == HTTP_ANSWERED && http->walked_bytes == bytes) {
		http_end(conn, http);
	} else if (take_batch_firmly(http)) {
		http_flush(conn, http);
		give_batch_back(http);
	}
	http->walked_bytes = bytes;
}

#endif

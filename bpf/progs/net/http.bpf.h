/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * HTTP/1 exchanges, out of the packets of local sockets.
 *
 *   packet -> its bytes that are new and in order -> request or response side
 *   request head        -> the exchange before it has ended: into the ring; remembered
 *   first response byte -> status, latency
 *   other bytes         -> counted
 *   close, idle walk    -> the last exchange has ended: into the ring
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
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/tcp.bpf.h"
#include "progs/net/udp.bpf.h"

/* Wake the reader whenever another so many bytes are waiting. */
#define HTTP_WAKEUP_BYTES (1024 * 1024)
/* No more than this is added to the ring between two looks at how full it is. */
#define HTTP_WAKEUP_SLACK (8 * (sizeof(struct http_exchange) + HTTP_HEAD_BYTES))

/* Packets of a connection that is older than the collector to look at for a request. */
#define HTTP_MOST_LOOKS 255

/* Set by the loader before load: whether httpflow is wanted. */
const volatile __u8 http_enabled = 0;

/* What `tcp_conn.http` says. */
enum http_mode {
	HTTP_UNDECIDED = 0,
	HTTP_OTHER = 1,
	HTTP_FOLLOWED = 2,
};

enum http_state {
	/* No request, or one that was given up. */
	HTTP_IDLE = 0,
	/* A request whose response has not begun. */
	HTTP_ASKED = 1,
	/* A response whose head was seen. */
	HTTP_ANSWERED = 2,
};

/* One direction of a connection: where its next new byte is. */
struct http_side {
	__u32 next;
	__u32 is_known;
};

struct http_conn {
	__u32 state;
	/* The direction that requests have, an `enum direction`. */
	__u32 asks;
	struct http_side sides[2];
	__u64 asked_at;
	/* Bytes seen when the last walk came by. */
	__u64 walked;
	/* The record, and what follows it in the ring. */
	struct http_exchange exchange;
	__u8 head[HTTP_HEAD_BYTES];
	/* Room behind the head for a word of zeros. */
	__u64 end;
};

/* Connections that speak HTTP. No limit but the number of sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http_conn);
} http_conns SEC(".maps");

/* Exchanges that have ended. Full: counted, and the exchange is lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HTTP_EXCHANGES_BYTES);
} http_exchanges SEC(".maps");

/* The payload of a packet: where it is in the packet and in its direction's stream. */
struct segment {
	__u32 seq;
	__u32 offset;
	__u32 len;
};

static __always_inline bool read_segment(struct __sk_buff *skb, struct segment *segment)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	const __u8 *tcp;
	__u32 ip_len;

	if (data + sizeof(struct ipv4_header) > end)
		return false;
	ip_len = data[0] >> 4 == 4 ? (data[0] & 15) * 4 : sizeof(struct ipv6_header);
	tcp = data + ip_len;
	if (tcp + 20 > end)
		return false;
	segment->offset = ip_len + (tcp[12] >> 4) * 4;
	if (skb->len <= segment->offset)
		return false;
	segment->len = skb->len - segment->offset;
	segment->seq = bpf_ntohl(*(const __u32 *)(tcp + 4));
	/* The SYN has a number of its own. */
	if (tcp[13] & 2)
		segment->seq++;
	return true;
}

static __always_inline __u64 wakeup_flags(void)
{
	__u64 waiting = bpf_ringbuf_query(&http_exchanges, BPF_RB_AVAIL_DATA);

	if (waiting < HTTP_WAKEUP_BYTES || waiting % HTTP_WAKEUP_BYTES >= HTTP_WAKEUP_SLACK)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

/* The exchange has ended: out with it, if it was answered. */
static __always_inline void http_emit(struct tcp_conn *conn, struct http_conn *http)
{
	struct http_exchange *exchange = &http->exchange;
	__u32 captured;

	if (__sync_lock_test_and_set(&http->state, HTTP_IDLE) != HTTP_ANSWERED)
		return;
	exchange->tuple = conn->tuple;
	exchange->owner = conn->holder.owner;
	exchange->family = conn->family;
	captured = exchange->captured;
	if (captured > HTTP_HEAD_BYTES)
		return;
	if (bpf_ringbuf_output(&http_exchanges, exchange, sizeof(*exchange) + captured,
			       wakeup_flags()))
		count(COUNTER_HTTP_LOST, 1);
}

#define WORD(a, b, c, d, e, f, g, h)                                                               \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define BYTES(count) (~0ULL >> (64 - 8 * (count)))

/* How a request may begin; those with a body as a rule are the last ones. */
enum http_token {
	TOKEN_NONE,
	TOKEN_WITHOUT_BODY,
	TOKEN_WITH_BODY,
	TOKEN_CONNECT,
};

static __always_inline bool starts_target(__u8 byte)
{
	return byte == '/' || (byte | 0x20) == 'h';
}

/* Whether these first eight bytes may begin a request: a method and how a target begins. */
static __always_inline enum http_token token_of(__u64 word)
{
	if ((word & BYTES(4)) == WORD('G', 'E', 'T', ' ', 0, 0, 0, 0))
		return starts_target(word >> 32) ? TOKEN_WITHOUT_BODY : TOKEN_NONE;
	if ((word & BYTES(5)) == WORD('P', 'O', 'S', 'T', ' ', 0, 0, 0))
		return starts_target(word >> 40) ? TOKEN_WITH_BODY : TOKEN_NONE;
	if ((word & BYTES(4)) == WORD('P', 'U', 'T', ' ', 0, 0, 0, 0))
		return starts_target(word >> 32) ? TOKEN_WITH_BODY : TOKEN_NONE;
	if ((word & BYTES(5)) == WORD('H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return starts_target(word >> 40) ? TOKEN_WITHOUT_BODY : TOKEN_NONE;
	if ((word & BYTES(6)) == WORD('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
		return starts_target(word >> 48) ? TOKEN_WITH_BODY : TOKEN_NONE;
	if ((word & BYTES(7)) == WORD('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return starts_target(word >> 56) ? TOKEN_WITH_BODY : TOKEN_NONE;
	if ((word & BYTES(6)) == WORD('T', 'R', 'A', 'C', 'E', ' ', 0, 0))
		return starts_target(word >> 48) ? TOKEN_WITHOUT_BODY : TOKEN_NONE;
	if (word == WORD('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
		return TOKEN_WITH_BODY;
	if (word == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		return TOKEN_CONNECT;
	return TOKEN_NONE;
}

static __always_inline __u64 first_word(struct __sk_buff *skb, const struct segment *segment)
{
	__u64 word = 0;

	if (segment->len >= sizeof(word))
		bpf_skb_load_bytes(skb, segment->offset, &word, sizeof(word));
	return word;
}

/* A request begins; what was before it has ended. */
static __always_inline void http_ask(struct __sk_buff *skb, struct http_conn *http,
				     const struct segment *segment, enum direction way)
{
	struct http_exchange *exchange = &http->exchange;
	__u32 captured = segment->len;

	if (captured > HTTP_HEAD_BYTES)
		captured = HTTP_HEAD_BYTES;
	if (captured < 8 || bpf_skb_load_bytes(skb, segment->offset, http->head, captured))
		return;
	exchange->captured = captured;
	exchange->way = way == EGRESS ? HTTP_OUTGOING : HTTP_INCOMING;
	exchange->request_bytes = segment->len;
	exchange->response_bytes = 0;
	http->asked_at = bpf_ktime_get_ns();
	http->state = HTTP_ASKED;
}

static __always_inline void http_request_side(struct __sk_buff *skb, struct tcp_conn *conn,
					      struct http_conn *http, const struct segment *segment,
					      enum direction way)
{
	__u32 state = http->state;

	if (token_of(first_word(skb, segment)) != TOKEN_NONE) {
		if (state == HTTP_ASKED) {
			count(COUNTER_HTTP_NOT_UNDERSTOOD, 1);
			http->state = HTTP_IDLE;
			return;
		}
		http_emit(conn, http);
		http_ask(skb, http, segment, way);
		return;
	}
	if (state != HTTP_IDLE)
		http->exchange.request_bytes += segment->len;
}

#define STATUS_LINE_BYTES 16

static __always_inline bool is_digit(__u8 byte)
{
	return byte >= '0' && byte <= '9';
}

/* The packet in which the owner writes is sent while it holds the socket's lock. */
static __always_inline void learn_holder(struct tcp_conn *conn, struct bpf_sock *sk)
{
	if (!conn->holder.is_known && BPF_CORE_READ(kernel_sock(sk), sk_lock.owned))
		held_by_current(&conn->holder);
}

static __always_inline void http_response_side(struct __sk_buff *skb, struct tcp_conn *conn,
					       struct http_conn *http,
					       const struct segment *segment, enum direction way,
					       struct bpf_sock *sk)
{
	struct http_exchange *exchange = &http->exchange;
	__u8 line[STATUS_LINE_BYTES] = {};
	__u32 status;

	if (http->state == HTTP_ANSWERED) {
		exchange->response_bytes += segment->len;
		return;
	}
	if (http->state != HTTP_ASKED)
		return;
	if (segment->len < STATUS_LINE_BYTES ||
	    bpf_skb_load_bytes(skb, segment->offset, line, sizeof(line)))
		return;
	if (line[0] != 'H' || line[1] != 'T' || line[2] != 'T' || line[3] != 'P' ||
	    line[4] != '/' || !is_digit(line[5]) || line[6] != '.' || !is_digit(line[7]) ||
	    line[8] != ' ' || !is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]))
		return;
	status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
	exchange->response_bytes += segment->len;
	if (status >= 100 && status < 200 && status != 101)
		return;
	exchange->latency_ns = bpf_ktime_get_ns() - http->asked_at;
	exchange->status = status;
	exchange->major = line[5] - '0';
	exchange->minor = line[7] - '0';
	if (way == EGRESS)
		learn_holder(conn, sk);
	http->state = HTTP_ANSWERED;
	if (status == 101) {
		http_emit(conn, http);
		conn->http = HTTP_OTHER;
	}
}

/*
 * Leaves of a packet what is new and follows what is known; false if nothing does.
 * Bytes that never come by are given up once the kernel itself has them.
 */
static __always_inline bool in_order(struct http_side *side, struct segment *segment,
				     struct bpf_sock *sk, enum direction way)
{
	__s32 ahead = segment->seq - side->next;

	if (!side->is_known) {
		side->is_known = 1;
	} else if (ahead < 0) {
		if (ahead + (__s32)segment->len <= 0)
			return false;
		segment->offset -= ahead;
		segment->len += ahead;
		segment->seq = side->next;
	} else if (ahead > 0 && way == INGRESS) {
		struct tcp_sock *tp = (struct tcp_sock *)kernel_sock(sk);

		if ((__s32)(BPF_CORE_READ(tp, rcv_nxt) - side->next) <= 0)
			return false;
	}
	side->next = segment->seq + segment->len;
	return true;
}

/* The first bytes of a connection that were seen: does it speak HTTP? */
static __noinline int http_decide(struct __sk_buff *skb, struct tcp_conn *conn, enum direction way)
{
	struct segment segment;
	struct http_conn *http;
	struct bpf_sock *sk;

	if (!conn || !read_segment(skb, &segment))
		return 0;
	if (token_of(first_word(skb, &segment)) == TOKEN_NONE) {
		/* One that was there before us may be in the middle of anything. */
		if (conn->life & LIFE_OPENING_REPORTED && conn->http_looks < HTTP_MOST_LOOKS)
			conn->http_looks++;
		else
			conn->http = HTTP_OTHER;
		return 0;
	}
	sk = skb->sk;
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 0;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!http) {
		count(COUNTER_HTTP_CONNS_REFUSED, 1);
		conn->http = HTTP_OTHER;
		return 0;
	}
	http->asks = way;
	http->sides[EGRESS].is_known = 0;
	http->sides[INGRESS].is_known = 0;
	in_order(&http->sides[way & 1], &segment, sk, way);
	http->exchange.cookie = bpf_get_socket_cookie(skb);
	http_ask(skb, http, &segment, way);
	conn->http = HTTP_FOLLOWED;
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
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	if (!conn || conn->http == HTTP_OTHER || conn->role == ROLE_LISTENER)
		return;
	if (conn->http == HTTP_UNDECIDED) {
		http_decide(skb, conn, way);
		return;
	}
	http = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	if (!http || !in_order(&http->sides[way], &segment, sk, way))
		return;
	if (http->asks == way)
		http_request_side(skb, conn, http, &segment, way);
	else
		http_response_side(skb, conn, http, &segment, way, sk);
}

/* The connection was closed, so its last exchange has ended. */
static __always_inline void http_closed(struct sock *sk)
{
	struct tcp_conn *conn;
	struct http_conn *http;

	if (!http_enabled)
		return;
	conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	if (!conn || conn->http != HTTP_FOLLOWED)
		return;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	if (http)
		http_emit(conn, http);
}

/* An exchange that was answered and has been quiet since the last walk has ended. */
static __always_inline void http_walk(struct sock *sk, struct http_conn *http)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	__u64 bytes = http->exchange.request_bytes + http->exchange.response_bytes;

	if (conn && http->state == HTTP_ANSWERED && http->walked == bytes)
		http_emit(conn, http);
	http->walked = bytes;
}

#endif

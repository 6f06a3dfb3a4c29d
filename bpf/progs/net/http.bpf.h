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
	/* User space follows. */
	HTTP_HANDED_OVER = 3,
};

enum http_state {
	/* No request, or one that was given up. */
	HTTP_IDLE = 0,
	/* A request whose response has not begun. */
	HTTP_ASKED = 1,
	/* A response whose head was seen. */
	HTTP_ANSWERED = 2,
};

/*
 * The two directions usually run on two CPUs, so what both touch is in one cache line:
 * the first 56 bytes, as the kernel puts 8 of its own before them.
 */
struct http_conn {
	__u64 asked_at;
	__u64 latency_ns;
	__u64 request_bytes;
	__u64 response_bytes;
	/* Where the next new byte of each direction is, by `enum direction`. */
	__u32 next[2];
	__u32 state;
	__u16 status;
	__u8 major;
	__u8 minor;
	/* The direction that requests have, an `enum direction`. */
	__u8 asks;
	/* One bit per direction: `next` is known. */
	__u8 known;
	__u8 padding[2];
	/* The sequence number of the request's first byte. */
	__u32 asked_seq;
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

/*
 * Exchanges that have ended, by who asked: the two ends of a conversation on this host
 * run on two CPUs, which would get in each other's way. Full: counted, and lost.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HTTP_EXCHANGES_BYTES);
} http_incoming SEC(".maps"), http_outgoing SEC(".maps");

/* Packets of connections that user space follows. Full: counted, and lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HTTP_PIECES_BYTES);
} http_pieces SEC(".maps");

/* The payload of a packet: where it is in the packet and in its direction's stream. */
struct segment {
	__u32 seq;
	__u32 offset;
	__u32 len;
	/* Bytes before it that were not seen. */
	__u32 missed;
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
	segment->missed = 0;
	/* The SYN has a number of its own. */
	if (tcp[13] & 2)
		segment->seq++;
	return true;
}

static __always_inline __u64 wakeup_flags(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	if (waiting < HTTP_WAKEUP_BYTES || waiting % HTTP_WAKEUP_BYTES >= HTTP_WAKEUP_SLACK)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

/* The exchange has ended: out with it, if it was answered. */
static __always_inline void http_emit(struct tcp_conn *conn, struct http_conn *http)
{
	struct http_exchange *exchange = &http->exchange;
	__u32 captured;
	long failed;

	if (__sync_lock_test_and_set(&http->state, HTTP_IDLE) != HTTP_ANSWERED)
		return;
	exchange->tuple = conn->tuple;
	exchange->owner = conn->holder.owner;
	exchange->family = conn->family;
	exchange->major = http->major;
	exchange->minor = http->minor;
	exchange->latency_ns = http->latency_ns;
	exchange->request_bytes = http->request_bytes;
	exchange->response_bytes = http->response_bytes;
	exchange->status = http->status;
	captured = exchange->captured;
	if (captured > HTTP_HEAD_BYTES)
		return;
	if (exchange->way == HTTP_INCOMING)
		failed = bpf_ringbuf_output(&http_incoming, exchange, sizeof(*exchange) + captured,
					    wakeup_flags(&http_incoming));
	else
		failed = bpf_ringbuf_output(&http_outgoing, exchange, sizeof(*exchange) + captured,
					    wakeup_flags(&http_outgoing));
	if (failed)
		count(COUNTER_HTTP_LOST, 1);
}

/*
 * When a packet is seen. TCP has stamped those that it sends with the same clock, which
 * costs more to read than anything else here.
 */
static __always_inline __u64 time_of(struct __sk_buff *skb, enum direction way)
{
	__u64 time = way == EGRESS ? skb->tstamp : 0;

	return time ? time : bpf_ktime_get_ns();
}

/* Eight bytes as a number, the first in the lowest place: all hosts are little-endian. */
#define WORD(a, b, c, d, e, f, g, h)                                                               \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define BYTES(count) (~0ULL >> (64 - 8 * (count)))

/* How a request may begin; those with a body as a rule are the last ones. */
enum http_token {
	TOKEN_NONE,
	TOKEN_WITHOUT_BODY,
	TOKEN_WITH_BODY,
	/* The preface of HTTP/2. */
	TOKEN_PREFACE,
	/* Too short to tell. */
	TOKEN_SHORT,
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
		return TOKEN_WITH_BODY;
	if (word == WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'))
		return TOKEN_PREFACE;
	return TOKEN_NONE;
}

/* The first byte of one of the methods. */
static __always_inline bool may_be_method(__u8 byte)
{
	return byte == 'G' || byte == 'P' || byte == 'H' || byte == 'D' || byte == 'O' ||
	       byte == 'C' || byte == 'T';
}

static __always_inline enum http_token token_at(struct __sk_buff *skb,
						const struct segment *segment)
{
	__u64 word = 0;

	if (segment->len >= sizeof(word)) {
		bpf_skb_load_bytes(skb, segment->offset, &word, sizeof(word));
		return token_of(word);
	}
	if (bpf_skb_load_bytes(skb, segment->offset, &word, 1))
		return TOKEN_NONE;
	return may_be_method(word) ? TOKEN_SHORT : TOKEN_NONE;
}

#define ONES 0x0101010101010101ULL
#define HIGHS 0x8080808080808080ULL

/* Whether a header line that starts here is about a transfer coding. */
static __always_inline bool is_transfer_coding(const struct http_conn *http, __u32 start)
{
	__u64 word;

	if (start >= HTTP_HEAD_BYTES)
		return false;
	__builtin_memcpy(&word, &http->head[start], sizeof(word));
	return (word | ONES * 0x20) == WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r');
}

/*
 * Whether the request that starts in this packet can be followed here. Without a body as a
 * rule: its first line ends in the packet, and nothing comes after the empty line that ends its
 * head. With one: all of its head is here, so that user space can tell how long it is, and its
 * body does not come in chunks.
 */
static __always_inline bool is_simple(struct http_conn *http, __u32 captured, __u32 len,
				      enum http_token token)
{
	const __u64 *words = (const __u64 *)http->head;
	__u64 before = 0, any = 0;
	bool has_end = false;
	__u8 last;

	/* The last byte may end the head: it is left out, and so is what an earlier request left.
	 */
	last = http->head[captured - 1];
	__builtin_memset(&http->head[captured - 1], 0, 8);
	for (__u32 i = 0; i < HTTP_HEAD_BYTES / 8; i++) {
		__u64 word, breaks, first;

		if (i * 8 >= captured)
			break;
		/* The high bit of each byte that is a line feed. */
		word = words[i] ^ ONES * '\n';
		breaks = (word - ONES) & ~word & HIGHS;
		any |= breaks;
		/* Two of them with one byte between: an empty line. */
		if (breaks & (breaks << 16 | before >> 48)) {
			has_end = true;
			break;
		}
		before = breaks;
		if (token != TOKEN_WITH_BODY)
			continue;
		for (__u32 j = 0; j < 2 && breaks; j++) {
			first = breaks & -breaks;
			/* The number of the byte whose high bit it is. */
			first = (first >> 7) * 0x0001020304050607ULL >> 56;
			if (is_transfer_coding(http, i * 8 + first + 1)) {
				http->head[captured - 1] = last;
				return false;
			}
			breaks &= breaks - 1;
		}
	}
	http->head[captured - 1] = last;
	if (token == TOKEN_WITH_BODY)
		return has_end || (last == '\n' && captured == len);
	return !has_end && (any || len > HTTP_LINE_BYTES);
}

static __always_inline void describe_piece(struct http_piece *piece, const struct tcp_conn *conn,
					   const struct http_conn *http)
{
	piece->tuple = conn->tuple;
	piece->owner = conn->holder.owner;
	piece->family = conn->family;
	piece->way = http->exchange.way;
	piece->is_request = 0;
	piece->cookie = http->exchange.cookie;
	piece->captured = 0;
	piece->padding = 0;
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
		record->piece.is_request = way == http->asks;                                      \
		record->piece.time_ns = time;                                                      \
		record->piece.seq = segment.seq + start;                                           \
		record->piece.len = is_last ? left : part;                                         \
		if (part > 0 && part <= (size) &&                                                  \
		    !bpf_skb_load_bytes(skb, segment.offset + start, record->bytes, part))         \
			record->piece.captured = part;                                             \
		bpf_ringbuf_submit(record, wakeup_flags(&http_pieces));                            \
	} while (0)

/* Ships a packet, or as much of it as is allowed; what it holds is for user space to find out. */
static __noinline int http_ship(struct __sk_buff *skb, const struct tcp_conn *conn,
				const struct http_conn *http, enum direction way)
{
	struct segment segment;
	__u64 time;

	if (!conn || !http || !read_segment(skb, &segment))
		return 0;
	time = time_of(skb, way);
	for (__u32 i = 0; i < HTTP_MOST_PIECES; i++) {
		__u32 start = i * HTTP_PIECE_BYTES;
		bool is_last = i == HTTP_MOST_PIECES - 1;
		__u32 left, part;

		if (start >= segment.len)
			break;
		left = segment.len - start;
		part = left < HTTP_PIECE_BYTES ? left : HTTP_PIECE_BYTES;
		if (part <= 256)
			SHIP(256);
		else
			SHIP(HTTP_PIECE_BYTES);
	}
	return 0;
}

/* Ships what is known of the request that is open. */
static __noinline int http_ship_earlier(const struct tcp_conn *conn, const struct http_conn *http)
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
	record->piece.time_ns = http->asked_at;
	record->piece.seq = http->asked_seq;
	record->piece.len = http->request_bytes;
	record->piece.captured = http->exchange.captured;
	__builtin_memcpy(record->bytes, http->head, sizeof(record->bytes));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* From this packet on, user space follows. */
static __always_inline void http_hand_over(struct __sk_buff *skb, struct tcp_conn *conn,
					   struct http_conn *http, enum direction way)
{
	__u32 state = __sync_lock_test_and_set(&http->state, HTTP_IDLE);

	conn->http = HTTP_HANDED_OVER;
	if (state == HTTP_ASKED)
		http_ship_earlier(conn, http);
	http_ship(skb, conn, http, way);
}

/* A request may begin in this packet, and what was before it has ended. */
static __always_inline void http_ask(struct __sk_buff *skb, struct tcp_conn *conn,
				     struct http_conn *http, const struct segment *segment,
				     enum http_token token, enum direction way)
{
	__u32 captured = segment->len;

	if (token >= TOKEN_PREFACE) {
		http_hand_over(skb, conn, http, way);
		return;
	}
	if (token == TOKEN_WITHOUT_BODY && captured > HTTP_LINE_BYTES)
		captured = HTTP_LINE_BYTES;
	if (captured > HTTP_HEAD_BYTES)
		captured = HTTP_HEAD_BYTES;
	if (captured < 8 || bpf_skb_load_bytes(skb, segment->offset, http->head, captured))
		return;
	http->exchange.captured = captured;
	if (!is_simple(http, captured, segment->len, token)) {
		http_hand_over(skb, conn, http, way);
		return;
	}
	http->request_bytes = segment->len;
	http->response_bytes = 0;
	http->asked_seq = segment->seq;
	http->asked_at = time_of(skb, way);
	http->state = HTTP_ASKED;
}

static __always_inline void http_request_side(struct __sk_buff *skb, struct tcp_conn *conn,
					      struct http_conn *http, const struct segment *segment,
					      enum direction way)
{
	enum http_token token = token_at(skb, segment);

	if (token == TOKEN_NONE || (token == TOKEN_SHORT && http->state != HTTP_IDLE)) {
		http->request_bytes += segment->len + segment->missed;
		return;
	}
	if (http->state == HTTP_ASKED) {
		/* Another request, or a body that looks like one. */
		http_hand_over(skb, conn, http, way);
		return;
	}
	http_emit(conn, http);
	http_ask(skb, conn, http, segment, token, way);
}

enum status_line {
	STATUS_LINE_BYTES = 16,
	/* "HTTP/1.1 100 Continue" and an empty line. */
	CONTINUE_BYTES = 25,
};

static __always_inline bool is_digit(__u8 byte)
{
	return byte >= '0' && byte <= '9';
}

/* The packet in which the owner writes is sent while it holds the socket's lock. */
static __always_inline void learn_holder(struct tcp_conn *conn, struct sock *sk)
{
	if (!conn->holder.is_known && BPF_CORE_READ(sk, sk_lock.owned))
		held_by_current(&conn->holder);
}

/* Whether a response that switches protocols names HTTP/2 among its first bytes. */
static __noinline int mentions_h2c(struct __sk_buff *skb)
{
	struct segment segment;
	__u8 bytes[128] = {};
	__u32 len;

	if (!read_segment(skb, &segment))
		return 0;
	len = segment.len < sizeof(bytes) ? segment.len : sizeof(bytes);
	if (len < 1 || bpf_skb_load_bytes(skb, segment.offset, bytes, len))
		return 0;
	for (__u32 i = 0; i + 2 < sizeof(bytes); i++)
		if (bytes[i] == 'h' && bytes[i + 1] == '2' && bytes[i + 2] == 'c')
			return 1;
	return 0;
}

static __always_inline void http_response_side(struct __sk_buff *skb, struct tcp_conn *conn,
					       struct http_conn *http,
					       const struct segment *segment, enum direction way)
{
	__u8 line[STATUS_LINE_BYTES] = {};
	__u32 status;

	if (http->state != HTTP_ASKED) {
		http->response_bytes += segment->len + segment->missed;
		return;
	}
	if (segment->len < sizeof(line)) {
		if (!bpf_skb_load_bytes(skb, segment->offset, line, 1) && line[0] == 'H')
			http_hand_over(skb, conn, http, way);
		else
			goto not_understood;
		return;
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
			http->response_bytes += segment->len;
			return;
		}
		if (status != 101 || mentions_h2c(skb)) {
			http_hand_over(skb, conn, http, way);
			return;
		}
	}
	http->latency_ns = time_of(skb, way) - http->asked_at;
	http->response_bytes += segment->len;
	http->status = status;
	http->major = line[5] - '0';
	http->minor = line[7] - '0';
	if (way == EGRESS && !conn->holder.is_known && skb->sk)
		learn_holder(conn, kernel_sock(skb->sk));
	http->state = HTTP_ANSWERED;
	/* What follows is another protocol: after CONNECT, too. */
	if (status == 101 ||
	    (status >= 200 && status < 300 && http->head[0] == 'C' && http->head[1] == 'O')) {
		http_emit(conn, http);
		conn->http = HTTP_OTHER;
	}
	return;
not_understood:
	count(COUNTER_HTTP_NOT_UNDERSTOOD, 1);
	http->state = HTTP_IDLE;
}

/*
 * Leaves of a packet what is new and follows what is known; false if nothing does.
 * Bytes that never come by are given up once the kernel itself has them.
 */
static __always_inline bool in_order(struct http_conn *http, struct segment *segment,
				     struct __sk_buff *skb, enum direction way)
{
	__s32 ahead = segment->seq - http->next[way];

	if (!(http->known & 1 << way)) {
		http->known |= 1 << way;
	} else if (ahead < 0) {
		if (ahead + (__s32)segment->len <= 0)
			return false;
		segment->offset -= ahead;
		segment->len += ahead;
		segment->seq = http->next[way];
	} else if (ahead > 0) {
		if (way == INGRESS && skb->sk) {
			struct tcp_sock *tp = (struct tcp_sock *)kernel_sock(skb->sk);

			if ((__s32)(BPF_CORE_READ(tp, rcv_nxt) - http->next[way]) <= 0)
				return false;
		}
		segment->missed = ahead;
		if (http->state == HTTP_ASKED) {
			count(COUNTER_HTTP_NOT_UNDERSTOOD, 1);
			http->state = HTTP_IDLE;
		}
	}
	http->next[way] = segment->seq + segment->len;
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
	bool is_older = conn->life & LIFE_OPENING_REPORTED;

	token = token_at(skb, &segment);
	if (token == TOKEN_NONE || (is_older && token >= TOKEN_PREFACE)) {
		if (is_older && conn->http_looks < HTTP_MOST_LOOKS)
			conn->http_looks++;
		else
			conn->http = HTTP_OTHER;
		return 0;
	}
	sk = skb->sk;
	if (!sk)
		return 0;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!http) {
		count(COUNTER_HTTP_CONNS_REFUSED, 1);
		conn->http = HTTP_OTHER;
		return 0;
	}
	conn->http = HTTP_FOLLOWED;
	http->state = HTTP_IDLE;
	http->asks = way;
	http->known = 1 << way;
	http->next[way & 1] = segment.seq + segment.len;
	http->exchange.cookie = bpf_get_socket_cookie(skb);
	http->exchange.way = way == EGRESS ? HTTP_OUTGOING : HTTP_INCOMING;
	http_ask(skb, conn, http, &segment, token, way);
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
	if (!conn || conn->http == HTTP_OTHER || conn->role == ROLE_LISTENER)
		return;
	if (conn->http == HTTP_UNDECIDED) {
		http_decide(skb, conn, way);
		return;
	}
	http = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	if (!http)
		return;
	if (conn->http == HTTP_HANDED_OVER) {
		http_ship(skb, conn, http, way);
		return;
	}
	if (!in_order(http, &segment, skb, way))
		return;
	if (http->asks == way)
		http_request_side(skb, conn, http, &segment, way);
	else
		http_response_side(skb, conn, http, &segment, way);
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
	if (!conn || conn->http < HTTP_FOLLOWED)
		return;
	http = bpf_sk_storage_get(&http_conns, sk, NULL, 0);
	if (!http)
		return;
	if (conn->http == HTTP_FOLLOWED) {
		http_emit(conn, http);
		return;
	}
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
	conn->http = HTTP_OTHER;
}

/* An exchange that was answered and has been quiet since the last walk has ended. */
static __always_inline void http_walk(struct sock *sk, struct http_conn *http)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
	__u64 bytes = http->request_bytes + http->response_bytes;

	if (conn && http->state == HTTP_ANSWERED && http->walked == bytes)
		http_emit(conn, http);
	http->walked = bytes;
}

#endif

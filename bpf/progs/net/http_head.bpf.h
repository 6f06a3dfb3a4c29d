/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the first bytes of a request or a response say.
 */
#ifndef NET_HTTP_HEAD_BPF_H
#define NET_HTTP_HEAD_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "progs/net/http_conn.bpf.h"

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

/*
 * Whether these bytes may be what a server of HTTP/2 says before it has heard anything, as those
 * of gRPC do: a frame about the connection as a whole (SETTINGS, PING, WINDOW_UPDATE).
 */
static __always_inline bool greets(struct __sk_buff *skb, const struct segment *segment)
{
	__u8 frame[9] = {};

	if (segment->len < sizeof(frame) ||
	    bpf_skb_load_bytes(skb, segment->offset, frame, sizeof(frame)))
		return false;
	return !frame[0] && !frame[1] && (frame[3] == 4 || frame[3] == 6 || frame[3] == 8) &&
	       frame[4] <= 1 && !frame[5] && !frame[6] && !frame[7] && !frame[8];
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

/* The same, and what is there is kept in `fresh`. */
static __always_inline enum http_token look_at(struct __sk_buff *skb, struct http_conn *http,
					       const struct segment *segment)
{
	__u32 len = segment->len < HTTP_LINE_BYTES ? segment->len : HTTP_LINE_BYTES;
	__u64 word;

	if (len < sizeof(word))
		return token_at(skb, segment);
	if (!copy_bytes(skb, segment->offset, http->fresh, len, sizeof(http->fresh)))
		return TOKEN_NONE;
	__builtin_memcpy(&word, http->fresh, sizeof(word));
	return token_of(word);
}

/* Whether the request in `fresh`, which is all of this packet, is one more of the batch. */
static __always_inline bool is_repeated(struct http_conn *http, const struct segment *segment,
					enum http_token token)
{
	const __u64 *fresh = (const __u64 *)http->fresh, *head = (const __u64 *)http->head;
	__u32 len = segment->len;

	if (token != TOKEN_WITHOUT_BODY || !http->batch.count || len != http->batch.captured ||
	    len != http->batch.request_bytes || len > HTTP_LINE_BYTES)
		return false;
	for (__u32 i = 0; i < HTTP_LINE_BYTES / 8; i++) {
		__u64 differs = fresh[i] ^ head[i];

		if (i * 8 + 8 >= len)
			return !(differs << (i * 8 + 8 - len) * 8);
		if (differs)
			return false;
	}
	return false;
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
	__u64 index = captured - 1;
	bool has_end = false;
	__u8 *end, last;

	/* Known, but kernels before 6.8 forget bounds of what is put by on the stack. */
	barrier_var(index);
	if (index >= HTTP_HEAD_BYTES)
		return false;
	end = &http->head[index];
	barrier_var(end);
	/* The last byte may end the head: it is left out, and so is what an earlier request left.
	 */
	last = *end;
	__builtin_memset(end, 0, 8);
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
				*end = last;
				return false;
			}
			breaks &= breaks - 1;
		}
	}
	*end = last;
	if (token == TOKEN_WITH_BODY)
		return has_end || (last == '\n' && captured == len);
	return !has_end && (any || len > HTTP_LINE_BYTES);
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

/* Whether a response that switches protocols names HTTP/2 among its first bytes. */
static __noinline int mentions_h2c(struct __sk_buff *skb)
{
	struct segment segment;
	__u8 bytes[128] = {};
	__u32 len;

	if (!read_segment(skb, &segment))
		return 0;
	len = segment.len < sizeof(bytes) ? segment.len : sizeof(bytes);
	if (!copy_bytes(skb, segment.offset, bytes, len, sizeof(bytes)))
		return 0;
	for (__u32 i = 0; i + 2 < sizeof(bytes); i++)
		if (bytes[i] == 'h' && bytes[i + 1] == '2' && bytes[i + 2] == 'c')
			return 1;
	return 0;
}

#endif

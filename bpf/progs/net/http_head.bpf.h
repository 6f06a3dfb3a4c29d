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
static __always_inline bool is_transfer_coding(const __u8 *bytes, __u32 start)
{
	__u64 word;

	if (start >= HTTP_HEAD_BYTES)
		return false;
	__builtin_memcpy(&word, &bytes[start], sizeof(word));
	return (word | ONES * 0x20) == WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r');
}

/* The number of the lowest byte whose high bit is set. */
static __always_inline __u32 first_of(__u64 highs)
{
	return ((highs & -highs) >> 7) * 0x0001020304050607ULL >> 56;
}

/* Where bytes to be looked through are. */
enum http_bytes {
	BYTES_OF_HEAD,
	BYTES_OF_HEAD_WITH_BODY,
	BYTES_FRESH,
};

/* What was found in the bytes of a head, beside how many there are up to its end. */
enum http_found {
	FOUND_END = 0xffff,
	/* There is a whole line. */
	FOUND_LINE = 1 << 16,
	/* The body comes in chunks, as a header before the end says. */
	FOUND_CODING = 1 << 17,
};

/*
 * Looks for the empty line that ends a head in `size` bytes, behind which there is room for a
 * word. Gives what was found, an `enum http_found`.
 *
 * This and the next one are global so that the verifier looks at them once, and not once for each
 * way that leads here or out of a loop.
 */
__noinline int look_through(struct http_conn *http, enum http_bytes which, __u32 size)
{
	__u64 before = 0, index = size;
	const __u64 *words;
	int found = 0;
	__u8 *bytes;

	if (!http || index > HTTP_HEAD_BYTES)
		return 0;
	bytes = which == BYTES_FRESH ? http->fresh : http->head;
	words = (const __u64 *)bytes;
	__builtin_memset(&bytes[index], 0, 8);
	for (__u32 i = 0; i < HTTP_HEAD_BYTES / 8; i++) {
		__u64 word, breaks, ends;

		if (i * 8 >= size)
			break;
		/* The high bit of each byte that is a line feed. */
		word = words[i] ^ ONES * '\n';
		breaks = (word - ONES) & ~word & HIGHS;
		if (breaks)
			found |= FOUND_LINE;
		/* One that comes right after another, or after one and a carriage return. */
		ends = breaks & (breaks << 8 | breaks << 16 | before >> 48 | before >> 56);
		if (ends)
			return found | (i * 8 + first_of(ends) + 1);
		before = breaks;
		for (__u32 j = 0; which == BYTES_OF_HEAD_WITH_BODY && j < 2 && breaks; j++) {
			if (is_transfer_coding(bytes, i * 8 + first_of(breaks) + 1))
				found |= FOUND_CODING;
			breaks &= breaks - 1;
		}
	}
	return found;
}

/* How much of a long head is looked through in one packet. */
enum long_head {
	/* Steps overlap, so that no end is cut in two. */
	LONG_HEAD_STEP = HTTP_HEAD_BYTES - 2,
	LONG_HEAD_STEPS = 32,
};

/*
 * The same for the payload of a packet from `from` on. Gives how many bytes there are up to the end
 * of the empty line: 0 if there is none, more than there are if that is not to be known.
 */
__noinline int look_through_packet(struct __sk_buff *skb, struct http_conn *http, __u32 from)
{
	struct segment segment;

	if (!http || !read_segment(skb, &segment))
		return 0;
	for (__u32 i = 0; i < LONG_HEAD_STEPS; i++) {
		__u32 at = from + i * LONG_HEAD_STEP, size, end;

		if (at >= segment.len)
			return 0;
		size = segment.len - at;
		if (size > HTTP_HEAD_BYTES)
			size = HTTP_HEAD_BYTES;
		if (!copy_bytes(skb, segment.offset + at, http->fresh, size, HTTP_HEAD_BYTES))
			return 0;
		end = look_through(http, BYTES_FRESH, size) & FOUND_END;
		if (end)
			return at + end;
	}
	return segment.len + 1;
}

/* How a packet ends in which the head does not. */
static __always_inline enum http_head_end head_goes_on(struct __sk_buff *skb,
						       const struct segment *segment)
{
	__u8 last[2] = {};

	if (segment->len < sizeof(last) ||
	    bpf_skb_load_bytes(skb, segment->offset + segment->len - sizeof(last), last,
			       sizeof(last)))
		return HEAD_GOES_ON;
	if (last[1] == '\n')
		return HEAD_AFTER_LINE;
	return last[0] == '\n' && last[1] == '\r' ? HEAD_AFTER_RETURN : HEAD_GOES_ON;
}

/*
 * Whether the request that starts in this packet can be followed here. Without a body as a
 * rule: its first line ends in the packet, and nothing comes after its head. With one: all of
 * its head is here, so that user space can tell how long it is, and its body does not come in
 * chunks.
 */
static __always_inline bool is_simple(struct __sk_buff *skb, struct http_conn *http,
				      struct http_stand *stand, const struct segment *segment,
				      enum http_token token)
{
	__u32 captured = http->batch.captured, found, end;

	stand->head_end = HEAD_HAS_ENDED;
	if (token == TOKEN_WITH_BODY) {
		found = look_through(http, BYTES_OF_HEAD_WITH_BODY, captured);
		return found & FOUND_END && !(found & FOUND_CODING);
	}
	found = look_through(http, BYTES_OF_HEAD, captured);
	end = found & FOUND_END;
	if (!end && captured < segment->len)
		end = look_through_packet(skb, http, captured - 2);
	else if (!found)
		return false;
	if (end)
		return end == segment->len;
	stand->head_end = head_goes_on(skb, segment);
	return true;
}

/* The same for a packet in which a head goes on. */
static __always_inline bool stays_simple(struct __sk_buff *skb, struct http_conn *http,
					 struct http_stand *stand, const struct segment *segment)
{
	__u8 first[2] = {};
	__u32 end;

	if (bpf_skb_load_bytes(skb, segment->offset, first, 1))
		return false;
	if (segment->len > 1)
		bpf_skb_load_bytes(skb, segment->offset, first, sizeof(first));
	if (stand->head_end != HEAD_GOES_ON && first[0] == '\n')
		end = 1;
	else if (stand->head_end == HEAD_AFTER_LINE && first[0] == '\r' && first[1] == '\n')
		end = 2;
	else
		end = look_through_packet(skb, http, 0);
	stand->head_end = end ? HEAD_HAS_ENDED : head_goes_on(skb, segment);
	return !end || end == segment->len;
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

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Records of httpflow; included by abi/net.h, whose tuple and owner they have.
 */
#ifndef ABI_HTTP_H
#define ABI_HTTP_H

enum http_size {
	/* Bytes of a request that are kept: the whole head if it has a body, ... */
	HTTP_HEAD_BYTES = 512,
	/* ... or else its first line and some headers. */
	HTTP_LINE_BYTES = 256,
	/* Bytes of a packet that one piece holds, and pieces of a packet at most. */
	HTTP_PIECE_BYTES = 4096,
	HTTP_MOST_PIECES = 16,
	HTTP_EXCHANGES_BYTES = 8 * 1024 * 1024,
	HTTP_PIECES_BYTES = 16 * 1024 * 1024,
};

/* Who asked, as seen from the socket. */
enum http_way {
	/* The peer did: this end serves. */
	HTTP_INCOMING = 0,
	/* This end did. */
	HTTP_OUTGOING = 1,
};

/*
 * A request and its response, which have ended, or several on one connection that look the same;
 * `captured` bytes of the request follow.
 */
struct http_exchange {
	struct tuple tuple;
	struct owner owner;
	__u8 family;
	/* An `enum http_way`. */
	__u8 way;
	/* Version of the response: both digits. */
	__u8 major;
	__u8 minor;
	/* The socket's cookie. */
	__u64 cookie;
	/* From the first byte of each request to the first of its response, as a sum. */
	__u64 latency_ns;
	/* Bytes of one request on the connection, its head included. */
	__u64 request_bytes;
	/* Bytes of all responses, heads included. */
	__u64 response_bytes;
	/* How many they are. */
	__u32 count;
	__u16 status;
	__u16 captured;
};
_Static_assert(sizeof(struct http_exchange) == 104, "http_exchange is wire format");

/* How far the head of an open request goes. */
enum http_head_end {
	HEAD_HAS_ENDED = 0,
	/* It goes on in another packet, ... */
	HEAD_GOES_ON = 1,
	/* ... before which it has come to the end of a line, or to that and a carriage return. */
	HEAD_AFTER_LINE = 2,
	HEAD_AFTER_RETURN = 3,
};

/* What a piece is of. */
enum http_piece_kind {
	/* Bytes of a packet. */
	PIECE_BYTES = 0,
	/* Bytes of a request that was seen before user space was asked to follow. */
	PIECE_EARLIER = 1,
	/* The connection was closed; there are no bytes. */
	PIECE_CLOSED = 2,
};

/*
 * A part of a connection that the kernel side does not understand alone; `captured`
 * bytes of it follow, which are those at its beginning.
 */
struct http_piece {
	struct tuple tuple;
	struct owner owner;
	__u8 family;
	/* An `enum http_way` of the connection: who asks. */
	__u8 way;
	/* An `enum http_piece_kind`. */
	__u8 kind;
	/* 1: sent by the end that asks. */
	__u8 is_request;
	/* The socket's cookie. */
	__u64 cookie;
	__u64 time_ns;
	/* The sequence number of its first byte. */
	__u32 seq;
	__u32 len;
	__u32 captured;
	/* An `enum http_head_end`, of an earlier request. */
	__u32 head_end;
};
_Static_assert(sizeof(struct http_piece) == 96, "http_piece is wire format");

#endif

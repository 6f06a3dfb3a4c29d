/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Records of httpflow; included by abi/net.h, whose tuple and owner they have.
 */
#ifndef ABI_HTTP_H
#define ABI_HTTP_H

enum http_size {
	/* Bytes of a request that are kept: its first line and some headers. */
	HTTP_HEAD_BYTES = 256,
	HTTP_EXCHANGES_BYTES = 16 * 1024 * 1024,
};

/* Who asked, as seen from the socket. */
enum http_way {
	/* The peer did: this end serves. */
	HTTP_INCOMING = 0,
	/* This end did. */
	HTTP_OUTGOING = 1,
};

/* A request and its response, which have ended; `captured` bytes of the request follow. */
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
	/* From the first byte of the request to the first of the response. */
	__u64 latency_ns;
	/* Bytes of each on the connection, heads included. */
	__u64 request_bytes;
	__u64 response_bytes;
	__u32 status;
	__u32 captured;
};
_Static_assert(sizeof(struct http_exchange) == 104, "http_exchange is wire format");

#endif

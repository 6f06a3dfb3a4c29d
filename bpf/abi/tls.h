/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Records of httpflow-tls; included by abi/net.h, whose tuple and owner they have.
 */
#ifndef ABI_TLS_H
#define ABI_TLS_H

enum tls_size {
	/* How much of a piece is kept: the smallest of these that it fits into, or the last. */
	TLS_SMALL_BYTES = 512,
	TLS_MEDIUM_BYTES = 4096,
	TLS_LARGE_BYTES = 16384,
	TLS_PIECES_BYTES = 16 * 1024 * 1024,
	TLS_STREAMS = 16384,
	TLS_STARTS_BYTES = 64 * 1024,
};

/* What a piece is. */
enum tls_way {
	/* Bytes that the process was given. */
	TLS_IN = 0,
	/* Bytes that it handed over. */
	TLS_OUT = 1,
	/* No bytes: the library's session was freed. */
	TLS_END = 2,
	/* A call that moves no bytes of the process; never in a record. */
	TLS_HANDSHAKE = 3,
};

/* Plaintext that a TLS library took or gave in one call; `captured` bytes of it follow. */
struct tls_piece {
	/* All 0 as long as no socket is known. */
	struct tuple tuple;
	/* The process that made the call. */
	struct owner owner;
	__u8 family;
	/* An `enum tls_way`. */
	__u8 way;
	/* An `enum role`: the socket's. */
	__u8 role;
	__u8 padding;
	/* The library's session, by its address in that process, and when it was first seen. */
	__u64 session;
	__u64 born_ns;
	/* The socket's cookie; 0 as long as no socket is known. */
	__u64 cookie;
	/* Bytes that went this way before. */
	__u64 position;
	__u64 size;
	/* When the process had the bytes: at the return of a read, at the begin of a write. */
	__u64 time_ns;
	__u32 captured;
	__u32 padding2;
};
_Static_assert(sizeof(struct tls_piece) == 120, "tls_piece is wire format");

/* A program has started. */
struct tls_start {
	__u32 pid;
	__u32 padding;
};
_Static_assert(sizeof(struct tls_start) == 8, "tls_start is wire format");

#endif

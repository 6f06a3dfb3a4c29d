/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Packets of DNS servers' ports, as they are copied to user space.
 */
#ifndef ABI_DNS_H
#define ABI_DNS_H

#include "abi/net.h"

enum transport {
	TRANSPORT_UDP = 1,
	TRANSPORT_TCP = 2,
};

/* Bits of `dns_packet.end`: whose stream of bytes ends with this TCP segment. */
enum stream_end {
	/* The sender of the segment sends no more. */
	STREAM_END_ONE = 1,
	/* The connection was reset. */
	STREAM_END_BOTH = 2,
};

enum dns_limit {
	/* Ports that are looked at. */
	DNS_PORTS_MOST = 4,
	/* Payload bytes that are copied from one packet. */
	DNS_COPIED_MOST = 16384,
};

/* One packet, as its socket on this host saw it; `copied` bytes follow. */
struct dns_packet {
	struct tuple tuple;
	/* The kernel's number of the socket: never used twice. */
	__u64 socket;
	/* The kernel's monotonic clock. */
	__u64 time_ns;
	/* Its payload: how long it is, and how much of it is copied. */
	__u32 len;
	__u32 copied;
	/* TCP: the sequence number of its first byte. */
	__u32 sequence;
	__u8 family;
	__u8 transport;
	/* 1: the socket sent it; 0: it came in. */
	__u8 sent;
	__u8 end;
};
_Static_assert(sizeof(struct dns_packet) == 72, "dns_packet is wire format");

#endif

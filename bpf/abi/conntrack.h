/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The table of ebpf-conntrack, which it offers to the other plugins as "nat":
 * connections whose destination is translated, and where they really go.
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d; ports are in
 * host order. Only user space reads and writes it.
 */
#ifndef ABI_CONNTRACK_H
#define ABI_CONNTRACK_H

#include "abi/types.h"

/* The namespace of an element that stands for all namespaces. */
enum nat_netns {
	NAT_NETNS_ANY = 0,
};

/* The source port of an element that stands for all source ports; UDP only. */
enum nat_port {
	NAT_PORT_ANY = 0,
};

/* Bits of `nat_value.flags`. */
enum nat_flag {
	/* Its connections go to different places: it says nothing. */
	NAT_AMBIGUOUS = 1,
	/* The connection is gone; the element stays a little for late readers. */
	NAT_GONE = 2,
	/* It came from a dump: the kernel may not tell when the connection ends. */
	NAT_FROM_DUMP = 4,
};

enum nat_size {
	NAT_ELEMENTS = 262144,
};

/* A packet of a connection in the direction of the first one, untranslated. */
struct nat_key {
	__u8 src_addr[16];
	__u8 dst_addr[16];
	__u16 src_port;
	__u16 dst_port;
	/* Inode of the network namespace in which it is translated. */
	__u32 netns;
	__u8 protocol;
	__u8 padding[3];
};
_Static_assert(sizeof(struct nat_key) == 44, "nat_key is read by other plugins");

/* The same packet, translated. */
struct nat_value {
	__u8 src_addr[16];
	__u8 dst_addr[16];
	__u16 src_port;
	__u16 dst_port;
	/* How many connections an element for any namespace or port stands for. */
	__u32 holders;
	/* Grows with each change, to tell an old state from a new one. */
	__u64 stamp;
	__u32 flags;
	__u32 padding;
};
_Static_assert(sizeof(struct nat_value) == 56, "nat_value is read by other plugins");

#endif

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Packets of local sockets: the headers that are read from them.
 */
#ifndef LIB_PACKET_BPF_H
#define LIB_PACKET_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

enum direction { INGRESS, EGRESS };

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__u16 total_length;
	__u32 id_fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 source;
	__u32 destination;
};

struct ipv6_header {
	__u32 version_class_label;
	__u16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

struct udp_header {
	__u16 source;
	__u16 destination;
	__u16 length;
	__u16 checksum;
};

enum tcp_flag {
	TCP_FLAG_FIN = 1,
	TCP_FLAG_SYN = 2,
	TCP_FLAG_RST = 4,
};

struct tcp_header {
	__u16 source;
	__u16 destination;
	__u32 sequence;
	__u32 acknowledgement;
	/* In the upper four bits, in words. */
	__u8 data_offset;
	__u8 flags;
	__u16 window;
	__u16 checksum;
	__u16 urgent;
};

/*
 * The kernel's own view of a socket that a packet program was handed: a pointer of
 * another type, which the verifier lets nobody look behind but by a copy.
 */
static __always_inline struct sock *kernel_sock(struct bpf_sock *sk)
{
	struct sock *raw = NULL;

	bpf_probe_read_kernel(&raw, sizeof(raw), &sk);
	return raw;
}

/*
 * Copies `size` bytes from `offset`, if there are any and `room` for them. Two signed
 * comparisons, which the compiler must not make one of, nor a `size != 0`: kernels before
 * 6.8 learn nothing from that.
 */
static __always_inline bool copy_bytes(struct __sk_buff *skb, __u32 offset, void *to, __s64 size,
				       const __u32 room)
{
	barrier_var(size);
	if (size > room)
		return false;
	barrier_var(size);
	if (size <= 0)
		return false;
	return !bpf_skb_load_bytes(skb, offset, to, size);
}

#endif

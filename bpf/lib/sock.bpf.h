/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The two ends of a socket, its namespace and its family, read from the kernel.
 */
#ifndef LIB_SOCK_BPF_H
#define LIB_SOCK_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"

static __always_inline void map_ipv4(__u8 addr[16], __be32 ipv4)
{
	__builtin_memset(addr, 0, 10);
	addr[10] = 0xff;
	addr[11] = 0xff;
	__builtin_memcpy(addr + 12, &ipv4, sizeof(ipv4));
}

static __always_inline __u32 netns_of_sock(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/* Fills `tuple` and returns the family that the application asked for. */
static __always_inline __u8 tuple_of_sock(struct sock *sk, struct tuple *tuple)
{
	tuple->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	tuple->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	tuple->netns = netns_of_sock(sk);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&tuple->local_addr, sk,
				   __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&tuple->remote_addr, sk,
				   __sk_common.skc_v6_daddr.in6_u.u6_addr8);
		return FAMILY_IPV6;
	}
	map_ipv4(tuple->local_addr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	map_ipv4(tuple->remote_addr, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	return FAMILY_IPV4;
}

#endif

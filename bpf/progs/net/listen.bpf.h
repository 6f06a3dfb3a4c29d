/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Ports that were listened on when the collector started. Only connections that
 * are older than the collector need them; later ones show their role themselves.
 */
#ifndef NET_LISTEN_BPF_H
#define NET_LISTEN_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "lib/sock.bpf.h"

struct listened_port {
	__u32 netns;
	__u32 port;
};

/* Full: counted; the older connections of further listeners are taken for outgoing ones. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct listened_port);
	__type(value, __u8);
} listened_ports SEC(".maps");

static __always_inline void remember_listener(struct sock *sk)
{
	struct listened_port port = {
		.netns = netns_of_sock(sk),
		.port = BPF_CORE_READ(sk, __sk_common.skc_num),
	};
	__u8 yes = 1;

	if (bpf_map_update_elem(&listened_ports, &port, &yes, BPF_ANY))
		count(COUNTER_LISTENERS_REFUSED, 1);
}

static __always_inline bool is_listened(const struct tuple *tuple)
{
	struct listened_port port = {.netns = tuple->netns, .port = tuple->local_port};

	return bpf_map_lookup_elem(&listened_ports, &port) != NULL;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Where records go, and what all of them begin with.
 */
#ifndef BASH_RECORD_BPF_H
#define BASH_RECORD_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/bash.h"
#include "lib/count.bpf.h"

/* Some ten thousand commands of usual length, or 60 lines of the longest. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} events SEC(".maps");

static __always_inline void fill(struct event *event, __u32 kind, __u32 flavour, __u64 time_ns)
{
	event->kind = kind;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = bpf_get_current_uid_gid();
	event->flavour = flavour;
	event->time_ns = time_ns;
}

static __always_inline void emit(__u32 kind, __u32 flavour, __u32 counter)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(counter, 1);
		return;
	}
	fill(event, kind, flavour, bpf_ktime_get_ns());
	bpf_ringbuf_submit(event, 0);
}

#endif

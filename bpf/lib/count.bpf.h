/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Nothing is lost silently: what a program cannot record, it counts here. The
 * object's own abi header, with its `enum counter`, is to be included before.
 */
#ifndef LIB_COUNT_BPF_H
#define LIB_COUNT_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* One cell per `enum counter` and CPU; user space sums the CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTER_COUNT);
} counters SEC(".maps");

static __always_inline void count(__u32 counter, __u64 by)
{
	__u64 *cell = bpf_map_lookup_elem(&counters, &counter);

	/* A program may be interrupted by another one on its CPU, or preempted by one. */
	if (cell)
		__sync_fetch_and_add(cell, by);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Which process holds a socket. One process at a time: a socket that several
 * processes share stays with the one it was given to first, for as long as that
 * one holds it. Scans of all open files find out who does.
 */
#ifndef LIB_HOLDER_BPF_H
#define LIB_HOLDER_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/task.bpf.h"

struct holder {
	struct owner owner;
	/* False while the owner is only the listener's, or nobody. */
	__u8 is_known;
	/* A report was put off because of that: see put_off_once. */
	__u8 was_put_off;
	__u8 padding[2];
	/* The last scan that saw the owner hold the socket. */
	__u32 seen_by;
};

/* The number of the scan that runs, or ran last; user space counts it up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} scan_number SEC(".maps");

static __always_inline __u32 current_scan(void)
{
	__u32 zero = 0, *number = bpf_map_lookup_elem(&scan_number, &zero);

	return number ? *number : 0;
}

/* Nobody is known to hold the socket, whoever held the one that it comes from. */
static __always_inline void held_by_nobody(struct holder *holder)
{
	holder->is_known = 0;
	holder->was_put_off = 0;
}

/*
 * Leaves what nobody is known to hold to the next report, the first time: it waits to be
 * accepted, or was accepted after the scan, and the next scan finds by whom. What is
 * never accepted, or is held by the kernel, is reported then all the same.
 */
static __always_inline bool put_off_once(struct holder *holder)
{
	if (holder->is_known || holder->was_put_off)
		return false;
	holder->was_put_off = 1;
	return true;
}

/* The process that runs is the one that holds the socket. */
static __always_inline void held_by_current(struct holder *holder)
{
	if (!owner_is_current(&holder->owner))
		return;
	holder->is_known = 1;
	holder->seen_by = current_scan();
}

/* The scan found `task` to hold the socket. */
static __always_inline void held_by(struct holder *holder, struct task_struct *task)
{
	__u32 scan = current_scan();

	if (holder->owner.pid != (__u32)BPF_CORE_READ(task, tgid) && holder->is_known &&
	    holder->seen_by + 1 >= scan)
		return;
	/* Also when it is the same one: it may have a new name since an exec. */
	if (!owner_of_task(task, &holder->owner))
		return;
	holder->is_known = 1;
	holder->seen_by = scan;
}

#endif

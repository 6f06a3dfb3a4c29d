/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is remembered of a task, for as long as it lives. Kernels before 5.11 have no
 * storage of tasks: there (EARLY) it is a table of the tasks that were seen last.
 */
#ifndef LIB_TASK_STORAGE_BPF_H
#define LIB_TASK_STORAGE_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#ifdef EARLY

/* Numbers are used again, so they alone do not tell tasks apart. */
struct task_key {
	__u64 start_time;
	__u32 tid;
	__u32 padding;
};

static __always_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* For the task that runs. */
static __always_inline void *task_storage(void *map, struct task_struct *task, const void *fresh)
{
	struct task_key key = {
		.start_time = BPF_CORE_READ(task, start_time),
		.tid = bpf_get_current_pid_tgid(),
	};
	void *found = bpf_map_lookup_elem(map, &key);

	if (found || !fresh)
		return found;
	bpf_map_update_elem(map, &key, fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, &key);
}

/* Room for what has none on the stack. Programs of probes are not preempted there. */
#define TASK_ROOM(name, kind)                                                                      \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                           \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, kind);                                                               \
	} name SEC(".maps")

static __always_inline void *task_room(void *map, struct task_struct *task)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(map, &zero);
}

/* LRU: the coldest task is forgotten. */
#define TASK_STORAGE(name, kind)                                                                   \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                                               \
		__uint(max_entries, 16384);                                                        \
		__type(key, struct task_key);                                                      \
		__type(value, kind);                                                               \
	} name SEC(".maps")

#else

static __always_inline struct task_struct *current_task(void)
{
	return bpf_get_current_task_btf();
}

/* Without `fresh`, what is there; with it, made of it if there is nothing. */
static __always_inline void *task_storage(void *map, struct task_struct *task, void *fresh)
{
	return bpf_task_storage_get(map, task, fresh, fresh ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
}

#define TASK_STORAGE(name, kind)                                                                   \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_TASK_STORAGE);                                           \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, int);                                                                  \
		__type(value, kind);                                                               \
	} name SEC(".maps")

/* Room for what has none on the stack. A program may be preempted by one of another task. */
#define TASK_ROOM(name, kind) TASK_STORAGE(name, kind)

static __always_inline void *task_room(void *map, struct task_struct *task)
{
	return bpf_task_storage_get(map, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Where a line comes from: parent, login, terminal and working directory of the process,
 * as they are before the line is acted upon.
 */
#ifndef BASH_CONTEXT_BPF_H
#define BASH_CONTEXT_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi/bash.h"
#include "lib/count.bpf.h"
#include "lib/task_storage.bpf.h"
#include "progs/bash/record.bpf.h"

/* Set by the loader: what is told with each line, as a set of `context_part`. */
const volatile __u32 context_parts = 0;

/* Where a context is put together: as a path, it has no room on the stack. */
struct context_room {
	struct context context;
	/* A name may begin at the last byte. */
	char cwd[CWD_MAX + NAME_MAX];
	/* The way from the working directory up to the root of the process. */
	struct dentry *at;
	struct vfsmount *on;
	struct dentry *root;
	struct vfsmount *root_mount;
};

TASK_ROOM(contexts, struct context_room);

enum { WAY_LEADS_ON = 0, WAY_ENDS = 1, WAY_IS_LOST = 2 };

/*
 * One step up, to the parent folder or to where a file system is mounted. The verifier looks at
 * functions like this one by themselves, and not again behind each way that leads there.
 */
__noinline int step_up(void)
{
	struct task_struct *task = current_task();
	struct context_room *room = task_room(&contexts, task);
	struct dentry *at, *parent;
	struct vfsmount *on;
	__u32 size;
	long read;

	if (!room)
		return WAY_IS_LOST;
	at = room->at;
	on = room->on;
	if (at == room->root && on == room->root_mount)
		return WAY_ENDS;
	if (at == BPF_CORE_READ(on, mnt_root)) {
		struct mount *mount = (void *)on - bpf_core_field_offset(struct mount, mnt);
		struct mount *below = BPF_CORE_READ(mount, mnt_parent);

		if (below == mount)
			return WAY_IS_LOST;
		room->at = BPF_CORE_READ(mount, mnt_mountpoint);
		room->on = (void *)below + bpf_core_field_offset(struct mount, mnt);
		return WAY_LEADS_ON;
	}
	parent = BPF_CORE_READ(at, d_parent);
	size = room->context.cwd_size;
	if (parent == at || size > CWD_MAX)
		return WAY_IS_LOST;
	read = bpf_probe_read_kernel_str(room->cwd + size, NAME_MAX,
					 BPF_CORE_READ(at, d_name.name));
	if (read <= 0)
		return WAY_IS_LOST;
	room->context.cwd_size = size + read;
	room->at = parent;
	return WAY_LEADS_ON;
}

/* The names of the working directory's path, over mounts. */
static __always_inline void read_cwd(struct context_room *room, struct task_struct *task)
{
	int way = WAY_LEADS_ON;

	room->at = BPF_CORE_READ(task, fs, pwd.dentry);
	room->on = BPF_CORE_READ(task, fs, pwd.mnt);
	room->root = BPF_CORE_READ(task, fs, root.dentry);
	room->root_mount = BPF_CORE_READ(task, fs, root.mnt);
#pragma clang loop unroll(disable)
	for (int step = 0; step < CWD_DEPTH && way == WAY_LEADS_ON; step++)
		way = step_up();
	room->context.has_cwd = way == WAY_ENDS;
	if (way != WAY_ENDS)
		count(COUNTER_CWDS_UNKNOWN, 1);
}

/* Where the line comes from that is told next. A function by itself as well. */
__noinline int emit_context(__u32 flavour)
{
	struct task_struct *task = current_task();
	struct context_room *room = task_room(&contexts, task);
	struct context *context;
	__u32 size;

	if (!room) {
		count(COUNTER_CONTEXTS_LOST, 1);
		return 0;
	}
	context = &room->context;
	fill(&context->event, RECORD_CONTEXT, flavour, 0);
	context->ppid = BPF_CORE_READ(task, real_parent, tgid);
	context->login_uid = -1;
	if (bpf_core_field_exists(task->loginuid))
		context->login_uid = BPF_CORE_READ(task, loginuid.val);
	__builtin_memset(context->tty, 0, sizeof(context->tty));
	/* A task without a terminal leaves it as it is. */
	bpf_probe_read_kernel_str(context->tty, sizeof(context->tty),
				  BPF_CORE_READ(task, signal, tty)->name);
	context->has_cwd = 0;
	context->cwd_size = 0;
	if (context_parts & CONTEXT_CWD)
		read_cwd(room, task);
	size = context->cwd_size;
	if (size > sizeof(room->cwd))
		return 0;
	if (bpf_ringbuf_output(&events, room, sizeof(*context) + size, 0))
		count(COUNTER_CONTEXTS_LOST, 1);
	return 0;
}

#endif

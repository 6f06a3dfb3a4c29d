/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Which process is this: the thread group of a task, by pid and name.
 */
#ifndef LIB_TASK_BPF_H
#define LIB_TASK_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "abi/net.h"

/*
 * The name is that of the group's leader: threads rename themselves at will.
 * Kernel threads own no socket; they only run what a process left behind.
 */
static __always_inline bool owner_of_task(struct task_struct *task, struct owner *owner)
{
	struct task_struct *leader;

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return false;
	owner->pid = BPF_CORE_READ(task, tgid);
	leader = BPF_CORE_READ(task, group_leader);
	BPF_CORE_READ_INTO(&owner->comm, leader, comm);
	return true;
}

static __always_inline bool owner_is_current(struct owner *owner)
{
	return owner_of_task((struct task_struct *)bpf_get_current_task(), owner);
}

static __always_inline __u32 netns_of_current(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
}

#endif

// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * bash: the commands that are typed into it.
 *
 *   sched_process_exec -> a bash starts; user space attaches the rest to its file
 *
 *   readline_entry     -> readline() begins
 *   readline_ret       -> it returns a line; at its `ret` instructions, so that a
 *                         call that began before the attach is seen too
 *   readline_return    -> the same as a uretprobe, where the former cannot be found
 *   parse_entry        -> parse_command() begins: bash reads a command, of any
 *                         number of lines
 *   parse_ret          -> it returns: the command is complete and is run next
 *
 * A file that is seen through several mounts (overlayfs) may be probed several times
 * without anybody knowing. Each program can run again for the same hit and then
 * finds nothing left to do.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi/bash.h"
#include "lib/count.bpf.h"
#include "lib/task_storage.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Some thousand lines of usual length, or 60 of the longest. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} events SEC(".maps");

/* Tasks that have called readline() or parse_command(); goes with the task. */
TASK_STORAGE(shells, struct shell);

static __always_inline void fill(struct event *event, __u32 kind, __u64 time_ns)
{
	event->kind = kind;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = bpf_get_current_uid_gid();
	event->padding = 0;
	event->time_ns = time_ns;
}

static __always_inline void emit(__u32 kind, __u32 counter)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(counter, 1);
		return;
	}
	fill(event, kind, bpf_ktime_get_ns());
	bpf_ringbuf_submit(event, 0);
}

/* Files named bash, bash5, bash-static and the like. */
static __always_inline bool is_bash(struct file *executable)
{
	const unsigned char *name = BPF_CORE_READ(executable, f_path.dentry, d_name.name);
	char start[5] = {};

	bpf_probe_read_kernel_str(start, sizeof(start), name);
	return start[0] == 'b' && start[1] == 'a' && start[2] == 's' && start[3] == 'h';
}

/* readline() may be in a library that others use too. */
static __always_inline bool current_is_bash(struct task_struct *task)
{
	return is_bash(BPF_CORE_READ(task, mm, exe_file));
}

static __always_inline struct shell *shell_of(struct task_struct *task)
{
	struct shell fresh = {}, *shell = task_storage(&shells, task, &fresh);

	if (!shell)
		count(COUNTER_SHELLS_REFUSED, 1);
	return shell;
}

/* What all parts of a line have in common, and where the next one begins. */
struct line {
	const char *text;
	__u64 time_ns;
	__u32 offset;
	__u32 flags;
};

/* Writes the next part; false when there is no other. */
static __always_inline bool emit_part(struct line *line, const __u32 room, bool is_last)
{
	struct line_part *part;
	char next = 0;
	long size;

	/* One more for the NUL that the helper writes, and what it is rounded up to. */
	part = bpf_ringbuf_reserve(&events, sizeof(*part) + room + 8, 0);
	if (!part) {
		count(COUNTER_LINES_LOST, 1);
		return false;
	}
	size = bpf_probe_read_user_str(part + 1, room + 1, line->text + line->offset);
	/* What old kernels, such as 5.10, return for the NUL alone. */
	if (size == 0)
		size = 1;
	if (size < 0)
		count(COUNTER_LINES_UNREADABLE, 1);
	/* What was read of a line before a page that cannot be read is its beginning. */
	if (size <= 0) {
		line->flags |= LINE_IS_CUT;
		size = 1;
	} else if (size == room + 1 && is_last) {
		bpf_probe_read_user(&next, sizeof(next), line->text + line->offset + room);
		if (next)
			line->flags |= LINE_IS_CUT;
	}
	if (size <= room || is_last)
		line->flags |= LINE_ENDS;
	fill(&part->event, RECORD_LINE, line->time_ns);
	part->flags = line->flags;
	part->offset = line->offset;
	part->size = size - 1;
	part->padding = 0;
	bpf_ringbuf_submit(part, 0);
	line->offset += room;
	line->flags &= ~LINE_STARTS;
	return !(line->flags & LINE_ENDS);
}

static __always_inline void emit_line(const char *text, __u32 flags)
{
	struct line line = {
		.text = text,
		.time_ns = bpf_ktime_get_ns(),
		.flags = flags | LINE_STARTS,
	};

	if (!emit_part(&line, FIRST_PART, false))
		return;
#pragma clang loop unroll(disable)
	for (int part = 1; part <= NEXT_PARTS; part++) {
		if (!emit_part(&line, NEXT_PART, part == NEXT_PARTS))
			return;
	}
}

static __always_inline void handle_line(const char *text)
{
	struct task_struct *task = current_task();
	struct shell *shell = task_storage(&shells, task, NULL);
	__u32 flags = 0;

	if (!shell || !shell->is_reading)
		return;
	shell->is_reading = 0;
	/* No text is the end of the input; an empty line has some. */
	if (!text || !current_is_bash(task))
		return;
	if (shell->is_parsing) {
		flags = LINE_IN_COMMAND;
		if (!shell->lines++)
			flags |= LINE_BEGINS_COMMAND;
	}
	emit_line(text, flags);
}

static __always_inline void handle_exec(struct linux_binprm *binary)
{
	if (is_bash(BPF_CORE_READ(binary, file)))
		emit(RECORD_EXEC, COUNTER_STARTS_LOST);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *binary)
{
	handle_exec(binary);
	return 0;
}

/* The same, where tp_btf is not to be used. */
SEC("raw_tp/sched_process_exec")
int BPF_PROG(exec_untyped, struct task_struct *task, int old_pid, struct linux_binprm *binary)
{
	handle_exec(binary);
	return 0;
}

SEC("uprobe")
int readline_entry(struct pt_regs *ctx)
{
	struct task_struct *task = current_task();
	struct shell *shell;

	if (!current_is_bash(task))
		return 0;
	shell = shell_of(task);
	if (shell)
		shell->is_reading = 1;
	return 0;
}

SEC("uprobe")
int readline_ret(struct pt_regs *ctx)
{
	handle_line((const char *)PT_REGS_RC(ctx));
	return 0;
}

SEC("uretprobe")
int readline_return(struct pt_regs *ctx)
{
	handle_line((const char *)PT_REGS_RC(ctx));
	return 0;
}

/*
 * Bash parses while it reads, for prompts and traps. That has a lower stack than the
 * reading. A stack as high as the one remembered means that the reading was given
 * up, with a jump, and starts anew.
 */
SEC("uprobe")
int parse_entry(struct pt_regs *ctx)
{
	struct shell *shell = shell_of(current_task());
	__u64 stack = PT_REGS_SP(ctx);

	if (!shell || (shell->is_parsing && stack < shell->stack))
		return 0;
	shell->is_parsing = 1;
	shell->stack = stack;
	shell->lines = 0;
	return 0;
}

SEC("uprobe")
int parse_ret(struct pt_regs *ctx)
{
	struct shell *shell = task_storage(&shells, current_task(), NULL);

	if (!shell || !shell->is_parsing || shell->stack != PT_REGS_SP(ctx))
		return 0;
	shell->is_parsing = 0;
	if (shell->lines)
		emit(RECORD_COMMAND_END, COUNTER_ENDS_LOST);
	return 0;
}

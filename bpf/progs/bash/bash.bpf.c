// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * bash: the commands that are typed into it, and into other shells.
 *
 *   sched_process_exec -> a shell starts; user space attaches the rest to its file
 *
 *   readline_entry     -> readline() begins; or PyOS_Readline(), which python calls
 *                         for what is typed, whatever edits the line
 *   readline_ret       -> it returns a line; at its `ret` instructions, so that a
 *                         call that began before the attach is seen too
 *   readline_return    -> the same as a uretprobe, where the former cannot be found
 *   zle_entry, zle_ret -> the same for zleentry(), through which zsh reads lines,
 *                         among other things
 *   parse_entry        -> parse_command() begins: bash reads a command, of any
 *                         number of lines; or parse_event(), of zsh
 *   parse_ret          -> it returns: the command is complete and is run next
 *   parse_return       -> the same as a uretprobe, where the former cannot be found
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
#include "progs/bash/context.bpf.h"
#include "progs/bash/record.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set by the loader: which shells are looked at, as a set of `flavour`. */
const volatile __u32 flavours = FLAVOUR_BASH;

/* ZLE_CMD_READ of zsh. */
enum { ZLE_READ = 1 };

/* Tasks that have called readline() or parse_command(); goes with the task. */
TASK_STORAGE(shells, struct shell);

/* Where a part is put together. */
struct part_room {
	struct line_part part;
	char text[PART_MAX + 8];
};

TASK_ROOM(parts, struct part_room);

/*
 * Files named bash, bash5, bash-static and the like, and so for the others; user space
 * looks closer. 0 for those that nobody asked for.
 */
static __always_inline __u32 flavour_of(struct file *executable)
{
	const unsigned char *name = BPF_CORE_READ(executable, f_path.dentry, d_name.name);
	char start[5] = {};
	__u32 flavour = 0;

	bpf_probe_read_kernel_str(start, sizeof(start), name);
	if (start[0] == 'b' && start[1] == 'a' && start[2] == 's' && start[3] == 'h')
		flavour = FLAVOUR_BASH;
	else if (start[0] == 'z' && start[1] == 's' && start[2] == 'h')
		flavour = FLAVOUR_ZSH;
	else if (start[0] == 'p' && start[1] == 'y' && start[2] == 't' && start[3] == 'h')
		flavour = FLAVOUR_PYTHON;
	else if (start[0] == 'p' && start[1] == 's' && start[2] == 'q' && start[3] == 'l')
		flavour = FLAVOUR_PSQL;
	return flavour & flavours;
}

/* readline() may be in a library that others use too. */
static __always_inline __u32 flavour_of_task(struct task_struct *task)
{
	return flavour_of(BPF_CORE_READ(task, mm, exe_file));
}

static __always_inline struct shell *shell_of(struct task_struct *task)
{
	struct shell fresh = {}, *shell = task_storage(&shells, task, &fresh);

	if (!shell)
		count(COUNTER_SHELLS_REFUSED, 1);
	return shell;
}

/* Where the next part of a line begins, and what is to be said of it. */
struct line {
	const char *text;
	__u32 offset;
	__u32 flags;
};

/* Writes the next part; false when there is no other. */
static __always_inline bool emit_part(struct line *line, struct part_room *room, bool is_last)
{
	struct line_part *part = &room->part;
	char next = 0;
	long size;

	/* One more for the NUL that the helper writes. */
	size = bpf_probe_read_user_str(room->text, PART_MAX + 1, line->text + line->offset);
	/* What old kernels, such as 5.10, return for the NUL alone. */
	if (size == 0)
		size = 1;
	if (size < 0)
		count(COUNTER_LINES_UNREADABLE, 1);
	/* What was read of a line before a page that cannot be read is its beginning. */
	if (size <= 0) {
		line->flags |= LINE_IS_CUT;
		size = 1;
	} else if (size == PART_MAX + 1 && is_last) {
		bpf_probe_read_user(&next, sizeof(next), line->text + line->offset + PART_MAX);
		if (next)
			line->flags |= LINE_IS_CUT;
	}
	if (size <= PART_MAX || is_last)
		line->flags |= LINE_ENDS;
	part->flags = line->flags;
	part->offset = line->offset;
	part->size = size - 1;
	part->padding = 0;
	/* No longer than its text: a thousand short lines may be pasted at once. */
	if (bpf_ringbuf_output(&events, room, sizeof(*part) + size - 1, 0)) {
		count(COUNTER_LINES_LOST, 1);
		return false;
	}
	line->offset += PART_MAX;
	line->flags &= ~LINE_STARTS;
	return !(line->flags & LINE_ENDS);
}

static __always_inline void emit_line(struct task_struct *task, const char *text, __u32 flavour,
				      __u32 flags)
{
	struct part_room *room = task_room(&parts, task);
	struct line line = {.text = text, .flags = flags | LINE_STARTS};

	if (!room) {
		count(COUNTER_LINES_LOST, 1);
		return;
	}
	fill(&room->part.event, RECORD_LINE, flavour, bpf_ktime_get_ns());
#pragma clang loop unroll(disable)
	for (int part = 1; part <= PARTS; part++) {
		if (!emit_part(&line, room, part == PARTS))
			return;
	}
}

static __always_inline void handle_line(struct task_struct *task, struct shell *shell,
					const char *text)
{
	__u32 flavour, flags = 0;
	char first = 0;

	if (!shell->is_reading)
		return;
	shell->is_reading = 0;
	flavour = flavour_of_task(task);
	/* No text is the end of the input; an empty line has some. */
	if (!text || !flavour)
		return;
	/* Lines of python have their line break; without one they are that end. */
	if (flavour == FLAVOUR_PYTHON && !bpf_probe_read_user(&first, sizeof(first), text) &&
	    !first)
		return;
	if (shell->is_parsing) {
		flags = LINE_IN_COMMAND;
		if (!shell->lines++)
			flags |= LINE_BEGINS_COMMAND;
	}
	if (context_parts)
		emit_context(flavour);
	emit_line(task, text, flavour, flags);
}

static __always_inline void handle_readline_end(const char *text)
{
	struct task_struct *task = current_task();
	struct shell *shell = task_storage(&shells, task, NULL);

	if (shell)
		handle_line(task, shell, text);
}

static __always_inline void handle_exec(struct linux_binprm *binary)
{
	__u32 flavour = flavour_of(BPF_CORE_READ(binary, file));

	if (flavour)
		emit(RECORD_EXEC, flavour, COUNTER_STARTS_LOST);
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

	if (!flavour_of_task(task))
		return 0;
	shell = shell_of(task);
	if (shell)
		shell->is_reading = 1;
	return 0;
}

SEC("uprobe")
int readline_ret(struct pt_regs *ctx)
{
	handle_readline_end((const char *)PT_REGS_RC(ctx));
	return 0;
}

SEC("uretprobe")
int readline_return(struct pt_regs *ctx)
{
	handle_readline_end((const char *)PT_REGS_RC(ctx));
	return 0;
}

/*
 * What it is called for is its first argument, and it calls itself while it reads, as
 * for a widget: with a lower stack. `above` is known only if the call was seen, and is
 * at least as high as whatever was called from it.
 */
SEC("uprobe")
int zle_entry(struct pt_regs *ctx)
{
	struct task_struct *task = current_task();
	__u64 stack = PT_REGS_SP(ctx);
	struct shell *shell;

	if ((__u32)PT_REGS_PARM1(ctx) != ZLE_READ) {
		shell = task_storage(&shells, task, NULL);
		if (shell && shell->above < stack)
			shell->above = stack;
		return 0;
	}
	shell = shell_of(task);
	if (shell) {
		shell->is_reading = 1;
		shell->above = stack - 1;
	}
	return 0;
}

SEC("uprobe")
int zle_ret(struct pt_regs *ctx)
{
	struct task_struct *task = current_task();
	struct shell *shell = task_storage(&shells, task, NULL);

	if (shell && PT_REGS_SP(ctx) > shell->above)
		handle_line(task, shell, (const char *)PT_REGS_RC(ctx));
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

static __always_inline void handle_parse_end(struct shell *shell)
{
	shell->is_parsing = 0;
	if (shell->lines)
		emit(RECORD_COMMAND_END, 0, COUNTER_ENDS_LOST);
}

SEC("uprobe")
int parse_ret(struct pt_regs *ctx)
{
	struct shell *shell = task_storage(&shells, current_task(), NULL);

	if (shell && shell->is_parsing && shell->stack == PT_REGS_SP(ctx))
		handle_parse_end(shell);
	return 0;
}

/* Where a return takes its address off the stack, that is higher by then. */
SEC("uretprobe")
int parse_return(struct pt_regs *ctx)
{
	struct shell *shell = task_storage(&shells, current_task(), NULL);

	if (shell && shell->is_parsing && shell->stack <= PT_REGS_SP(ctx))
		handle_parse_end(shell);
	return 0;
}

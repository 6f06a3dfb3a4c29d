/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Records of ebpf-bash: what its BPF programs write and its decoder reads.
 * All go through one ring, so those of one process are in their order.
 */
#ifndef ABI_BASH_H
#define ABI_BASH_H

#include "abi/types.h"

enum record_kind {
	/* A process has become a shell: an `event`. */
	RECORD_EXEC = 1,
	/* A line that was entered, or a part of one: a `line_part`. */
	RECORD_LINE = 2,
	/* The lines since the last one of these are a whole command: an `event`. */
	RECORD_COMMAND_END = 3,
	/* Where the process is that enters the line which follows: a `context`. */
	RECORD_CONTEXT = 4,
};

/* What kind of shell it is: by the name of the file that it runs, roughly. */
enum flavour {
	FLAVOUR_BASH = 1,
	FLAVOUR_ZSH = 2,
	FLAVOUR_PYTHON = 4,
	FLAVOUR_PSQL = 8,
};

/* Parts of a `context`, as user space asks for them. */
enum context_part {
	CONTEXT_PPID = 1,
	CONTEXT_LOGIN_UID = 2,
	CONTEXT_TTY = 4,
	CONTEXT_CWD = 8,
};

enum line_flags {
	/* The first part of its line. */
	LINE_STARTS = 1,
	/* The last part of its line. */
	LINE_ENDS = 2,
	/* Lines may follow that belong to the same command; RECORD_COMMAND_END will say. */
	LINE_IN_COMMAND = 4,
	/* The first line since bash began to read a command. */
	LINE_BEGINS_COMMAND = 8,
	/* The line is longer than LINE_MAX: the rest was not read. */
	LINE_IS_CUT = 16,
};

/* Bytes of text that a part has room for, and how many parts a line may have. */
enum line_size {
	PART_MAX = 4096,
	PARTS = 16,
	LINE_MAX = PARTS * PART_MAX,
};

/* Bytes of a path, of one name in it, and how many names and mounts are followed. */
enum cwd_size {
	CWD_MAX = 4096,
	NAME_MAX = 256,
	CWD_DEPTH = 64,
};

/* Index into the per-CPU `counters` map: what could not be recorded. */
enum counter {
	/* Lines of which a part found no room in the ring. */
	COUNTER_LINES_LOST = 0,
	/* Lines whose memory could not be read. */
	COUNTER_LINES_UNREADABLE = 1,
	/* Starts of a bash, and ends of a command, that found no room in the ring. */
	COUNTER_STARTS_LOST = 2,
	COUNTER_ENDS_LOST = 3,
	/* Processes for which the kernel had no memory. */
	COUNTER_SHELLS_REFUSED = 4,
	/* Contexts that found no room in the ring or in memory. */
	COUNTER_CONTEXTS_LOST = 5,
	/* Working directories that are too deep or too long, or out of the process's root. */
	COUNTER_CWDS_UNKNOWN = 6,
	COUNTER_COUNT = 7,
};

/* What happened, in which process of the host's pid namespace, when. */
struct event {
	__u32 kind;
	__u32 pid;
	/* Real user id, as the host's user namespace has it. */
	__u32 uid;
	/* One `flavour`. */
	__u32 flavour;
	/* CLOCK_MONOTONIC. */
	__u64 time_ns;
};
_Static_assert(sizeof(struct event) == 24, "event is wire format");

/* `size` bytes of text follow. */
struct line_part {
	struct event event;
	__u32 flags;
	/* Where in the line the text belongs. */
	__u32 offset;
	__u32 size;
	__u32 padding;
};
_Static_assert(sizeof(struct line_part) == 40, "line_part is wire format");

/* `cwd_size` bytes of the working directory follow: its names from the last to the first, each with
 * a NUL. */
struct context {
	struct event event;
	__u32 ppid;
	/* 0xffffffff for none. */
	__u32 login_uid;
	/* As the kernel calls it, NUL-padded: pts0, tty1. */
	char tty[32];
	/* Whether it could be followed to the root. */
	__u32 has_cwd;
	__u32 cwd_size;
};
_Static_assert(sizeof(struct context) == 72, "context is wire format");

/* What is remembered of a task that reads commands; user space sets `is_reading`. */
struct shell {
	/* It is inside readline(). */
	__u32 is_reading;
	/* It is inside parse_command(), and how many lines that has read. */
	__u32 is_parsing;
	__u64 lines;
	/* Where the stack was when that began: what it calls itself has a lower one. */
	__u64 stack;
	/* The stack is higher than this when the reading ends; of a zsh only. */
	__u64 above;
};
_Static_assert(sizeof(struct shell) == 32, "shell is set by user space");

#endif

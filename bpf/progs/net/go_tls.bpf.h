/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Plaintext of TLS in Go's crypto/tls, and the socket below it.
 *
 *   Write begins  -> its bytes, into the ring: the answer may be there before it returns
 *   Read returns  -> the bytes that it gave
 *   a handshake   -> a new session, which uses its socket
 *   Close         -> the session's end
 *
 * A call may return on another thread than it began on, so it is known by its
 * goroutine, whose address Go keeps in a register, also while it is in the kernel. Go
 * moves stacks: what lies on one is told by its distance from the upper end. Nothing
 * else is known of Go's memory than that a goroutine begins with the ends of its stack.
 */
#ifndef NET_GO_TLS_BPF_H
#define NET_GO_TLS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/tls.bpf.h"

/* The registers of Go's own calling convention, since Go 1.17 and 1.18. */
#if defined(__TARGET_ARCH_x86)
#define GO_GOROUTINE(of) ((of)->r14)
#define GO_PARM1(of) ((of)->ax)
#define GO_PARM2(of) ((of)->bx)
#define GO_PARM3(of) ((of)->cx)
#elif defined(__TARGET_ARCH_arm64)
#define GO_GOROUTINE(of) (((struct user_pt_regs *)(of))->regs[28])
#define GO_PARM1(of) (((struct user_pt_regs *)(of))->regs[0])
#define GO_PARM2(of) (((struct user_pt_regs *)(of))->regs[1])
#define GO_PARM3(of) (((struct user_pt_regs *)(of))->regs[2])
#endif
#define GO_RESULT1(of) GO_PARM1(of)

struct go_key {
	__u64 goroutine;
	__u32 pid;
	__u32 life;
};

struct go_stack {
	__u64 low;
	__u64 high;
};

/* The call that a goroutine is in. */
struct go_call {
	__u64 session;
	__u64 buffer;
	/* How far below the end of the stack the buffer lies; 0: not on the stack. */
	__u64 buffer_below;
	/* The same of the stack pointer. */
	__u64 depth;
	__u32 way;
	__u32 has_socket;
};

/*
 * Goroutines in calls: most of them wait for a request to come. Full: the coldest one
 * is forgotten, and what it reads next is missing.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct go_key);
	__type(value, struct go_call);
	__uint(max_entries, TLS_STREAMS);
} go_calls SEC(".maps");

/* What programs work on: too much for the stack of a uprobe's. */
struct go_scratch {
	struct go_key key;
	struct go_stack stack;
	struct go_call call;
};

/* One for each thread that runs Go; goes with the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct go_scratch);
} go_scratches SEC(".maps");

static __always_inline struct go_scratch *go_scratch_of_current(void)
{
	return bpf_task_storage_get(&go_scratches, bpf_get_current_task_btf(), NULL,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline bool go_stack_of(const struct go_key *key, __u64 sp, struct go_stack *stack)
{
	return !bpf_probe_read_user(stack, sizeof(*stack), (void *)key->goroutine) &&
	       stack->low < sp && sp <= stack->high;
}

static __always_inline struct go_key go_key_of(__u64 goroutine)
{
	struct go_key key = {
		.goroutine = goroutine,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.life = life_of_current(),
	};

	return key;
}

static __always_inline void go_moves(__u64 session, __u8 way, __u64 buffer, __u64 size)
{
	struct tls_key key = tls_key_of(session);
	struct tls_stream *stream = tls_stream_of(&key);
	struct tls_move move = {.session = session, .size = size, .way = way};

	if (!stream) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	move.time_ns = bpf_ktime_get_ns();
	tls_moved(stream, &move, buffer);
}

/* A session that was there before, at the same address, and was not closed. */
static __always_inline void go_forgets(__u64 session)
{
	struct tls_key key = tls_key_of(session);

	bpf_map_delete_elem(&tls_streams, &key);
}

/* As with other libraries, the outer one of two calls counts. */
static __always_inline void go_begins(struct pt_regs *ctx, __u32 way)
{
	struct go_scratch *here = go_scratch_of_current();
	__u64 sp = PT_REGS_SP(ctx);
	struct go_call *call, *fresh;
	struct tls_call *thread;
	bool begins_again;

	if (!here)
		goto lost;
	here->key = go_key_of(GO_GOROUTINE(ctx));
	if (!go_stack_of(&here->key, sp, &here->stack))
		goto lost;
	fresh = &here->call;
	fresh->session = GO_PARM1(ctx);
	fresh->way = way;
	fresh->depth = here->stack.high - sp;
	fresh->buffer = 0;
	fresh->buffer_below = 0;
	fresh->has_socket = 0;
	call = bpf_map_lookup_elem(&go_calls, &here->key);
	/* The return of a handshake is not seen: it may be over. */
	if (call && call->way != TLS_HANDSHAKE && call->depth < fresh->depth &&
	    (call->session != fresh->session || way == TLS_HANDSHAKE))
		return;
	/* The stack was too small: it was made larger, and the function was entered once more. */
	begins_again = call && call->depth == fresh->depth && call->session == fresh->session &&
		       call->way == way;
	if (way == TLS_HANDSHAKE) {
		go_forgets(fresh->session);
	} else {
		fresh->buffer = GO_PARM2(ctx);
		if (here->stack.low <= fresh->buffer && fresh->buffer < here->stack.high)
			fresh->buffer_below = here->stack.high - fresh->buffer;
	}
	thread = bpf_task_storage_get(&tls_calls, bpf_get_current_task_btf(), NULL,
				      BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread || bpf_map_update_elem(&go_calls, &here->key, fresh, BPF_ANY))
		goto lost;
	thread->is_go = 1;
	if (way == TLS_OUT && !begins_again && GO_PARM3(ctx))
		go_moves(fresh->session, TLS_OUT, fresh->buffer, GO_PARM3(ctx));
	return;
lost:
	count(COUNTER_TLS_PIECES_LOST, 1);
}

/* At an instruction that returns: nothing but the stack pointer is as it was. */
static __always_inline void go_returns(struct pt_regs *ctx)
{
	struct go_scratch *here = go_scratch_of_current();
	__s64 result = GO_RESULT1(ctx);
	__u64 sp = PT_REGS_SP(ctx), buffer;
	struct go_call *call;

	if (!here) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	here->key = go_key_of(GO_GOROUTINE(ctx));
	call = bpf_map_lookup_elem(&go_calls, &here->key);
	if (!call || !go_stack_of(&here->key, sp, &here->stack) ||
	    here->stack.high - sp != call->depth)
		return;
	here->call = *call;
	bpf_map_delete_elem(&go_calls, &here->key);
	call = &here->call;
	if (call->way != TLS_IN || result <= 0)
		return;
	buffer = call->buffer_below ? here->stack.high - call->buffer_below : call->buffer;
	go_moves(call->session, TLS_IN, buffer, result);
}

/* A thread of Go uses a socket: for the goroutine that runs on it. */
static __always_inline void go_socket(struct sock *sk)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u64 goroutine = 0;
	struct go_call *call;
	struct go_key key;

	bpf_probe_read_kernel(&goroutine, sizeof(goroutine), &GO_GOROUTINE(regs));
	key = go_key_of(goroutine);
	call = bpf_map_lookup_elem(&go_calls, &key);
	if (!call || call->has_socket)
		return;
	call->has_socket = 1;
	tls_join(call->session, sk);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Plaintext of TLS, at the library that a process uses, and the socket below it.
 *
 *   a call begins    -> the thread is in a call, for a session
 *   a socket is used -> inside of the call: it is the session's
 *   the call returns -> the bytes that it took or gave: into the ring
 *   session freed    -> the same, without bytes
 *
 * Nothing is known of the library's memory. A library that is given its bytes by the
 * process (node, asyncio, gRPC) touches no socket. Then it takes two witnesses: the
 * socket that the thread sends to next after it has handed bytes over, and the one
 * that it received from last before it was given some. If they name the same one, it
 * is the session's; as long as they do not, the session has none.
 *
 * Programs of uprobes have little on their stack: see STACK_BYTES_AT_UPROBES in
 * bpf/src/lib.rs. What is larger lies with the thread.
 */
#ifndef NET_TLS_BPF_H
#define NET_TLS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "lib/sock.bpf.h"
#include "lib/task.bpf.h"
#include "progs/net/tcp.bpf.h"

/* Wake the reader when this much is waiting; it also comes by on its own. */
#define TLS_WAKEUP_BYTES (512 * 1024)

/* Set by the loader before load: whether probes are told how deep their place lies. */
const volatile __u8 tls_places = 0;

struct tls_key {
	__u64 session;
	__u32 pid;
	/* Of which program that the process has run, and which process of that pid. */
	__u32 life;
};

/* The call that a thread is in. */
struct tls_call {
	/* 0: in none. */
	__u64 session;
	__u64 buffer;
	/* Where the size will be, of the functions that do not return it. */
	__u64 size_at;
	__u64 stack;
	__u64 time_ns;
	__u32 way;
	/* A socket was used in it. */
	__u32 has_socket;
	/* The session that left bytes which the thread has yet to write to a socket. */
	__u64 unsent;
	/* The socket that the thread received from last, outside of calls; 0: it is used up. */
	__u64 received;
	/* The session that has read since then, maybe in vain. */
	__u64 received_for;
	/* What runs on this thread is Go: see go_tls.bpf.h. */
	__u64 is_go;
	/* Where a program has a key that would be too much for its stack. */
	struct tls_key key;
};

/* Threads that have called a TLS library; goes with the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tls_call);
} tls_calls SEC(".maps");

struct tls_stream {
	struct tuple tuple;
	struct owner owner;
	__u8 family;
	__u8 role;
	__u16 padding;
	__u64 born_ns;
	/* The socket; 0 as long as it is not certain, though the tuple may be filled. */
	__u64 cookie;
	/* The sockets that the two witnesses name, where no call uses one. */
	__u64 sent_to;
	__u64 received_from;
	/* Bytes that went either way. */
	__u64 moved[2];
};

/*
 * Sessions. Full: the coldest one is forgotten; if it says more it is a new one, of
 * which the beginning was missed. The loader makes it small when TLS is not wanted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct tls_key);
	__type(value, struct tls_stream);
	__uint(max_entries, TLS_STREAMS);
} tls_streams SEC(".maps");

/*
 * What a session is at first, made by a thread: Go reads and writes on two of them, and
 * neither must see a session half made. Of it, only the owner and the birth are ever set.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tls_stream);
} tls_fresh SEC(".maps");

/* Full: counted, and the piece is missing. The loader makes it small as well. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TLS_PIECES_BYTES);
} tls_pieces SEC(".maps");

/* Full: counted; such a program is found by the next look at all processes. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TLS_STARTS_BYTES);
} tls_starts SEC(".maps");

static __always_inline void tls_started(void)
{
	struct tls_start *start = bpf_ringbuf_reserve(&tls_starts, sizeof(*start), 0);

	/* The thread is in no call any more. */
	bpf_task_storage_delete(&tls_calls, bpf_get_current_task_btf());
	if (!start) {
		count(COUNTER_TLS_STARTS_LOST, 1);
		return;
	}
	start->pid = bpf_get_current_pid_tgid() >> 32;
	start->padding = 0;
	bpf_ringbuf_submit(start, 0);
}

/*
 * Addresses come again after an exec, and in another process with the same pid: those
 * of Go are the same each time.
 */
static __always_inline __u32 life_of_current(void)
{
	struct task_struct *leader = bpf_get_current_task_btf()->group_leader;

	return leader->self_exec_id + (leader->start_boottime >> 10);
}

static __always_inline struct tls_key tls_key_of(__u64 session)
{
	struct tls_key key = {
		.session = session,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.life = life_of_current(),
	};

	return key;
}

static __always_inline struct tls_stream *tls_stream_of(const struct tls_key *key)
{
	struct tls_stream *stream = bpf_map_lookup_elem(&tls_streams, key), *fresh;

	if (stream)
		return stream;
	fresh = bpf_task_storage_get(&tls_fresh, bpf_get_current_task_btf(), NULL,
				     BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!fresh)
		return NULL;
	fresh->born_ns = bpf_ktime_get_ns();
	owner_is_current(&fresh->owner);
	bpf_map_update_elem(&tls_streams, key, fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tls_streams, key);
}

/* The stack pointer as it was when the function began. */
static __always_inline __u64 tls_stack(struct pt_regs *ctx)
{
	__u64 stack = PT_REGS_SP(ctx);

	return tls_places ? stack + bpf_get_attach_cookie(ctx) : stack;
}

static __always_inline struct tls_call *tls_call_of_current(void)
{
	return bpf_task_storage_get(&tls_calls, bpf_get_current_task_btf(), NULL, 0);
}

/* What of a piece is not its bytes. */
struct tls_move {
	__u64 session;
	__u64 position;
	__u64 size;
	__u64 time_ns;
	__u8 way;
};

static __always_inline void tls_fill(struct tls_piece *piece, const struct tls_stream *stream,
				     const struct tls_move *move)
{
	piece->tuple = stream->tuple;
	piece->owner = stream->owner;
	piece->family = stream->family;
	piece->way = move->way;
	piece->role = stream->role;
	piece->padding = 0;
	piece->session = move->session;
	piece->born_ns = stream->born_ns;
	piece->cookie = stream->cookie;
	piece->position = move->position;
	piece->size = move->size;
	piece->time_ns = move->time_ns;
	piece->captured = 0;
	piece->padding2 = 0;
}

static __always_inline void tls_submit(struct tls_piece *piece)
{
	__u64 waiting = bpf_ringbuf_query(&tls_pieces, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(piece,
			   waiting >= TLS_WAKEUP_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* Room for `room` bytes is known at compile time, as the kernel wants it. */
static __always_inline void tls_emit(const struct tls_stream *stream, const struct tls_move *move,
				     __u64 buffer, const __u32 room)
{
	struct tls_piece *piece;
	__u64 captured = move->size;

	piece = bpf_ringbuf_reserve(&tls_pieces, sizeof(*piece) + room, 0);
	if (!piece) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	tls_fill(piece, stream, move);
	/* Or else the compiler checks a copy, which the verifier does not see. */
	barrier_var(captured);
	if (captured > room)
		captured = room;
	if (!bpf_probe_read_user(piece + 1, captured, (void *)buffer))
		piece->captured = captured;
	else
		count(COUNTER_TLS_PIECES_LOST, 1);
	tls_submit(piece);
}

/* Bytes went, and are in the buffer now. */
static __always_inline void tls_moved(struct tls_stream *stream, struct tls_move *move,
				      __u64 buffer)
{
	__u64 size = move->size;

	move->position = stream->moved[move->way == TLS_OUT];
	stream->moved[move->way == TLS_OUT] += size;
	if (size <= TLS_SMALL_BYTES)
		tls_emit(stream, move, buffer, TLS_SMALL_BYTES);
	else if (size <= TLS_MEDIUM_BYTES)
		tls_emit(stream, move, buffer, TLS_MEDIUM_BYTES);
	else
		tls_emit(stream, move, buffer, TLS_LARGE_BYTES);
}

static __always_inline void tls_compare(struct tls_stream *stream)
{
	if (stream->sent_to && stream->sent_to == stream->received_from)
		stream->cookie = stream->sent_to;
}

/* A session is used by one thread at a time: the libraries demand it. */
static __always_inline void tls_took(struct tls_call *call, __u64 session, __u64 size)
{
	struct tls_move move = {.session = session, .size = size};
	struct tls_stream *stream;

	call->key = tls_key_of(session);
	stream = tls_stream_of(&call->key);
	if (!stream) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	if (call->way == TLS_OUT) {
		move.way = TLS_OUT;
		move.time_ns = call->time_ns;
		if (!call->has_socket && !stream->cookie)
			call->unsent = session;
	} else {
		move.way = TLS_IN;
		move.time_ns = bpf_ktime_get_ns();
		if (call->received && !call->has_socket && !stream->cookie) {
			stream->received_from = call->received;
			tls_compare(stream);
		}
		call->received = 0;
	}
	tls_moved(stream, &move, call->buffer);
}

/*
 * A session may use another one to send its bytes, as through a TLS proxy, or begin
 * with a handshake: that happens further down the stack, and the outer call counts.
 * One that was given up, with a jump, is followed by one further up or for the same
 * session.
 */
static __always_inline void tls_begins(struct pt_regs *ctx, __u32 way, __u64 size_at)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 session = PT_REGS_PARM1(ctx), stack = tls_stack(ctx);
	struct tls_call *call;

	call = bpf_task_storage_get(&tls_calls, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!call) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	if (call->session && stack < call->stack &&
	    (call->session != session || way == TLS_HANDSHAKE))
		return;
	/* Some libraries are asked for what they have left before they are given more. */
	if (way != TLS_IN || (call->received_for && call->received_for != session))
		call->received = 0;
	call->received_for = session;
	call->session = session;
	call->buffer = PT_REGS_PARM2(ctx);
	call->size_at = size_at;
	call->stack = stack;
	call->time_ns = bpf_ktime_get_ns();
	call->way = way;
	call->has_socket = 0;
}

static __always_inline void tls_returns(struct pt_regs *ctx)
{
	struct tls_call *call = tls_call_of_current();
	__u64 session, size;
	int result;

	/* The return address is off the stack, where it was on it. */
	if (!call || !call->session || tls_stack(ctx) - call->stack > sizeof(long))
		return;
	session = call->session;
	call->session = 0;
	if (call->way == TLS_HANDSHAKE)
		return;
	result = PT_REGS_RC(ctx);
	if (result <= 0)
		return;
	size = result;
	if (call->size_at && bpf_probe_read_user(&size, sizeof(size), (void *)call->size_at)) {
		count(COUNTER_TLS_PIECES_LOST, 1);
		return;
	}
	if (size)
		tls_took(call, session, size);
}

static __always_inline void tls_freed(__u64 session)
{
	struct tls_key key = tls_key_of(session);
	struct tls_stream *stream = bpf_map_lookup_elem(&tls_streams, &key);
	struct tls_move move = {.session = session, .way = TLS_END};
	struct tls_piece *piece;

	if (!stream)
		return;
	piece = bpf_ringbuf_reserve(&tls_pieces, sizeof(*piece), 0);
	if (piece) {
		move.time_ns = bpf_ktime_get_ns();
		tls_fill(piece, stream, &move);
		tls_submit(piece);
	} else {
		count(COUNTER_TLS_PIECES_LOST, 1);
	}
	bpf_map_delete_elem(&tls_streams, &key);
}

static __always_inline void tls_describe(struct tls_stream *stream, struct sock *sk)
{
	struct tcp_conn *conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);

	stream->role = conn ? conn->role : ROLE_UNKNOWN;
	stream->family = tuple_of_sock(sk, &stream->tuple);
}

/* A call for the session uses a socket. */
static __always_inline void tls_join(__u64 session, struct sock *sk)
{
	struct tls_key key = tls_key_of(session);
	struct tls_stream *stream = tls_stream_of(&key);
	__u64 cookie = bpf_get_socket_cookie(sk);

	if (!stream || stream->cookie == cookie)
		return;
	/* Another connection at the same address, of a session whose end was not seen. */
	if (stream->cookie) {
		stream->born_ns = bpf_ktime_get_ns();
		stream->moved[TLS_IN] = 0;
		stream->moved[TLS_OUT] = 0;
	}
	tls_describe(stream, sk);
	stream->cookie = cookie;
}

/* The thread sends to a socket after it was handed bytes to send. */
static __always_inline void tls_sends(__u64 session, struct sock *sk)
{
	struct tls_key key = tls_key_of(session);
	struct tls_stream *stream = bpf_map_lookup_elem(&tls_streams, &key);

	if (!stream || stream->cookie)
		return;
	tls_describe(stream, sk);
	stream->sent_to = bpf_get_socket_cookie(sk);
	tls_compare(stream);
}

/* The thread of a library like OpenSSL uses a socket. */
static __always_inline void tls_socket(struct tls_call *call, struct sock *sk, bool sends,
				       int result)
{
	__u64 session = call->session;

	if (session) {
		if (call->has_socket)
			return;
		call->has_socket = 1;
		tls_join(session, sk);
	} else if (!sends && result > 0) {
		call->received = bpf_get_socket_cookie(sk);
		call->received_for = 0;
	} else if (sends && call->unsent) {
		session = call->unsent;
		call->unsent = 0;
		tls_sends(session, sk);
	}
}

#endif

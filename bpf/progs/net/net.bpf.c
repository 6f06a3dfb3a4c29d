// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * net: what every connection of this host moved, and who moved it.
 *
 *   inet_sock_set_state -> a connection starts, is established, is closed
 *   sock_release        -> the process that held a socket lets go of it
 *   sock_create         -> the process that made a UDP socket
 *   ingress, egress     -> payload bytes of UDP packets; copies of DNS packets; HTTP in
 *                          TCP packets
 *   tls_..., go_...     -> plaintext at TLS libraries, and the sockets that they use
 *   sched_process_exec  -> a program starts, which may use one
 *
 *   scan_listeners      <- at start: ports that are listened on
 *   scan_sockets        <- before each report: who holds which socket
 *   report_tcp          <- what each TCP connection did since the last report
 *   report_udp_flows    <- what each UDP conversation did since then
 *   walk_http           <- HTTP exchanges that ended without anything after them
 *   report_tcp_of_files, walk_http_of_files
 *                       <- the same of sockets that processes hold, where the kernel
 *                          has no iterators over maps
 *
 * Nothing runs for a system call, but with httpflow-tls for each that uses a socket.
 * Without httpflow, nothing runs for a TCP packet but one look at its protocol and its
 * socket's ports.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi/net.h"
#include "progs/net/dns.bpf.h"
#include "progs/net/go_tls.bpf.h"
#include "progs/net/http.bpf.h"
#include "progs/net/listen.bpf.h"
#include "progs/net/tcp.bpf.h"
#include "progs/net/tls.bpf.h"
#include "progs/net/udp.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

static __always_inline int handle_state(struct sock *sk, int oldstate, int newstate)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (newstate == TCP_ESTABLISHED || (oldstate == TCP_SYN_RECV && newstate == TCP_FIN_WAIT1))
		handle_established(sk, oldstate, newstate);
	else if (newstate == TCP_CLOSE) {
		http_closed(sk);
		handle_closed(sk);
	} else if (newstate == TCP_SYN_SENT)
		handle_start(sk, ROLE_CONNECTOR);
	else if (newstate == TCP_LISTEN)
		handle_start(sk, ROLE_LISTENER);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	return handle_state(sk, oldstate, newstate);
}

/*
 * The same once more. The kernel skips a program that is interrupted, or preempted,
 * by something that would run it again on the same CPU; the two are hardly ever
 * caught together, and the second to see a change finds nothing left to do.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_again, struct sock *sk, int oldstate, int newstate)
{
	return handle_state(sk, oldstate, newstate);
}

/* Both once more, where tp_btf is not to be used. */
SEC("fentry/inet_sk_state_store")
int BPF_PROG(state_store, struct sock *sk, int newstate)
{
	return handle_state(sk, sk->__sk_common.skc_state, newstate);
}

SEC("fentry/inet_sk_state_store")
int BPF_PROG(state_store_again, struct sock *sk, int newstate)
{
	return handle_state(sk, sk->__sk_common.skc_state, newstate);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	struct tcp_conn *conn;

	if (sk->protocol == IPPROTO_TCP) {
		conn = bpf_sk_storage_get(&tcp_conns, sk, NULL, 0);
		if (conn && conn->life & LIFE_ESTABLISHED)
			handle_release(conn);
	}
	return 1;
}

SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *sk)
{
	if (sk->protocol == IPPROTO_UDP && sk->type == SOCK_DGRAM)
		handle_created(sk);
	return 1;
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	if (may_be_udp(skb))
		handle_udp(skb, INGRESS);
	else if (is_dns_socket(skb))
		handle_dns_tcp(skb, INGRESS);
	else
		handle_http(skb, INGRESS);
	return 1;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	if (may_be_udp(skb))
		handle_udp(skb, EGRESS);
	else if (is_dns_socket(skb))
		handle_dns_tcp(skb, EGRESS);
	else
		handle_http(skb, EGRESS);
	return 1;
}

static __always_inline struct sock *sock_of_file(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *socket = file ? bpf_sock_from_file(file) : NULL;

	return socket ? socket->sk : NULL;
}

SEC("iter/task_file")
int scan_listeners(struct bpf_iter__task_file *ctx)
{
	struct sock *sk = sock_of_file(ctx);

	if (sk && sk->sk_protocol == IPPROTO_TCP && sk->__sk_common.skc_state == TCP_LISTEN)
		remember_listener(sk);
	return 0;
}

SEC("iter/task_file")
int scan_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct sock *sk = sock_of_file(ctx);
	__u16 family;

	if (!task || !sk)
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	/* Raw sockets have these protocols too. */
	if (sk->sk_protocol == IPPROTO_TCP && sk->sk_type == SOCK_STREAM)
		handle_held_tcp(sk, task);
	else if (sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM)
		handle_held_udp(sk, task);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int report_tcp(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct tcp_conn *conn = ctx->value;
	struct sock *sk = ctx->sk;

	if (sk && conn)
		report_open(sk, conn);
	return 0;
}

SEC("iter/bpf_map_elem")
int report_udp_flows(struct bpf_iter__bpf_map_elem *ctx)
{
	struct udp_key *key = ctx->key;
	struct udp_flow *flow = ctx->value;

	if (key && flow)
		report_udp(ctx->meta->seq, key, flow);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int walk_http(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct http_conn *http = ctx->value;
	struct sock *sk = ctx->sk;

	if (sk && http)
		http_walk(sk, http);
	return 0;
}

/* A socket that several files are of is met several times: the second time there is nothing new. */
SEC("iter/task_file")
int report_tcp_of_files(struct bpf_iter__task_file *ctx)
{
	struct sock *sk = sock_of_file(ctx);
	struct tcp_conn *conn = sk ? bpf_sk_storage_get(&tcp_conns, sk, NULL, 0) : NULL;

	if (conn)
		report_open(sk, conn);
	return 0;
}

SEC("iter/task_file")
int walk_http_of_files(struct bpf_iter__task_file *ctx)
{
	struct sock *sk = sock_of_file(ctx);
	struct http_conn *http = sk ? bpf_sk_storage_get(&http_conns, sk, NULL, 0) : NULL;

	if (http)
		http_walk(sk, http);
	return 0;
}

/* For nearly all threads this ends at the first line. */
static __always_inline void handle_socket(struct sock *sk, bool sends, int result)
{
	struct tls_call *call = tls_call_of_current();

	if (!call || sk->sk_protocol != IPPROTO_TCP)
		return;
	if (call->is_go)
		go_socket(sk);
	else
		tls_socket(call, sk, sends, result);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(tls_socket_sends, struct sock *sk, int result, int flags)
{
	handle_socket(sk, true, result);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tls_socket_receives, struct sock *sk, int result, int flags)
{
	handle_socket(sk, false, result);
	return 0;
}

/*
 * The same before 6.3, which has no such tracepoints. What will be received is not known
 * yet, so sessions whose library touches no socket stay without one.
 */
SEC("fentry/tcp_sendmsg")
int BPF_PROG(tls_tcp_sends, struct sock *sk)
{
	handle_socket(sk, true, 0);
	return 0;
}

SEC("fentry/tcp_recvmsg")
int BPF_PROG(tls_tcp_receives, struct sock *sk)
{
	handle_socket(sk, false, 0);
	return 0;
}

/* SSL_read(session, buffer, size), gnutls_record_recv */
SEC("uprobe")
int tls_read(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_IN, 0);
	return 0;
}

/* SSL_read_ex(session, buffer, size, where the number of bytes goes) */
SEC("uprobe")
int tls_read_ex(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_IN, PT_REGS_PARM4(ctx));
	return 0;
}

/* SSL_write, gnutls_record_send */
SEC("uprobe")
int tls_write(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_OUT, 0);
	return 0;
}

/* SSL_write_ex */
SEC("uprobe")
int tls_write_ex(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_OUT, PT_REGS_PARM4(ctx));
	return 0;
}

/* SSL_sendfile(session, file, offset, size, flags): its bytes are nobody's memory */
SEC("uprobe")
int tls_sendfile(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_OUT, 0);
	return 0;
}

/* SSL_do_handshake, gnutls_handshake */
SEC("uprobe")
int tls_handshake(struct pt_regs *ctx)
{
	tls_begins(ctx, TLS_HANDSHAKE, 0);
	return 0;
}

/* Any of these returns. */
SEC("uretprobe")
int tls_return(struct pt_regs *ctx)
{
	tls_returns(ctx);
	return 0;
}

/* Or is about to, and has its result: see support's places.rs. */
SEC("uprobe")
int tls_end(struct pt_regs *ctx)
{
	tls_returns(ctx);
	return 0;
}

/* SSL_free, gnutls_deinit */
SEC("uprobe")
int tls_free(struct pt_regs *ctx)
{
	tls_freed(PT_REGS_PARM1(ctx));
	return 0;
}

/* (*tls.Conn).Read(session, buffer, size, capacity) */
SEC("uprobe")
int go_read(struct pt_regs *ctx)
{
	go_begins(ctx, TLS_IN);
	return 0;
}

/* Write */
SEC("uprobe")
int go_write(struct pt_regs *ctx)
{
	go_begins(ctx, TLS_OUT);
	return 0;
}

/* clientHandshake, serverHandshake */
SEC("uprobe")
int go_handshake(struct pt_regs *ctx)
{
	go_begins(ctx, TLS_HANDSHAKE);
	return 0;
}

/* At each instruction that returns from one of these. */
SEC("uprobe")
int go_return(struct pt_regs *ctx)
{
	go_returns(ctx);
	return 0;
}

/* Close */
SEC("uprobe")
int go_close(struct pt_regs *ctx)
{
	tls_freed(GO_PARM1(ctx));
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	tls_started();
	return 0;
}

/* The same, where tp_btf is not to be used. */
SEC("raw_tp/sched_process_exec")
int exec_untyped(void *ctx)
{
	tls_started();
	return 0;
}

// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * net, for kernels before 5.12: no storage of sockets in tracing programs, no atomic
 * operation that returns something. The same, but for what needs these: netflow and
 * dnsflow, of connections that begin after the collector.
 *
 *   socket_events    -> a connection starts, is established, is closed
 *   accepted         -> the process that was given a connection by accept()
 *   sock_release     -> the process that held a socket lets go of it
 *   sock_create      -> the process that made a UDP socket
 *   ingress, egress  -> payload bytes of UDP packets; copies of DNS packets
 *
 *   report_tcp       <- the totals of each open TCP connection
 *   report_udp_flows <- what each UDP conversation did since then
 *
 * Totals, because two programs cannot agree here on what was reported already: user
 * space, which reads them in order, subtracts.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi/net.h"
#include "progs/net/dns.bpf.h"
#include "progs/net/tcp_early.bpf.h"
#include "progs/net/udp.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("sockops")
int socket_events(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (!sk)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		early_start(sk, ROLE_CONNECTOR);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		early_start(sk, ROLE_LISTENER);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		early_established(sk, ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB);
		bpf_sock_ops_cb_flags_set(ops,
					  ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == TCP_CLOSE)
			early_closed(sk);
		break;
	}
	return 1;
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(accepted, struct sock *listener, int flags, int *error, bool kern, struct sock *sk)
{
	if (sk)
		early_accepted((__u64)sk);
	return 0;
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	if (sk->protocol == IPPROTO_TCP)
		early_released(sk);
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
	return 1;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	if (may_be_udp(skb))
		handle_udp(skb, EGRESS);
	else if (is_dns_socket(skb))
		handle_dns_tcp(skb, EGRESS);
	return 1;
}

SEC("iter/bpf_sk_storage_map")
int report_tcp(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct early_conn *conn = ctx->value;
	struct sock *sk = ctx->sk;

	if (sk && conn)
		early_report_open(sk, conn);
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

/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is known of a connection that speaks HTTP, and where a packet stands in it.
 */
#ifndef NET_HTTP_CONN_BPF_H
#define NET_HTTP_CONN_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/net.h"
#include "lib/count.bpf.h"
#include "progs/net/tcp.bpf.h"
#include "progs/net/udp.bpf.h"

/* Packets of a connection that is older than the collector to look at for a request. */
#define HTTP_MOST_LOOKS 255
/* Packets with which a server may begin a new one before the client's first. */
#define HTTP_MOST_GREETINGS 4

/* Set by the loader before load: whether httpflow is wanted. */
const volatile __u8 http_enabled = 0;

/* What `http_stand.mode` says. */
enum http_mode {
	HTTP_UNDECIDED = 0,
	HTTP_OTHER = 1,
	HTTP_FOLLOWED = 2,
	/* User space follows. */
	HTTP_HANDED_OVER = 3,
};

enum http_state {
	/* No request, or one that was given up. */
	HTTP_IDLE = 0,
	/* A request whose response has not begun. */
	HTTP_ASKED = 1,
	/* A response whose head was seen. */
	HTTP_ANSWERED = 2,
};

/* What only the request side touches, and whoever ends an exchange. */
struct http_conn {
	/* Whoever has it may change what is below `walked_bytes`: see http_batch.bpf.h. */
	__u32 is_taken;
	/* The sequence number of the request's first byte. */
	__u32 asked_seq;
	/* The last walk that came by, and the bytes seen then. */
	__u32 walked;
	__u32 padding;
	__u64 walked_bytes;
	/* Exchanges that have ended and are not in the ring yet, as their record, ... */
	struct http_exchange batch;
	/* ... and what follows it there: the head of each of them, and of the open request. */
	__u8 head[HTTP_HEAD_BYTES];
	/* Room behind the head for a word of zeros. */
	__u64 end;
	/* The beginning of the newest request, to see whether it is one more; parts of a long one.
	 */
	__u8 fresh[HTTP_HEAD_BYTES];
	__u64 fresh_end;
};

/* Connections that speak HTTP. No limit but the number of sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http_conn);
} http_conns SEC(".maps");

/* Packets of connections that user space follows. Full: counted, and lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HTTP_PIECES_BYTES);
} http_pieces SEC(".maps");

/* The payload of a packet: where it is in the packet and in its direction's stream. */
struct segment {
	__u32 seq;
	__u32 offset;
	__u32 len;
	/* Bytes before it that were not seen. */
	__u32 missed;
};

static __always_inline bool read_segment(struct __sk_buff *skb, struct segment *segment)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	const __u8 *tcp;
	__u32 ip_len;

	if (data + sizeof(struct ipv4_header) > end)
		return false;
	ip_len = data[0] >> 4 == 4 ? (data[0] & 15) * 4 : sizeof(struct ipv6_header);
	tcp = data + ip_len;
	if (tcp + 20 > end)
		return false;
	segment->offset = ip_len + (tcp[12] >> 4) * 4;
	if (skb->len <= segment->offset)
		return false;
	segment->len = skb->len - segment->offset;
	segment->seq = bpf_ntohl(*(const __u32 *)(tcp + 4));
	segment->missed = 0;
	/* The SYN has a number of its own. */
	if (tcp[13] & 2)
		segment->seq++;
	return true;
}

/*
 * When a packet is seen. TCP has stamped those that it sends with the same clock, which
 * costs more to read than anything else here.
 */
static __always_inline __u64 time_of(struct __sk_buff *skb, enum direction way)
{
	__u64 time = way == EGRESS ? skb->tstamp : 0;

	return time ? time : bpf_ktime_get_ns();
}

#endif

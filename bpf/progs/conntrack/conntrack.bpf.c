// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * conntrack: connections whose destination is translated.
 *
 *   only_translated -> lets those conntrack events through to our netlink socket
 *
 * All else is done in user space: conntrack tells of its changes by netlink, and on
 * most hosts most of them are of no interest.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "abi/conntrack.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* From the kernel's linux/netlink.h, linux/netfilter/nfnetlink*.h, nf_conntrack_common.h. */
enum {
	/* struct nlmsghdr and struct nfgenmsg. */
	ATTRIBUTES_START = 20,
	ATTRIBUTE_HEADER = 4,
	ATTRIBUTE_TYPE = 0x3fff,
	CTA_STATUS = 3,
	IPS_DST_NAT = 1 << 5,
	/* The status is the third or fourth attribute. */
	ATTRIBUTES_MOST = 16,
};

struct attribute {
	__u16 length;
	__u16 type;
};

/*
 * Written and read by user space. Full: further connections are refused and
 * counted. Memory is taken for elements that are there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nat_key);
	__type(value, struct nat_value);
	__uint(max_entries, NAT_ELEMENTS);
} nat SEC(".maps");

/* Events without a status are left to user space. */
SEC("socket")
int only_translated(struct __sk_buff *skb)
{
	__u32 at = ATTRIBUTES_START;
	struct attribute attribute;
	__u32 status;

	for (int i = 0; i < ATTRIBUTES_MOST; i++) {
		if (bpf_skb_load_bytes(skb, at, &attribute, sizeof(attribute)))
			break;
		if ((attribute.type & ATTRIBUTE_TYPE) == CTA_STATUS) {
			if (bpf_skb_load_bytes(skb, at + ATTRIBUTE_HEADER, &status, sizeof(status)))
				break;
			return status & __builtin_bswap32(IPS_DST_NAT) ? skb->len : 0;
		}
		if (attribute.length < ATTRIBUTE_HEADER)
			break;
		at += (attribute.length + 3u) & ~3u;
	}
	return skb->len;
}

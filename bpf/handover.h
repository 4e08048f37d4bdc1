/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_HANDOVER_H
#define SKEP_HANDOVER_H

/* For the program at the uplink's tc ingress: frames that XDP translated or
 * encapsulated but whose neighbour it does not know (hop.h). The stack itself
 * would refuse them, since their source may be an address of this host.
 *
 * Includes before this: packet.h. */

enum {
	/* Source of such frames, 02:73:6b:65:70:01, host order: locally
	 * administered, and no interface has it. */
	HANDOVER_MAC_HIGH = 0x02736b65,
	HANDOVER_MAC_LOW = 0x7001,

	FIB_IPV4 = 2, /* AF_INET */
	FIB_IPV6 = 10, /* AF_INET6 */
};

static __always_inline void mark_handed_over(struct ethhdr *ethernet)
{
	*(__be32 *)ethernet->h_source = bpf_htonl(HANDOVER_MAC_HIGH);
	*(__be16 *)(ethernet->h_source + 4) = bpf_htons(HANDOVER_MAC_LOW);
}

static __always_inline bool has_handover_mac(void *data, void *data_end)
{
	struct ethhdr *ethernet = packet_at(data, data_end, 0, sizeof(*ethernet));

	return ethernet &&
	       *(__be32 *)ethernet->h_source == bpf_htonl(HANDOVER_MAC_HIGH) &&
	       *(__be16 *)(ethernet->h_source + 4) == bpf_htons(HANDOVER_MAC_LOW);
}

/* After generic XDP a packet may begin at its IP header: the kernel copies it to
 * make room and loses the length of the Ethernet header. True: it was one of
 * ours, and has an Ethernet header again. */
static __always_inline bool restore_handed_over(struct __sk_buff *skb)
{
	struct ethhdr ethernet;

	if (bpf_skb_load_bytes_relative(skb, 0, &ethernet, sizeof(ethernet),
					BPF_HDR_START_MAC) ||
	    !has_handover_mac(&ethernet, &ethernet + 1))
		return false;
	return !bpf_skb_change_head(skb, ETH_HLEN, 0);
}

static __always_inline bool is_handed_over(struct __sk_buff *skb)
{
	return has_handover_mac((void *)(long)skb->data,
				(void *)(long)skb->data_end);
}

/* The interface that the kernel would send the packet out of. Neither a neighbour
 * that is not known nor a packet that does not fit is a reason not to name it:
 * by another one it would leave for where its addresses mean nothing. */
static __always_inline __u32 handover_interface(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	struct bpf_fib_lookup fib = {};
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	long outcome;

	fib.ifindex = skb->ifindex;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		ip4 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip4));
		if (!ip4)
			return 0;
		fib.family = FIB_IPV4;
		fib.ipv4_src = ip4->saddr;
		fib.ipv4_dst = ip4->daddr;
	} else {
		ip6 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip6));
		if (!ip6)
			return 0;
		fib.family = FIB_IPV6;
		__builtin_memcpy(fib.ipv6_src, &ip6->saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &ip6->daddr, sizeof(fib.ipv6_dst));
	}
	outcome = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (outcome == BPF_FIB_LKUP_RET_SUCCESS ||
	    outcome == BPF_FIB_LKUP_RET_NO_NEIGH ||
	    outcome == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return fib.ifindex;
	return skb->ifindex;
}

/* Sends a frame for which is_handed_over is true; returns the verdict. */
static __always_inline int send_handed_over(struct __sk_buff *skb)
{
	__u32 ifindex = handover_interface(skb);

	return bpf_redirect_neigh(ifindex, NULL, 0, 0);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_DELIVER_H
#define SKEP_PATH_DELIVER_H

/* The ways around the host's upper stack: into a pod of this node, or by the
 * route and the neighbour table out of it. */

enum {
	ADDRESS_FAMILY_IPV4 = 2,
	ADDRESS_FAMILY_IPV6 = 10,
	LEAST_MTU = 1280, /* fits every link that carries IPv6 */
};

/* Where a packet goes that the fast path cannot deliver. One whose source was
 * translated would be refused by the stack or, worse, remembered by it: that
 * one's sender has to try again. */
static __always_inline int fall_back(const struct passage *passage,
				     enum path_counter reason, bool reversed)
{
	return reversed ? drop(passage, reason) : to_stack(passage, reason);
}

static __always_inline bool fits(const struct passage *passage, __u32 ifindex)
{
	__u64 flags = passage->skb->gso_size ? BPF_MTU_CHK_SEGS : 0;
	__u32 length = 0;

	if (passage->skb->len <= LEAST_MTU + ETH_HLEN)
		return true;
	return !bpf_check_mtu(passage->skb, ifindex, &length, 0, flags);
}

/* Into a pod here: where its own end of the pair receives, without the host's
 * stack between. */
static __always_inline int into_pod(struct passage *passage, const struct pod *pod,
				    bool reversed)
{
	struct __sk_buff *skb = passage->skb;

	if (!fits(passage, pod->ifindex))
		return fall_back(passage, PATH_TOO_BIG, reversed);
	if (spend_hop(skb, &passage->packet.outer) ||
	    bpf_skb_store_bytes(skb, 0, pod->mac, sizeof(pod->mac) * 2, 0))
		return drop(passage, PATH_NOT_WRITTEN);
	if (pod->flags & POD_QUEUED) {
		/* The program at the interface's egress accounts it. */
		tally(passage, PATH_QUEUE);
		return bpf_redirect(pod->ifindex, 0);
	}
	account(passage, &passage->packet.outer.destination, true);
	tally(passage, PATH_PEER);
	return bpf_redirect_peer(pod->ifindex, 0);
}

static __always_inline void fill_route_query(const struct passage *passage,
					     struct bpf_fib_lookup *query)
{
	const struct header *header = &passage->packet.outer;
	struct __sk_buff *skb = passage->skb;

	query->ifindex = skb->ifindex;
	query->l4_protocol = header->protocol;
	query->sport = header->source.port;
	query->dport = header->destination.port;
	/* Length 0: the kernel measures the segments itself. */
	query->tot_len = skb->gso_size ? 0 : skb->len - ETH_HLEN;
	if (header->family == FAMILY_IPV4) {
		query->family = ADDRESS_FAMILY_IPV4;
		query->tos = header->traffic_class;
		query->ipv4_src = header->source.addr.word[3];
		query->ipv4_dst = header->destination.addr.word[3];
		return;
	}
	query->family = ADDRESS_FAMILY_IPV6;
	query->flowinfo = bpf_htonl((__u32)header->traffic_class << 20);
	__builtin_memcpy(query->ipv6_src, &header->source.addr,
			 sizeof(query->ipv6_src));
	__builtin_memcpy(query->ipv6_dst, &header->destination.addr,
			 sizeof(query->ipv6_dst));
}

/* Out of this node as the route says. reason: what it counts as if it goes. */
static __always_inline int out(struct passage *passage, enum path_counter reason,
			       bool reversed)
{
	struct bpf_redir_neigh next = {};
	struct bpf_fib_lookup query = {};
	struct path_config *config;
	long found;

	/* Connection tracking reassembles fragments, so all of a datagram go
	 * by the stack or none does; and one that does not fit has to. */
	if (passage->packet.outer.fragment && !reversed)
		return to_stack(passage, PATH_STACK);
	fill_route_query(passage, &query);
	found = bpf_fib_lookup(passage->skb, &query, sizeof(query), 0);
	switch (found) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		break;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return fall_back(passage, PATH_TOO_BIG, reversed);
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		/* For this host itself. Its stack would not accept the
		 * service's address from a pod's interface. */
		config = path_config();
		if (!reversed || !config || !config->uplink)
			return to_stack(passage, PATH_NO_ROUTE);
		if (bpf_skb_store_bytes(passage->skb, 0, config->uplink_mac,
					sizeof(config->uplink_mac), 0))
			return drop(passage, PATH_NOT_WRITTEN);
		tally(passage, PATH_HOST);
		return bpf_redirect(config->uplink, BPF_F_INGRESS);
	default:
		return to_stack(passage, PATH_NO_ROUTE);
	}
	if (spend_hop(passage->skb, &passage->packet.outer))
		return drop(passage, PATH_NOT_WRITTEN);
	next.nh_family = query.family;
	__builtin_memcpy(next.ipv6_nh, query.ipv6_dst, sizeof(next.ipv6_nh));
	tally(passage, reason);
	return bpf_redirect_neigh(query.ifindex, &next, sizeof(next), 0);
}

#endif

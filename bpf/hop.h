/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_HOP_H
#define SKEP_HOP_H

/* The next hop to an address: asked of the kernel's routes and neighbours every
 * RECENT_JIFFIES of a CPU, since asking costs more than all the rest. A packet whose
 * neighbour the kernel does not know is handed to the stack, whose program at
 * the uplink's tc ingress (handover.h) sends it and so makes the kernel
 * find the neighbour. The same is done now and then with neighbours that are
 * known, because XDP alone would use an old MAC address for ever: what it sends
 * is not seen by the kernel's neighbour table. */

enum {
	HOPS_SHIFT = 10,
	HOPS = 1 << HOPS_SHIFT, /* direct mapped */
	HOP_CONFIRM_SECONDS = 10,
	CAPACITY_PATH_MTU = 4096,
};

struct hop {
	struct address to;
	struct address from; /* this node's address on the way there, of to's family */
	__u64 expires;       /* jiffies */
	__u64 confirmed;     /* ktime of the last packet sent by the stack */
	__u32 ifindex;
	__u32 mtu;           /* 0: not known, ask the stack */
	__u8 destination_mac[ETH_ALEN];
	__u8 source_mac[ETH_ALEN];
	__u32 pad;
};

SKEP_MAP(skep_hops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct hop, HOPS, 0);

struct path_mtu {
	__u64 until; /* bpf_ktime_get_coarse_ns */
	__u32 mtu;
	__u32 pad;
};

/* What routers said fits on the way to a node, less than our own link's MTU. */
SKEP_MAP(skep_path_mtu, BPF_MAP_TYPE_LRU_HASH, struct address, struct path_mtu,
	 CAPACITY_PATH_MTU, 0);

enum route {
	ROUTE_READY,
	ROUTE_UNRESOLVED, /* hand it over */
	ROUTE_NONE,
};

static __always_inline void fib_addresses(struct bpf_fib_lookup *fib,
					  const struct address *from,
					  const struct address *to)
{
	if (is_mapped(to)) {
		fib->family = FIB_IPV4;
		fib->ipv4_src = from->word[3];
		fib->ipv4_dst = to->word[3];
		return;
	}
	fib->family = FIB_IPV6;
	__builtin_memcpy(fib->ipv6_src, from, sizeof(*from));
	__builtin_memcpy(fib->ipv6_dst, to, sizeof(*to));
}

/* Whether XDP sends by that interface. Of others only the size is learnt of what
 * fits; and of an overlay the address that has its answers come back by it. */
static __always_inline bool sends_by(struct hop *hop, __u32 ifindex, bool ip4)
{
	struct uplink *by = bpf_map_lookup_elem(&skep_uplinks, &ifindex);

	if (!by)
		return false;
	if (!by->overlay)
		return true;
	hop->from = ip4 ? by->ip4 : by->ip6;
	return false;
}

/* Asks the kernel. Routes that lead out of an interface that is no uplink are
 * left to the stack, which knows how to send there. */
__noinline int refresh_hop(struct xdp_md *ctx, struct hop *hop,
			   const struct address *to, __u64 now)
{
	struct bpf_fib_lookup fib = {};
	__u32 ifindex = ctx->ingress_ifindex;
	struct path_mtu *known;
	struct address key;
	struct uplink *uplink;
	long outcome;

	if (!hop || !to)
		return ROUTE_NONE;
	uplink_count(UPLINK_EVENT_HOP_LOOKUP);
	hop->expires = 0;
	hop->mtu = 0;
	uplink = uplink_of(ctx);
	if (!uplink)
		return ROUTE_UNRESOLVED;
	hop->from = is_mapped(to) ? uplink->ip4 : uplink->ip6;
	fib_addresses(&fib, &hop->from, to);
	fib.ifindex = ifindex;
	fib.tot_len = 1; /* so that the kernel reports the MTU */
	outcome = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (outcome == BPF_FIB_LKUP_RET_BLACKHOLE ||
	    outcome == BPF_FIB_LKUP_RET_UNREACHABLE ||
	    outcome == BPF_FIB_LKUP_RET_PROHIBIT)
		return ROUTE_NONE;
	if (outcome != BPF_FIB_LKUP_RET_SUCCESS)
		return ROUTE_UNRESOLVED;
	hop->mtu = fib.mtu_result;
	ifindex = fib.ifindex;
	if (!sends_by(hop, ifindex, is_mapped(to)))
		return ROUTE_UNRESOLVED;
	if (!same_address(&hop->to, to)) {
		hop->to = *to;
		hop->confirmed = 0;
	}
	hop->ifindex = ifindex;
	key = *to;
	known = bpf_map_lookup_elem(&skep_path_mtu, &key);
	if (known && known->until > now && known->mtu < hop->mtu)
		hop->mtu = known->mtu;
	__builtin_memcpy(hop->destination_mac, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop->source_mac, fib.smac, ETH_ALEN);
	hop->expires = bpf_jiffies64() + RECENT_JIFFIES;
	if (now - hop->confirmed <= (__u64)HOP_CONFIRM_SECONDS * NANOSECONDS)
		return ROUTE_READY;
	hop->confirmed = now;
	return ROUTE_UNRESOLVED;
}

/* Addresses of one network differ in their last byte, which is the high one of a
 * word: it reaches the product's high bits alone. */
static __always_inline struct hop *hop_place(const struct address *to)
{
	__u32 index = (to->word[3] ^ to->word[2] * 0x85ebca6bu) * 0x9e3779b1u >>
		      (32 - HOPS_SHIFT);

	return bpf_map_lookup_elem(&skep_hops, &index);
}

static __always_inline bool is_ready(const struct hop *hop,
				     const struct address *to)
{
	return hop->expires > bpf_jiffies64() && same_address(&hop->to, to);
}

/* The hop to an address if it is known; NULL: the kernel has to be asked. */
static __always_inline struct hop *ready_hop(const struct address *to)
{
	struct hop *hop = hop_place(to);

	return hop && is_ready(hop, to) ? hop : NULL;
}

/* The hop to an address; hop->from is valid whatever *route says. */
static __always_inline struct hop *find_hop(struct xdp_md *ctx,
					    const struct address *to, __u64 now,
					    enum route *route)
{
	struct hop *hop = hop_place(to);

	if (!hop)
		return NULL;
	if (is_ready(hop, to))
		*route = ROUTE_READY;
	else
		*route = refresh_hop(ctx, hop, to, now);
	return hop;
}

static __always_inline int hand_over(struct xdp_md *ctx, struct ethhdr *ethernet)
{
	struct uplink *uplink = uplink_of(ctx);

	mark_handed_over(ethernet);
	if (uplink) /* a frame for us, which no one else's filter drops */
		__builtin_memcpy(ethernet->h_dest, uplink->mac, ETH_ALEN);
	return leave(UPLINK_HANDED_OVER, XDP_PASS);
}

/* Sends the frame as it is to the hop, or hands it over. */
static __always_inline int send_to(struct xdp_md *ctx, struct hop *hop,
				   enum route route, enum uplink_reason reason)
{
	struct ethhdr *ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
					    sizeof(*ethernet));

	if (!ethernet)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	if (route == ROUTE_NONE)
		return leave(UPLINK_NO_ROUTE, XDP_DROP);
	if (route == ROUTE_UNRESOLVED) {
		return hand_over(ctx, ethernet);
	}
	__builtin_memcpy(ethernet->h_dest, hop->destination_mac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, hop->source_mac, ETH_ALEN);
	if (hop->ifindex == ctx->ingress_ifindex)
		return leave(reason, XDP_TX);
	uplink_count(reason);
	return bpf_redirect(hop->ifindex, 0);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_ARRIVAL_H
#define SKEP_ARRIVAL_H

struct rewrite {
	struct endpoint source;
	struct endpoint destination;
};

/* The packet that XDP works on, and what every step needs to know of it. Too
 * large for the stack of a chain of calls, so it lies in a map, one per CPU:
 * XDP programs of one CPU never interleave. */
struct arrival {
	struct packet packet;
	__u64 now;     /* bpf_ktime_get_coarse_ns */
	__u32 tunnel;  /* bytes of encapsulation before packet.outer, 0: none */
	__u32 peeled;  /* it was encapsulated and no longer is */
	__u16 hint;    /* which backend its sender chose, 0: none */
	__u8 forwarded; /* may not be sent to another node again */
	__u8 error;    /* ICMP error: packet.inner, mirrored, names the flow */
	__u32 mtu;     /* of STEP_TOO_BIG */
	struct rewrite to; /* of STEP_TRANSLATE */
	struct selection selection; /* while a new flow is made */
	struct flow flow;  /* the new one */
};

/* What a step leaves to be done, beside the verdicts of XDP, which say that
 * nothing is. Steps return this to skep_uplink rather than call each other: the
 * stack holds three of them at most. */
enum step {
	STEP_SELECT = -1,        /* find a backend: arrival->flow */
	STEP_FOLLOW = -2,        /* do what arrival->flow says */
	STEP_ENCAPSULATE = -3,   /* to arrival->flow.node */
	STEP_TRANSLATE_OUT = -4, /* to arrival->to, and send it */
	STEP_TRANSLATE_BACK = -5,
	STEP_REFUSE = -6,        /* say that nobody listens */
	STEP_RESET = -7,
	STEP_TOO_BIG = -8,       /* for arrival->mtu */
	STEP_TIME_EXCEEDED = -9,
};

SKEP_MAP(skep_arrival, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct arrival, 1, 0);

/* An uplink's own addresses, by its index. Written by Go. */
struct uplink {
	struct address ip4; /* of this node, mapped; all zero: none */
	struct address ip6;
	__u8 mac[ETH_ALEN];
	/* 1: no uplink but an overlay, through which pods of nodes that share no
	 * link with this one are reached: XDP neither runs nor sends there. */
	__u8 overlay;
	__u8 pad;
};

enum {
	CAPACITY_UPLINKS = 64,
	/* How long what a CPU remembers is used without asking again: a tenth of a
	 * second to one second, by the kernel's CONFIG_HZ. Reading jiffies takes
	 * no call. */
	RECENT_JIFFIES = 100,
};

SKEP_MAP(skep_uplinks, BPF_MAP_TYPE_HASH, __u32, struct uplink,
	 CAPACITY_UPLINKS, 0);

static __always_inline void *begin_of(struct xdp_md *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *end_of(struct xdp_md *ctx)
{
	return (void *)(long)ctx->data_end;
}

static __always_inline struct uplink *uplink_of(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex;

	return bpf_map_lookup_elem(&skep_uplinks, &ifindex);
}

/* The header that names the flow: source is the client. */
static __always_inline struct header *subject_of(struct arrival *arrival)
{
	return arrival->error ? &arrival->packet.inner : &arrival->packet.outer;
}

static __always_inline void mirror(struct header *header)
{
	struct endpoint source = header->source;

	header->source = header->destination;
	header->destination = source;
}

static __always_inline void shift_header(struct header *header, __u32 by)
{
	header->l3 -= by;
	header->l4 -= by;
	header->end -= by;
}

/* Removes size bytes between the Ethernet header and a packet of that family.
 * Every later access starts from ctx again. */
static __always_inline bool remove_header(struct xdp_md *ctx, __u32 size, __u8 family)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	struct ethhdr ethernet, *at;

	at = packet_at(data, data_end, 0, sizeof(*at));
	if (!at || size > PACKET_OFFSET_MAX)
		return false;
	ethernet = *at;
	ethernet.h_proto = family == FAMILY_IPV4 ? bpf_htons(ETH_P_IP) :
						   bpf_htons(ETH_P_IPV6);
	if (bpf_xdp_adjust_head(ctx, size))
		return false;
	at = packet_at(begin_of(ctx), end_of(ctx), 0, sizeof(*at));
	if (!at)
		return false;
	*at = ethernet;
	uplink_count(UPLINK_EVENT_DECAPSULATED);
	return true;
}

/* Removes the encapsulation, if any. */
static __always_inline bool decapsulate(struct xdp_md *ctx, struct arrival *arrival)
{
	__u32 size = arrival->tunnel;

	if (!size)
		return true;
	if (!remove_header(ctx, size, arrival->packet.outer.family))
		return false;
	shift_header(&arrival->packet.outer, size);
	shift_header(&arrival->packet.inner, size);
	arrival->tunnel = 0;
	arrival->peeled = 1;
	return true;
}

#endif

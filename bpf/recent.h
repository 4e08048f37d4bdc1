/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_RECENT_H
#define SKEP_RECENT_H

/* The flows that this CPU saw within the last second, direct mapped: finding one
 * here takes a tenth of what the hash of skep_flows takes. A packet that may
 * change its flow (TCP's SYN, FIN, RST) always asks skep_flows and empties the
 * place; the other packets do so once a second, which keeps the flow alive. A
 * network card brings all packets of a flow to one CPU; if one does not, another
 * CPU follows the old flow for a second at most, and the backend is checked in
 * any case.
 *
 * Includes before this: flow.h, arrival.h. */

enum {
	RECENT_FLOWS = 1024, /* a power of two */
};

struct recent_flow {
	struct flow_key key;
	struct flow flow;
	__u64 until; /* bpf_ktime_get_coarse_ns */
};

SKEP_MAP(skep_recent, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct recent_flow,
	 RECENT_FLOWS, 0);

static __always_inline struct recent_flow *
recent_place(const struct header *header)
{
	__u32 index = header->source.addr.word[3] ^
		      header->destination.addr.word[3] * 0x85ebca6bu ^
		      ((__u32)header->source.port << 16 |
		       header->destination.port);

	index = index * 0x9e3779b1u >> 22;
	return bpf_map_lookup_elem(&skep_recent, &index);
}

static __always_inline bool same_key(const struct flow_key *a,
				     const struct header *header)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)header;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) |
		 (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

static __always_inline bool changes_flow(const struct header *header)
{
	return header->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

/* The flow of a packet that does not change it; NULL: skep_flows has to be
 * asked, and *place, if there is one, may be filled. */
static __always_inline struct flow *
find_recent(const struct arrival *arrival, struct recent_flow **place)
{
	const struct header *header = &arrival->packet.outer;
	struct recent_flow *recent;

	*place = NULL;
	if (arrival->error)
		return NULL;
	recent = recent_place(header);
	if (!recent)
		return NULL;
	if (changes_flow(header)) {
		recent->until = 0;
		return NULL;
	}
	if (recent->until > arrival->now && same_key(&recent->key, header))
		return &recent->flow;
	*place = recent;
	return NULL;
}

static __always_inline void fill_recent(struct recent_flow *place,
					const struct header *header,
					const struct flow *flow, __u64 now)
{
	place->key.source = header->source;
	place->key.destination = header->destination;
	place->flow = *flow;
	place->until = now + (__u64)FLOW_SECONDS_RENEWAL * NANOSECONDS;
}

#endif

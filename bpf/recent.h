/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_RECENT_H
#define SKEP_RECENT_H

/* What became of the flows that this CPU saw a moment ago, a cache line each:
 * a lookup costs a fraction of one in the hash of skep_flows. shortcut.h
 * reads it, the way through skep_flows writes it. A packet that may change its
 * flow (TCP's SYN, FIN, RST) always asks skep_flows and empties the flow's
 * place; the others do so every RECENT_JIFFIES, which keeps the flow alive. A
 * network card brings all packets of a flow to one CPU; if one does not, another
 * CPU follows the old flow for that long. Each packet checks what may not be
 * late: the backend's record, and that there still is no frontend for what had
 * none.
 *
 * Includes before this: flow.h, arrival.h. */

enum {
	RECENT_SETS_SHIFT = 13,
	RECENT_SETS = 1 << RECENT_SETS_SHIFT,
};

enum recent_kind {
	RECENT_HERE,      /* to a backend here */
	RECENT_ELSEWHERE, /* encapsulated, to the backend's node */
	RECENT_PASSED,    /* to the stack: not for a frontend, and of no flow */
};

struct recent {
	struct flow_key key;
	__u64 until; /* jiffies */
	__u32 backend;
	__u32 serial;
	enum recent_kind kind;
	__u32 pad;
};

/* Where a flow may be: two flows that meet here do not drive each other out. */
struct recent_set {
	struct recent first;
	struct recent second;
};

/* RECENT_SETS of each CPU, one CPU after the other, as far as Go knows them: a CPU
 * past the end has none. Not a per-CPU array, which finds every element by a
 * pointer of its own and does not align them; being mappable aligns these to
 * cache lines. */
SKEP_MAP(skep_recent, BPF_MAP_TYPE_ARRAY, __u32, struct recent_set, RECENT_SETS,
	 BPF_F_MMAPABLE);

static __always_inline struct recent_set *recent_set(const struct header *header)
{
	__u32 index = header->source.addr.word[3] ^
		      header->destination.addr.word[3] * 0x85ebca6bu ^
		      ((__u32)header->source.port << 16 |
		       header->destination.port);

	index = index * 0x9e3779b1u >> (32 - RECENT_SETS_SHIFT);
	index += bpf_get_smp_processor_id() << RECENT_SETS_SHIFT;
	return bpf_map_lookup_elem(&skep_recent, &index);
}

static __always_inline bool is_of(const struct recent *recent,
				  const struct header *header)
{
	const __u64 *x = (const __u64 *)&recent->key;
	const __u64 *y = (const __u64 *)header;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) |
		 (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

static __always_inline bool changes_flow(const struct header *header)
{
	return header->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

/* What this CPU knows of the packet's flow; NULL: skep_flows has to be asked. */
static __always_inline struct recent *find_recent(const struct header *header)
{
	struct recent_set *set = recent_set(header);
	struct recent *recent;

	if (!set)
		return NULL;
	recent = is_of(&set->first, header) ? &set->first : &set->second;
	if (recent->until <= bpf_jiffies64() || !is_of(recent, header))
		return NULL;
	return recent;
}

/* Forgets the flow of a packet that skep_flows is asked about. Returns where it
 * may be remembered again; NULL: nowhere. */
static __always_inline struct recent_set *forget_recent(struct arrival *arrival)
{
	const struct header *header = &arrival->packet.outer;
	struct recent_set *set;

	if (arrival->error || header->protocol == PROTOCOL_SCTP)
		return NULL;
	set = recent_set(header);
	if (!set)
		return NULL;
	if (is_of(&set->first, header))
		set->first.until = 0;
	if (is_of(&set->second, header))
		set->second.until = 0;
	return changes_flow(header) ? NULL : set;
}

/* In the place of the older of the two. */
static __always_inline void fill_recent(struct recent_set *set,
					const struct header *header,
					enum recent_kind kind,
					const struct flow *flow)
{
	struct recent *recent = &set->first;

	if (set->second.until < set->first.until)
		recent = &set->second;
	recent->key.source = header->source;
	recent->key.destination = header->destination;
	recent->backend = flow ? flow->backend : 0;
	recent->serial = flow ? flow->serial : 0;
	recent->kind = kind;
	recent->until = bpf_jiffies64() + RECENT_JIFFIES;
}

static __always_inline void remember_recent(struct recent_set *set,
					    const struct header *header,
					    const struct flow *flow)
{
	if (flow->flags & FLOW_SNAT)
		return;
	fill_recent(set, header,
		    flow->flags & FLOW_LOCAL ? RECENT_HERE : RECENT_ELSEWHERE,
		    flow);
}

/* Remembers that nothing is done with packets like this one, but for a fragment,
 * which might follow another. */
static __always_inline void remember_passed(struct arrival *arrival)
{
	const struct header *header = &arrival->packet.outer;
	struct recent_set *set;

	if (header->fragment)
		return;
	set = forget_recent(arrival);
	if (set)
		fill_recent(set, header, RECENT_PASSED, NULL);
}

#endif

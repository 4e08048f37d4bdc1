/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_FLOW_H
#define SKEP_FLOW_H

/* Per-packet connections: what became of the first packet is done to the next.
 *
 *   forward  client, frontend (scope)         -> backend
 *   reverse  client, backend (SCOPE_REVERSE)  -> frontend
 *
 * A forward key is the packet's own source and destination. The reverse entry
 * exists where the backend's answers have to be given the frontend's address,
 * which is the node that delivers to it. Both expire by `used`; the map's LRU
 * only bounds their number.
 *
 * Includes before this: packet.h, maps.h, selection.h. */

#include <linux/errno.h>

/* Key scope of reverse entries, beside enum frontend_scope. */
enum flow_scope {
	SCOPE_REVERSE = 2,
};

enum flow_flags {
	FLOW_LOCAL = 1,       /* the backend lives on this node */
	/* Packets also get flow->source as their source: this node's address, or,
	 * with FLOW_LOCAL, the client's own and another port. */
	FLOW_SNAT = 2,
	FLOW_ESTABLISHED = 4, /* TCP: more than a SYN was seen */
	FLOW_CLOSING = 8,     /* TCP: FIN or RST was seen; a SYN starts anew */
	FLOW_WEIGHED = 16,    /* forward: one of its backend's `flows` */
};

enum flow_capacity {
	CAPACITY_FLOWS = 131072,
};

enum flow_timeout {
	FLOW_SECONDS_UDP = 120,
	FLOW_SECONDS_TCP_OPENING = 120, /* longer than SYNs are repeated */
	FLOW_SECONDS_TCP = 86400,
	FLOW_SECONDS_TCP_CLOSING = 60,
	/* `used` is written at most this often, and the reverse entry renewed:
	 * a flow that only the client speaks on keeps both. */
	FLOW_SECONDS_RENEWAL = 1,
};

/* 40 bytes, named as in a packet from the client. Of a reverse key destination
 * is the backend and its scope SCOPE_REVERSE. source.scope is 0. */
struct flow_key {
	struct endpoint source;
	struct endpoint destination;
};

struct flow {
	struct endpoint peer;   /* forward: the backend; reverse: the frontend */
	struct endpoint source; /* forward, with FLOW_SNAT: what the backend sees;
				 * reverse: the client */
	__u32 backend;          /* id */
	__u32 serial;           /* of the backend: a reused id is another backend */
	__u32 node;             /* of the backend; 0: none */
	__u32 service;
	enum flow_flags flags;
	__u32 pad;
	__u64 used; /* bpf_ktime_get_coarse_ns */
};

SKEP_MAP(skep_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow,
	 CAPACITY_FLOWS, 0);

enum {
	PORT_WORDS = 65536 / 64,
};

/* Which ports flows are about, so that most packets need no lookup: a bit for
 * each port, as it lies in a packet. Bits are set before the first such flow is
 * made, and stay: one too many costs a lookup. */
struct flow_ports {
	__u64 asked[PORT_WORDS];   /* of frontends that pods asked */
	__u64 answers[PORT_WORDS]; /* of backends that have reverse entries */
	__u64 own[PORT_WORDS];     /* of those in this host's own network, which
				    * answer by its stack */
	__u64 any_own;
};

SKEP_MAP(skep_flow_ports, BPF_MAP_TYPE_ARRAY, __u32, struct flow_ports, 1, 0);

enum snat_ports {
	/* Above what the kernel gives to sockets (ip_local_port_range). */
	SNAT_PORT_FIRST = 61000,
	SNAT_PORTS = 65536 - SNAT_PORT_FIRST,
	SNAT_TRIES = 16,
};

/* The port that is tried as the i-th, of SNAT_TRIES. */
static __always_inline __be16 snat_port(__u32 first, __u32 i)
{
	return bpf_htons(SNAT_PORT_FIRST + (first + i * 277) % SNAT_PORTS);
}

static __always_inline bool is_snat_port(__be16 port)
{
	return bpf_ntohs(port) >= SNAT_PORT_FIRST;
}

static __always_inline struct flow_ports *flow_ports(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&skep_flow_ports, &zero);
}

static __always_inline bool has_port(const __u64 *ports, __be16 port)
{
	return ports[port / 64] >> (port % 64) & 1;
}

static __always_inline void set_port(__u64 *ports, __be16 port)
{
	if (!has_port(ports, port))
		__sync_fetch_and_or(&ports[port / 64], 1ULL << (port % 64));
}

static __always_inline void note_answers(const struct endpoint *backend)
{
	struct flow_ports *ports = flow_ports();

	if (ports)
		set_port(ports->answers, backend->port);
}

/* Whether lookup_reverse may find what a packet from this endpoint answers. */
static __always_inline bool may_answer_flow(const struct endpoint *from)
{
	struct flow_ports *ports = flow_ports();

	return ports && has_port(ports->answers, from->port);
}

static __always_inline void note_asked(const struct endpoint *frontend)
{
	struct flow_ports *ports = flow_ports();

	if (ports)
		set_port(ports->asked, frontend->port);
}

static __always_inline bool may_be_asked(const struct endpoint *to)
{
	struct flow_ports *ports = flow_ports();

	return ports && has_port(ports->asked, to->port);
}

static __always_inline void note_own_backend(const struct endpoint *backend)
{
	struct flow_ports *ports = flow_ports();

	if (!ports || has_port(ports->own, backend->port) ||
	    !(address_flags(&backend->addr) & ADDRESS_OWN))
		return;
	set_port(ports->own, backend->port);
	ports->any_own = 1;
}

static __always_inline __u64 flow_lifetime(const struct flow *flow, __u8 protocol)
{
	__u64 seconds = FLOW_SECONDS_UDP;

	if (protocol != PROTOCOL_UDP) {
		if (flow->flags & FLOW_CLOSING)
			seconds = FLOW_SECONDS_TCP_CLOSING;
		else if (protocol == PROTOCOL_SCTP ||
			 flow->flags & FLOW_ESTABLISHED)
			seconds = FLOW_SECONDS_TCP;
		else
			seconds = FLOW_SECONDS_TCP_OPENING;
	}
	return seconds * NANOSECONDS;
}

static __always_inline bool flow_expired(const struct flow *flow, __u8 protocol,
					 __u64 now)
{
	__s64 idle = now - flow->used; /* negative: written by another CPU since */

	return idle > (__s64)flow_lifetime(flow, protocol);
}

/* Notes what a packet of the flow says about it. */
static __always_inline void touch_flow(struct flow *flow, __u8 protocol,
				       __u8 tcp_flags, __u64 now)
{
	__u32 flags = flow->flags;

	if (protocol == PROTOCOL_TCP) {
		if (tcp_flags & (TCP_FIN | TCP_RST))
			flags |= FLOW_CLOSING;
		if (!(tcp_flags & TCP_SYN))
			flags |= FLOW_ESTABLISHED;
		if (flags != flow->flags)
			flow->flags = flags;
	}
	if (now - flow->used > (__u64)FLOW_SECONDS_RENEWAL * NANOSECONDS)
		flow->used = now;
}

/* The flow of a packet from the client to a frontend, or NULL: none, or one that
 * has expired or that this packet, a SYN after the end, begins anew. The
 * backend still has to be checked with backend_of. */
static __always_inline struct flow *lookup_forward(struct header *header,
						   enum frontend_scope scope,
						   __u64 now)
{
	struct flow_key key;
	struct flow *flow;

	header->destination.scope = scope;
	key.source = header->source;
	key.destination = header->destination;
	flow = bpf_map_lookup_elem(&skep_flows, &key);
	if (!flow)
		return NULL;
	if ((flow->flags & FLOW_CLOSING) && (header->tcp_flags & TCP_SYN))
		return NULL;
	if (flow_expired(flow, header->protocol, now))
		return NULL;
	return flow;
}

/* The record of the flow's backend while it is the one that the flow was made
 * for; NULL: it is gone, or on a node that is down. A draining backend is not. */
static __always_inline struct backend *backend_of(const struct flow *flow)
{
	__u32 id = flow->backend;
	struct backend *backend = bpf_map_lookup_elem(&skep_backends, &id);

	if (!backend || !(backend->flags & BACKEND_SERVING) ||
	    backend->serial != flow->serial ||
	    backend->service != flow->service ||
	    !same_address(&backend->key.addr, &flow->peer.addr) ||
	    backend->key.port != flow->peer.port || node_down(backend->node))
		return NULL;
	return backend;
}

/* The reverse key of packets between a client and a backend. */
static __always_inline void reverse_key(struct flow_key *key,
					const struct endpoint *client,
					const struct endpoint *backend)
{
	key->source = *client;
	key->source.scope = 0;
	key->destination = *backend;
	key->destination.scope = SCOPE_REVERSE;
}

/* What a packet from `from`, a backend, to `to`, a client, answers; NULL: it is
 * not an answer. flow->peer is the frontend, flow->source the client's own
 * endpoint if FLOW_SNAT. Endpoints carry the protocol. Touch it with
 * touch_flow. */
static __always_inline struct flow *lookup_reverse(const struct endpoint *from,
						   const struct endpoint *to,
						   __u64 now)
{
	struct flow_key key;
	struct flow *flow;

	reverse_key(&key, to, from);
	flow = bpf_map_lookup_elem(&skep_flows, &key);
	if (!flow || flow_expired(flow, from->protocol, now))
		return NULL;
	return flow;
}

enum remembered {
	REMEMBERED,
	REMEMBER_COLLISION, /* another frontend, or with FLOW_SNAT another client,
			     * leads to this backend under the same source:
			     * answers could not be told apart */
	REMEMBER_FULL,      /* the map has no room */
};

/* Whether the entry of another flow must not be replaced. The same client may
 * begin anew at the same frontend; for others the place is free when it expires,
 * and not before: the backend may remember the end of the connection. */
static __always_inline bool in_use(const struct flow *present,
				   const struct endpoint *client,
				   const struct endpoint *frontend, __u64 now)
{
	if (same_endpoint(&present->source, client) &&
	    same_endpoint(&present->peer, frontend))
		return false;
	return !flow_expired(present, client->protocol, now);
}

/* Writes the reverse entry of a flow from client to frontend, whose forward value
 * is `flow`, or renews it. begins: there is hardly one yet. Endpoints of clients
 * have scope 0. reverse: a copy of flow that becomes what is written. */
static __always_inline enum remembered
write_reverse(const struct endpoint *client, const struct endpoint *frontend,
	      const struct flow *flow, struct flow *reverse, bool begins)
{
	struct flow_key key;
	struct flow *present;
	int outcome = -EEXIST; /* Linux before 6.4 leaves the upper half unset */

	note_answers(&flow->peer);
	reverse_key(&key, flow->flags & FLOW_SNAT ? &flow->source : client,
		    &flow->peer);
	reverse->peer = *frontend;
	reverse->source = *client;
	if (begins)
		outcome = bpf_map_update_elem(&skep_flows, &key, reverse,
					      BPF_NOEXIST);
	if (outcome == -EEXIST) {
		present = bpf_map_lookup_elem(&skep_flows, &key);
		if (present && in_use(present, client, frontend, flow->used))
			return REMEMBER_COLLISION;
		/* two CPUs may want it now */
		outcome = bpf_map_update_elem(&skep_flows, &key, reverse,
					      present ? BPF_ANY : BPF_NOEXIST);
	}
	if (outcome == -EEXIST)
		return REMEMBER_COLLISION;
	return outcome ? REMEMBER_FULL : REMEMBERED;
}

static __always_inline enum remembered
remember_reverse(const struct endpoint *client, const struct endpoint *frontend,
		 const struct flow *flow, bool begins)
{
	struct flow reverse = *flow;

	return write_reverse(client, frontend, flow, &reverse, begins);
}

/* Writes both entries of a flow from client to frontend (with its scope). On a
 * collision neither is written: the caller takes another source or refuses. */
static __always_inline enum remembered
remember(const struct endpoint *client, const struct endpoint *frontend,
	 const struct flow *flow)
{
	enum remembered remembered;
	struct flow entry = *flow; /* one for both: the stack is narrow */
	struct flow_key key;

	if (flow->flags & (FLOW_LOCAL | FLOW_SNAT)) {
		remembered = write_reverse(client, frontend, flow, &entry, true);
		if (remembered != REMEMBERED)
			return remembered;
		entry.peer = flow->peer;
		entry.source = flow->source;
	}
	key.source = *client;
	key.destination = *frontend;
	if (bpf_map_update_elem(&skep_flows, &key, &entry, BPF_ANY))
		return REMEMBER_FULL;
	return REMEMBERED;
}

#endif

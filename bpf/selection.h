/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_SELECTION_H
#define SKEP_SELECTION_H

static __always_inline bool same_endpoint(const struct endpoint *a,
					  const struct endpoint *b)
{
	return a->addr.word[3] == b->addr.word[3] && a->port == b->port &&
	       a->protocol == b->protocol && a->scope == b->scope &&
	       a->addr.word[2] == b->addr.word[2] &&
	       a->addr.word[1] == b->addr.word[1] &&
	       a->addr.word[0] == b->addr.word[0];
}

/* What a lookup found. */
struct frontend {
	struct frontend_record *record;
	__u32 service; /* id */
	enum frontend_flags flags;
	enum service_flags service_flags;
	__u32 affinity_seconds;
};

/* The frontend of exactly this endpoint, or false with *reason set. A mismatch
 * of the key means that the hash element was recycled between lookup and read;
 * the next lookup sees what replaced it. */
static __always_inline bool find_frontend(const struct endpoint *asked,
					  struct frontend *frontend,
					  enum counter *reason)
{
	int i;

	for (i = 0; i < SERVICE_LOOKUPS; i++) {
		struct frontend_record *record;
		__u32 *entry, index;

		entry = bpf_map_lookup_elem(&skep_services, asked);
		if (!entry) {
			*reason = REASON_NO_SERVICE;
			return false;
		}
		index = *(volatile __u32 *)entry;
		record = bpf_map_lookup_elem(&skep_frontends, &index);
		if (record && same_endpoint(&record->key, asked)) {
			frontend->record = record;
			frontend->service = record->service;
			frontend->flags = record->flags;
			frontend->service_flags = record->service_flags;
			frontend->affinity_seconds = record->affinity_seconds;
			return true;
		}
	}
	*reason = REASON_FRONTEND_STALE;
	return false;
}

static __always_inline bool is_mapped(const struct address *addr)
{
	return !addr->word[0] && !addr->word[1] &&
	       addr->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_unspecified(const struct address *addr)
{
	return !addr->word[3] && !addr->word[0] && !addr->word[1] &&
	       (!addr->word[2] || addr->word[2] == bpf_htonl(0xffff));
}

static __always_inline __u32 address_flags(const struct address *addr)
{
	enum address_flags *flags = bpf_map_lookup_elem(&skep_addresses, addr);

	return flags ? *flags : 0;
}

/* The frontend of an endpoint: its own, or that of the same port at every
 * address of this node (node ports, host ports), if the address is this node's.
 * own: the caller knows that it is. */
static __always_inline bool
find_service_frontend(const struct endpoint *asked, bool own,
		      struct frontend *frontend, enum counter *reason)
{
	struct endpoint any = *asked;

	if (is_unspecified(&asked->addr)) {
		if (!own) {
			*reason = REASON_NO_SERVICE;
			return false;
		}
	} else if (find_frontend(asked, frontend, reason)) {
		return true;
	} else if (*reason != REASON_NO_SERVICE ||
		   (!own && !(address_flags(&asked->addr) & ADDRESS_OWN))) {
		return false;
	}
	any.addr.word[3] = 0;
	if (!is_mapped(&asked->addr)) {
		any.addr.word[0] = 0;
		any.addr.word[1] = 0;
		any.addr.word[2] = 0;
	}
	return find_frontend(&any, frontend, reason);
}

static __always_inline bool node_down(__u32 id)
{
	struct node *node;

	if (!id)
		return false;
	node = bpf_map_lookup_elem(&skep_nodes, &id);
	return node && *(volatile __u32 *)&node->down;
}

/* What one slot offers. */
struct candidate {
	struct backend *backend;
	__u32 id;
	enum counter reason;
};

static __always_inline bool take_slot(__u32 service, __u32 index,
				      struct candidate *candidate)
{
	__u32 *slot = bpf_map_lookup_elem(&skep_slots, &index);
	struct backend *backend;

	if (!slot)
		return false;
	candidate->id = *slot;
	backend = bpf_map_lookup_elem(&skep_backends, &candidate->id);
	if (!backend || backend->service != service)
		return false;
	if (node_down(backend->node)) {
		candidate->reason = REASON_BACKENDS_DOWN;
		count(EVENT_NODE_DOWN_SKIPPED);
		return false;
	}
	candidate->backend = backend;
	return true;
}

struct scan {
	__u32 service;
	__u32 slot_base;
	__u32 slot_count;
	__u32 first;
	__u32 found; /* slot index, meaningful if ok */
	__u32 ok;
	enum counter reason;
};

/* One step of the walk over every slot, which is reached only when several
 * turns in a row met a down node. */
static int scan_slot(__u32 step, struct scan *scan)
{
	struct candidate candidate = {};
	__u32 index;

	if (!scan->slot_count)
		return 1;
	index = scan->slot_base + (scan->first + step) % scan->slot_count;
	if (take_slot(scan->service, index, &candidate)) {
		scan->found = index;
		scan->ok = 1;
		return 1;
	}
	if (candidate.reason != REASON_TRANSLATED)
		scan->reason = candidate.reason;
	return 0;
}

/* The backend this client used last, if it may still be used. */
static __always_inline bool take_affine(const struct frontend *frontend,
					const struct affinity_key *key,
					__u64 now, struct candidate *candidate)
{
	struct affinity *affinity = bpf_map_lookup_elem(&skep_affinity, key);
	__u64 timeout = (__u64)frontend->affinity_seconds * NANOSECONDS;
	struct backend *backend;

	if (!affinity || now - affinity->used > timeout)
		return false;
	candidate->id = affinity->backend;
	backend = bpf_map_lookup_elem(&skep_backends, &candidate->id);
	if (!backend || backend->serial != affinity->serial ||
	    backend->service != frontend->service ||
	    !(backend->flags & BACKEND_SELECTABLE) || node_down(backend->node))
		return false;
	affinity->used = now;
	candidate->backend = backend;
	count(EVENT_AFFINITY_HIT);
	return true;
}

/* The backend whose turn it is. A turn that falls on a down node is spent and
 * the next one taken, so that the live backends still share evenly. */
static __always_inline bool take_turn(struct frontend *frontend,
				      struct service_state *state, bool local,
				      struct candidate *candidate)
{
	__u32 base = local ? frontend->record->local_base :
			     frontend->record->slot_base;
	__u32 turns = local ? frontend->record->local_count :
			      frontend->record->slot_count;
	__u32 position = 0;
	int i;

	candidate->reason = local ? REASON_NO_LOCAL_BACKEND : REASON_NO_BACKEND;
	if (!turns)
		return false;
	candidate->reason = REASON_BACKEND_MISSING;
	for (i = 0; i < SELECT_TICKS; i++) {
		position = __sync_fetch_and_add(&state->cursor, 1) % turns;
		if (take_slot(frontend->service,
			      base + position, candidate))
			return true;
	}

	struct scan scan = {
		.service = frontend->service,
		.slot_base = base,
		.slot_count = turns,
		.first = position,
		.reason = candidate->reason,
	};
	bpf_loop(turns, scan_slot, &scan, 0);
	candidate->reason = scan.reason;
	return scan.ok && take_slot(scan.service, scan.found, candidate);
}

static __always_inline void refuse(struct selection *selection,
				   struct service_state *state, enum counter reason)
{
	selection->reason = reason;
	__sync_fetch_and_add(&state->refused, 1);
}

/* Whether the client may use a frontend that is not for everyone. */
static __always_inline bool let_in(const struct frontend *frontend,
				   const struct address *client)
{
	struct source_key key = {
		.prefix = 32 + 128,
		.service = frontend->service,
		.addr = *client,
	};

	return !(frontend->flags & FRONTEND_RESTRICTED) ||
	       bpf_map_lookup_elem(&skep_sources, &key);
}

static __always_inline void fill_selection(struct selection *selection,
					   struct service_state *state,
					   const struct candidate *candidate)
{
	__u64 *connections;

	selection->backend = candidate->id;
	selection->node = candidate->backend->node;
	selection->peer = candidate->backend->key;
	selection->backend_flags = candidate->backend->flags;
	selection->reason = REASON_TRANSLATED;
	__sync_fetch_and_add(&state->connections, 1);
	connections = bpf_map_lookup_elem(&skep_connections, &candidate->id);
	if (connections)
		__sync_fetch_and_add(connections, 1);
}

/* Finds the backend for selection->asked, whose frontend is given, and counts
 * the connection. The caller counts selection->reason and acts on it. */
static __always_inline void select_backend(struct frontend *frontend,
					   struct selection *selection)
{
	struct candidate candidate = {};
	struct affinity_key key = {};
	struct service_state *state;
	__u64 now = 0;

	selection->service = frontend->service;
	selection->service_flags = frontend->service_flags;
	key.service = frontend->service;
	state = bpf_map_lookup_elem(&skep_cursors, &key.service);
	if (!state) {
		selection->reason = REASON_BACKEND_MISSING;
		return;
	}
	if (!let_in(frontend, &selection->client)) {
		refuse(selection, state, REASON_SOURCE_REFUSED);
		return;
	}
	if (frontend->affinity_seconds) {
		key.client = selection->client;
		now = bpf_ktime_get_ns();
		if (take_affine(frontend, &key, now, &candidate)) {
			fill_selection(selection, state, &candidate);
			return;
		}
	}
	if (!take_turn(frontend, state, frontend->flags & FRONTEND_LOCAL,
		       &candidate)) {
		refuse(selection, state, candidate.reason);
		return;
	}
	if (frontend->affinity_seconds) {
		struct affinity affinity = {
			.used = now,
			.backend = candidate.id,
			.serial = candidate.backend->serial,
		};

		bpf_map_update_elem(&skep_affinity, &key, &affinity, BPF_ANY);
	}
	fill_selection(selection, state, &candidate);
}

/* Finds a backend on this node, whatever the traffic policy, for a packet that
 * another node chose us for. hint: low 16 bits of the address that it chose, in
 * host order; 0: none. */
static __always_inline void select_local(struct frontend *frontend,
					 struct selection *selection,
					 __u16 hint)
{
	struct candidate candidate = {};
	struct service_state *state;
	__u32 service = frontend->service;

	(void)hint;
	selection->service = service;
	selection->service_flags = frontend->service_flags;
	state = bpf_map_lookup_elem(&skep_cursors, &service);
	if (!state) {
		selection->reason = REASON_BACKEND_MISSING;
		return;
	}
	if (take_turn(frontend, state, true, &candidate))
		fill_selection(selection, state, &candidate);
	else
		refuse(selection, state, candidate.reason);
}

#endif

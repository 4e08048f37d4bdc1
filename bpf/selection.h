/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_SELECTION_H
#define SKEP_SELECTION_H

/* From an endpoint that was asked for to a backend. Every entry point calls
 * find_service_frontend, then select_backend (select_local,
 * for what another node has chosen us for), then count(selection.reason). */

#include "frontend.h"

static __always_inline bool node_down(__u32 id)
{
	struct node *node;

	if (!id)
		return false;
	node = bpf_map_lookup_elem(&skep_nodes, &id);
	return node && *(volatile __u32 *)&node->down;
}

/* The backends to choose from. */
struct run {
	__u32 service;
	__u32 base;
	__u32 count;
	__u32 direct;
};

/* What one place of a run offers. */
struct candidate {
	struct backend *backend;
	__u32 id;
	enum counter reason;
};

static __always_inline void read_run(const struct frontend *frontend,
				     bool local, struct run *run)
{
	struct service *service = frontend->record;
	__u64 word = local ? *(volatile __u64 *)&service->local_run :
			     *(volatile __u64 *)&service->run;

	run->service = frontend->service;
	run->base = word;
	run->count = (word >> RUN_COUNT_SHIFT) & RUN_COUNT_MASK;
	run->direct = word >> RUN_DIRECT_SHIFT;
}

static __always_inline bool take_place(const struct run *run, __u32 place,
				       struct candidate *candidate)
{
	struct backend *backend;

	candidate->id = run->base + place;
	if (!run->direct) {
		__u32 index = candidate->id / SLOTS_EACH;
		struct slot_line *line;

		line = bpf_map_lookup_elem(&skep_slots, &index);
		if (!line)
			return false;
		candidate->id = line->backend[candidate->id % SLOTS_EACH];
	}
	backend = bpf_map_lookup_elem(&skep_backends, &candidate->id);
	if (!backend || backend->service != run->service)
		return false;
	if (node_down(backend->node)) {
		candidate->reason = REASON_BACKENDS_DOWN;
		count(EVENT_NODE_DOWN_SKIPPED);
		return false;
	}
	candidate->backend = backend;
	return true;
}

/* A walk over the places of a run. Kernels before 6.7 verify a step as if it were
 * the first, and remove what a first step never does: what a step reads of
 * earlier ones begins with a value whose branches are not decided by it. */
struct walk {
	struct run run;
	__u32 first;
	__u32 found; /* place, meaningful if ok */
	__u32 ok;
	__s32 least; /* weight of found; none: more than any backend has */
	__u32 hint;
	enum counter reason;
};

static __always_inline __u32 walk_place(const struct walk *walk, __u32 step)
{
	return walk->run.count ? (walk->first + step) % walk->run.count : 0;
}

/* One step to the next usable backend. */
static int next_usable(__u32 step, struct walk *walk)
{
	__u32 place = walk_place(walk, step);
	struct candidate candidate = {};

	if (take_place(&walk->run, place, &candidate)) {
		walk->found = place;
		walk->ok = 1;
		return 1;
	}
	if (candidate.reason != REASON_TRANSLATED)
		walk->reason = candidate.reason;
	return 0;
}

/* One step to the usable backend with the fewest sockets and flows; the first of
 * equals. */
static int next_lesser(__u32 step, struct walk *walk)
{
	__u32 place = walk_place(walk, step);
	struct candidate candidate = {};
	__s32 weight;

	if (!take_place(&walk->run, place, &candidate))
		return 0;
	weight = candidate.backend->active + candidate.backend->flows;
	if (weight >= walk->least)
		return 0;
	walk->found = place;
	walk->least = weight;
	walk->ok = 1;
	return weight <= 0;
}

/* One step to the backend whose address ends like the hint. */
static int next_hinted(__u32 step, struct walk *walk)
{
	__u32 place = walk_place(walk, step);
	struct candidate candidate = {};

	if (!take_place(&walk->run, place, &candidate))
		return 0;
	if ((bpf_ntohl(candidate.backend->key.addr.word[3]) & 0xffff) !=
	    walk->hint)
		return 0;
	walk->found = place;
	walk->ok = 1;
	return 1;
}

/* The place to try first. */
static __always_inline __u32 first_place(const struct frontend *frontend,
					 const struct run *run, __u64 *cursor,
					 __u32 hash)
{
	switch (frontend->service_flags & SELECT_MASK) {
	case SELECT_MAGLEV:
		return hash % run->count;
	case SELECT_RANDOM:
		return bpf_get_prandom_u32() % run->count;
	default:
		return (__u32)__sync_fetch_and_add(cursor, 1) % run->count;
	}
}

/* Chooses from a run as the service says. A round-robin turn that falls on a
 * down node is spent and the next one taken, so that the live backends still
 * share evenly. */
static __always_inline bool choose(struct frontend *frontend, bool local,
				   __u32 hash, struct candidate *candidate)
{
	struct service *service = frontend->record;
	__u64 *cursor = local ? &service->local_cursor : &service->cursor;
	__u32 selection = frontend->service_flags & SELECT_MASK;
	struct walk walk = {};
	int i;

	read_run(frontend, local, &walk.run);
	candidate->reason = local ? REASON_NO_LOCAL_BACKEND : REASON_NO_BACKEND;
	if (!walk.run.count)
		return false;
	candidate->reason = REASON_BACKEND_MISSING;
	walk.first = first_place(frontend, &walk.run, cursor, hash);
	if (selection == SELECT_LEAST_CONNECTIONS) {
		__u32 window = walk.run.count;

		if (window > LEAST_WINDOW)
			window = LEAST_WINDOW;
		walk.least = NO_LEAST;
		bpf_loop(window, next_lesser, &walk, 0);
		if (walk.ok)
			return take_place(&walk.run, walk.found, candidate);
	} else if (take_place(&walk.run, walk.first, candidate)) {
		return true;
	} else if (selection == SELECT_ROUND_ROBIN) {
		for (i = 1; i < SELECT_TURNS; i++) {
			walk.first = first_place(frontend, &walk.run, cursor, 0);
			if (take_place(&walk.run, walk.first, candidate))
				return true;
		}
	}
	walk.reason = candidate->reason;
	bpf_loop(walk.run.count, next_usable, &walk, 0);
	candidate->reason = walk.reason;
	return walk.ok && take_place(&walk.run, walk.found, candidate);
}

/* The backend that this client used last, if new connections may go there. */
static __always_inline bool take_affine(const struct frontend *frontend,
					const struct affinity_key *key,
					__u64 now, struct candidate *candidate)
{
	__u32 in_run = frontend->flags & FRONTEND_LOCAL ? BACKEND_IN_LOCAL_RUN :
							  BACKEND_IN_RUN;
	__u64 timeout = (__u64)frontend->affinity_seconds * NANOSECONDS;
	struct affinity *affinity = bpf_map_lookup_elem(&skep_affinity, key);
	struct backend *backend;

	if (!affinity || now - affinity->used > timeout)
		return false;
	candidate->id = affinity->backend;
	backend = bpf_map_lookup_elem(&skep_backends, &candidate->id);
	if (!backend || backend->serial != affinity->serial ||
	    backend->service != frontend->service ||
	    !(backend->flags & in_run) || node_down(backend->node))
		return false;
	affinity->used = now;
	candidate->backend = backend;
	count(EVENT_AFFINITY_HIT);
	return true;
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

static __always_inline void refuse(struct selection *selection,
				   struct service *service, enum counter reason)
{
	selection->reason = reason;
	__sync_fetch_and_add(&service->refused, 1);
}

static __always_inline void name_backend(struct selection *selection,
					 const struct candidate *candidate)
{
	selection->backend = candidate->id;
	selection->serial = candidate->backend->serial;
	selection->node = candidate->backend->node;
	selection->peer = candidate->backend->key;
	selection->backend_flags = candidate->backend->flags;
	selection->reason = REASON_TRANSLATED;
}

/* Who selects counts the connection. */
static __always_inline void settle(struct selection *selection,
				   struct service *service,
				   const struct candidate *candidate)
{
	name_backend(selection, candidate);
	__sync_fetch_and_add(&service->connections, 1);
	__sync_fetch_and_add(&candidate->backend->connections, 1);
}

/* Finds the backend for selection->asked, whose frontend is given, and counts
 * the connection. The caller counts selection->reason and acts on it. */
static __always_inline void select_backend(struct frontend *frontend,
					   struct selection *selection)
{
	struct service *service = frontend->record;
	struct candidate candidate = {};
	struct affinity_key key = {};
	__u64 now = 0;

	selection->service = frontend->service;
	selection->service_flags = frontend->service_flags;
	if (!let_in(frontend, &selection->client)) {
		refuse(selection, service, REASON_SOURCE_REFUSED);
		return;
	}
	if (frontend->affinity_seconds) {
		key.service = frontend->service;
		key.client = selection->client;
		now = bpf_ktime_get_ns();
		if (take_affine(frontend, &key, now, &candidate)) {
			settle(selection, service, &candidate);
			return;
		}
	}
	if (!choose(frontend, frontend->flags & FRONTEND_LOCAL,
		    selection->hash, &candidate)) {
		refuse(selection, service, candidate.reason);
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
	settle(selection, service, &candidate);
}

/* Finds a backend on this node, whatever the traffic policy, for a packet that
 * another node chose us for. hint: low 16 bits of the address that it chose, in
 * host order; 0: none. That backend's connection was counted there; another's is
 * counted here. That there is none is not: the caller may look further. */
static __always_inline void select_local(struct frontend *frontend,
					 struct selection *selection,
					 __u16 hint)
{
	struct service *service = frontend->record;
	struct candidate candidate = {};
	struct walk walk = { .hint = hint };

	selection->service = frontend->service;
	selection->service_flags = frontend->service_flags;
	if (!let_in(frontend, &selection->client)) {
		selection->reason = REASON_SOURCE_REFUSED;
		return;
	}
	read_run(frontend, true, &walk.run);
	if (hint)
		bpf_loop(walk.run.count, next_hinted, &walk, 0);
	if (walk.ok && take_place(&walk.run, walk.found, &candidate))
		name_backend(selection, &candidate);
	else if (choose(frontend, true, selection->hash, &candidate))
		settle(selection, service, &candidate);
	else
		selection->reason = candidate.reason;
}

#endif

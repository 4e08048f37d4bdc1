/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_BELONG_H
#define SKEP_BELONG_H

/* To which backend of which service a connected socket belongs.
 *
 * Includes before this: maps.h, selection.h. */

struct search {
	struct run run;
	struct endpoint peer;
	__u32 backend; /* out: id */
	bool live;     /* leave out backends of nodes that are down */
	bool found;
};

static int search_place(__u32 place, struct search *search)
{
	struct backend *backend;
	__u32 id = search->run.base + place;

	if (!search->run.direct) {
		__u32 index = id / SLOTS_EACH;
		struct slot_line *line;

		line = bpf_map_lookup_elem(&skep_slots, &index);
		if (!line)
			return 1;
		id = line->backend[id % SLOTS_EACH];
	}
	backend = bpf_map_lookup_elem(&skep_backends, &id);
	if (!backend || !same_endpoint(&backend->key, &search->peer) ||
	    (search->live && node_down(backend->node)))
		return 0;
	search->backend = id;
	search->found = true;
	return 1;
}

static __always_inline bool search_runs(const struct frontend *frontend,
					struct search *search)
{
	read_run(frontend, false, &search->run);
	bpf_loop(search->run.count, search_place, search, 0);
	if (search->found)
		return true;
	read_run(frontend, true, &search->run);
	bpf_loop(search->run.count, search_place, search, 0);
	return search->found;
}

/* The backend that skep_reverse names for an endpoint, or NULL. */
static __always_inline struct backend *named_backend(const struct endpoint *peer)
{
	__u32 *id = bpf_map_lookup_elem(&skep_reverse, peer);
	struct backend *backend;
	__u32 key;

	if (!id)
		return NULL;
	key = *(volatile __u32 *)id;
	backend = bpf_map_lookup_elem(&skep_backends, &key);
	return backend && same_endpoint(&backend->key, peer) ? backend : NULL;
}

/* The id of the service that a socket which is connected to a backend asked for;
 * false: it asked for the backend itself, or for what is no more. origin: what
 * skep_sockets holds of it, or NULL. named: the peer's named_backend. */
static __always_inline bool service_asked(const struct socket_state *origin,
					  const struct backend *named,
					  __u32 *service)
{
	const struct endpoint *peer = &named->key;

	if (origin && same_endpoint(&origin->peer, peer)) {
		struct endpoint asked = origin->asked;
		struct frontend frontend = {};
		enum counter reason;

		if (same_endpoint(&asked, peer) ||
		    !find_service_frontend(&asked, true, &frontend, &reason))
			return false;
		*service = frontend.service;
		return true;
	}
	*service = named->service;
	return named->flags & BACKEND_DERIVED;
}

#endif

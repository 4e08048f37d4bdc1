/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_FAILURE_H
#define SKEP_FAILURE_H

/* Connections of sockets that their backend refused or left unanswered.
 *
 * Includes before this: belong.h, events.h. */

/* Counts a connection that its backend refused or left unanswered. */
static __noinline void count_failed(const struct socket_state *origin,
				    struct backend *named)
{
	struct frontend frontend = {};
	struct backend *backend = named;
	struct event *event;
	__u32 service;

	if (!service_asked(origin, named, &service))
		return;
	frontend.record = bpf_map_lookup_elem(&skep_services, &service);
	if (!frontend.record)
		return;
	frontend.service = service;
	__sync_fetch_and_add(&frontend.record->failed, 1);
	event = begin_event(FAILURE_BACKEND_FAILED, service);
	if (event) {
		event->backend = named->key;
		bpf_ringbuf_submit(event, 0);
	}
	if (service != named->service) {
		struct search search = { .peer = named->key };

		if (!search_runs(&frontend, &search))
			return;
		backend = bpf_map_lookup_elem(&skep_backends, &search.backend);
		if (!backend)
			return;
	}
	__sync_fetch_and_add(&backend->failed, 1);
}

#endif

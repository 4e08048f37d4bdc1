/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_WEIGH_H
#define SKEP_WEIGH_H

/* What the beginning and the end of a packets' flow mean to its backend: the
 * weight that least connections goes by, and failures.
 *
 * Includes before this: flow.h, events.h. */

/* Reports a packet that goes no further. backend: may be NULL. */
static __noinline void report_packet(enum event_kind kind, __u32 service,
				   const struct endpoint *client,
				   const struct endpoint *asked,
				   const struct endpoint *backend)
{
	struct event *event = begin_event(kind, service);

	if (!event)
		return;
	event->client = *client;
	event->asked = *asked;
	if (backend)
		event->backend = *backend;
	bpf_ringbuf_submit(event, 0);
}

/* The service of a new flow chooses by least connections: the flow is one of its
 * backend's. Called when its entry is written, with the flag. */
static __always_inline void weigh_flow(const struct flow *flow)
{
	__u32 id = flow->backend;
	struct backend *backend;

	if (!(flow->flags & FLOW_WEIGHED))
		return;
	backend = bpf_map_lookup_elem(&skep_backends, &id);
	if (backend && backend->serial == flow->serial)
		__sync_fetch_and_add(&backend->flows, 1);
}

/* The first packet that ends a TCP flow: counts it for its backend no longer,
 * and as failed if it is the backend's refusal. The client's packets and the
 * backend's have an entry each; only the forward one is weighed. */
static __noinline void end_flow(struct flow *entry, __u8 tcp_flags, bool answer)
{
	struct flow *flow = entry;
	struct service *service;
	struct backend *backend;
	struct flow_key key;
	__u32 id;

	if (answer) {
		key.source = entry->source;
		key.destination = entry->peer;
		flow = bpf_map_lookup_elem(&skep_flows, &key);
		if (!flow)
			return;
	}
	id = flow->backend;
	backend = bpf_map_lookup_elem(&skep_backends, &id);
	if (!backend || backend->serial != flow->serial)
		return;
	if (__sync_fetch_and_and(&flow->flags, ~FLOW_WEIGHED) & FLOW_WEIGHED)
		__sync_fetch_and_add(&backend->flows, -1);
	if (!answer || !(tcp_flags & TCP_RST) || flow->flags & FLOW_ESTABLISHED)
		return;
	__sync_fetch_and_add(&backend->failed, 1);
	id = flow->service;
	service = bpf_map_lookup_elem(&skep_services, &id);
	if (service)
		__sync_fetch_and_add(&service->failed, 1);
	report_packet(FAILURE_BACKEND_FAILED, id, &entry->source, &entry->peer,
		    &flow->peer);
}

/* Called before touch_flow. answer: the entry is the reverse one. */
static __always_inline void note_end(struct flow *entry, __u8 protocol,
				     __u8 tcp_flags, bool answer)
{
	if (protocol != PROTOCOL_TCP || !(tcp_flags & (TCP_FIN | TCP_RST)) ||
	    entry->flags & FLOW_CLOSING)
		return;
	end_flow(entry, tcp_flags, answer);
}

#endif

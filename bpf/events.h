/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_EVENTS_H
#define SKEP_EVENTS_H

/* What counters cannot say: who was refused, and when. Only connections that
 * fail are reported, so one that succeeds pays nothing, and no more than
 * EVENTS_EACH_SECOND of a service on all CPUs together, or a few more.
 *
 * Includes before this: maps.h, selection.h. */

enum {
	EVENTS_SIZE = 65536, /* bytes; what nobody reads in time is lost */
	EVENTS_EACH_SECOND = 8,
	EVENTS_SHIFT = 4,
	COMMAND_LENGTH = 16,
};

/* Go's labels follow this order. */
enum event_kind {
	FAILURE_NO_BACKEND,       /* the service has none */
	FAILURE_BACKENDS_DOWN,    /* all are on nodes that are down */
	FAILURE_NO_LOCAL_BACKEND, /* traffic policy Local, none here */
	FAILURE_SOURCE_REFUSED,   /* client outside the source ranges */
	FAILURE_COLLISION,        /* the client's port leads to the backend already */
	FAILURE_FLOWS_FULL,       /* the kernel had no room for a flow */
	FAILURE_BACKEND_FAILED,   /* the backend refused, or did not answer */
	FAILURE_COUNT,
};

struct event {
	enum event_kind kind;
	__u32 service;
	struct endpoint asked;   /* port 0: not known */
	struct endpoint client;  /* the same */
	struct endpoint backend; /* the same */
	__u32 process;           /* that connects from this node; 0: not known */
	__u8 command[COMMAND_LENGTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_SIZE);
} skep_events SEC(".maps");

/* Room for an event, or NULL. The caller fills it and submits it. */
static __always_inline struct event *begin_event(enum event_kind kind,
						 __u32 service)
{
	struct service *record = bpf_map_lookup_elem(&skep_services, &service);
	struct event *event;
	__u32 second, stamp;

	if (!record)
		return NULL;
	second = (__u32)(bpf_ktime_get_ns() / NANOSECONDS) << EVENTS_SHIFT;
	stamp = *(volatile __u32 *)&record->event_stamp;
	if (stamp - second >= 1 << EVENTS_SHIFT)
		stamp = second;
	if (stamp - second >= EVENTS_EACH_SECOND)
		return NULL;
	*(volatile __u32 *)&record->event_stamp = stamp + 1;
	event = bpf_ringbuf_reserve(&skep_events, sizeof(*event), 0);
	if (!event)
		return NULL;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->service = service;
	return event;
}

/* The kind of a reason for which no backend was selected; FAILURE_COUNT: none. */
static __always_inline enum event_kind kind_of(enum counter reason)
{
	switch (reason) {
	case REASON_NO_BACKEND:
		return FAILURE_NO_BACKEND;
	case REASON_BACKENDS_DOWN:
		return FAILURE_BACKENDS_DOWN;
	case REASON_NO_LOCAL_BACKEND:
		return FAILURE_NO_LOCAL_BACKEND;
	case REASON_SOURCE_REFUSED:
		return FAILURE_SOURCE_REFUSED;
	default:
		return FAILURE_COUNT;
	}
}

#endif

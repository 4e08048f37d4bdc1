/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_UPLINK_FLOW_H
#define SKEP_UPLINK_FLOW_H

/* What becomes of a packet by the flow that it belongs to, or begins.
 *
 * Includes before this: all that uplink.c includes. */

enum {
	SELECTIONS = 3, /* backends tried before a collision is final */
};

/* To a backend here: the stack, or the program at tc ingress, brings it there. */
static __always_inline int deliver(struct xdp_md *ctx, struct arrival *arrival,
				   const struct flow *flow)
{
	arrival->to.source = flow->flags & FLOW_SNAT ?
				     flow->source :
				     subject_of(arrival)->source;
	arrival->to.destination = flow->peer;
	if (!rewrite_packet(ctx, arrival))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return leave(UPLINK_DELIVERED, XDP_PASS);
}

__noinline int renew_reverse(const struct header *header, const struct flow *flow)
{
	if (!header || !flow)
		return REMEMBER_FULL;
	return remember_reverse(&header->source, &header->destination, flow,
				false);
}

/* Does with the packet what its flow says. */
__noinline int follow(struct xdp_md *ctx, struct arrival *arrival,
		      const struct flow *flow)
{
	struct header *header;

	if (!arrival || !flow)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	if (!decapsulate(ctx, arrival))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	if (header->hops <= 1)
		return STEP_TIME_EXCEEDED;
	if (header->fragment == FRAGMENT_FIRST)
		note_fragment(header, arrival->now);
	if (flow->flags & FLOW_LOCAL)
		return deliver(ctx, arrival, flow);
	if (flow->flags & FLOW_SNAT) {
		arrival->to.source = flow->source;
		arrival->to.destination = flow->peer;
		return STEP_TRANSLATE_OUT;
	}
	if (arrival->forwarded)
		return leave(UPLINK_SECOND_HOP, XDP_DROP);
	if (arrival->peeled)
		uplink_count(UPLINK_EVENT_ANOTHER_HOP);
	return encapsulate(ctx, arrival, flow);
}

/* A packet of a flow whose backend is there. Its reverse entry is kept as long
 * as the flow, also if only the client speaks. */
static __always_inline int known_flow(struct xdp_md *ctx, struct arrival *arrival,
				      struct flow *flow)
{
	struct header *header = &arrival->packet.outer;
	__u32 flags = flow->flags;
	__u64 used = flow->used;

	if (arrival->error)
		return follow(ctx, arrival, flow);
	note_end(flow, header->protocol, header->tcp_flags, false);
	touch_flow(flow, header->protocol, header->tcp_flags, arrival->now);
	if ((flags & (FLOW_LOCAL | FLOW_SNAT)) &&
	    (flow->used != used || flow->flags != flags) &&
	    renew_reverse(header, flow) == REMEMBER_COLLISION)
		return leave(UPLINK_COLLISION, XDP_DROP);
	return follow(ctx, arrival, flow);
}

/* Of the client alone if it has affinity, so that every node agrees on that. */
static __always_inline __u32 flow_hash(const struct header *header, bool affine)
{
	const __u32 *words = header->source.addr.word;
	__u32 hash = header->protocol;
	int i;

	if (!affine)
		hash |= (__u32)header->source.port << 16;
	for (i = 0; i < 4; i++) {
		hash ^= words[i];
		hash *= 0x85ebca6b;
		hash ^= hash >> 15;
	}
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* TCP's middle of a connection that we know nothing of: another node had it, or
 * its flow was evicted. */
static __always_inline bool is_mid_flow(const struct header *header)
{
	return header->protocol == PROTOCOL_TCP &&
	       !(header->tcp_flags & TCP_SYN) &&
	       header->fragment != FRAGMENT_LATER;
}

/* Selects a backend; the outcome is arrival->selection.reason. A packet that
 * another node sent here gets a backend here, that which its sender chose if
 * there. */
static __noinline void choose_backend(struct arrival *arrival,
				      struct frontend *frontend)
{
	struct selection *selection = &arrival->selection;

	if (arrival->tunnel) {
		select_local(frontend, selection, arrival->hint);
		if (selection->reason == REASON_TRANSLATED)
			return;
		if (arrival->forwarded) {
			refuse(selection, frontend->record, selection->reason);
			return;
		}
	}
	select_backend(frontend, selection);
}

/* The packet for which no backend was selected. */
static __always_inline int not_selected(struct arrival *arrival)
{
	enum event_kind kind = kind_of(arrival->selection.reason);

	if (kind != FAILURE_COUNT)
		report_packet(kind, arrival->selection.service,
			    &subject_of(arrival)->source,
			    &arrival->selection.asked, NULL);
	switch (arrival->selection.reason) {
	case REASON_NO_BACKEND:
	case REASON_BACKENDS_DOWN:
		return STEP_REFUSE;
	case REASON_NO_LOCAL_BACKEND:
		return leave(arrival->forwarded ? UPLINK_SECOND_HOP :
						  UPLINK_NO_LOCAL_BACKEND,
			     XDP_DROP);
	case REASON_SOURCE_REFUSED:
		return leave(UPLINK_SOURCE_REFUSED, XDP_DROP);
	default:
		return leave(UPLINK_NOT_SELECTED, XDP_DROP);
	}
}

/* Fills arrival->flow from arrival->selection. */
static __always_inline void make_flow(struct arrival *arrival)
{
	const struct selection *selection = &arrival->selection;
	const struct header *header = subject_of(arrival);
	struct flow *flow = &arrival->flow;

	flow->peer = selection->peer;
	flow->peer.protocol = header->protocol;
	flow->peer.scope = 0;
	flow->backend = selection->backend;
	flow->serial = selection->serial;
	flow->service = selection->service;
	flow->node = selection->node;
	flow->used = arrival->now;
	flow->flags = 0;
	if (selection->backend_flags & BACKEND_LOCAL ||
	    (!selection->node &&
	     address_flags(&selection->peer.addr) & ADDRESS_OWN))
		flow->flags |= FLOW_LOCAL;
	else if (!arrival->tunnel &&
		 (selection->service_flags & SERVICE_SNAT ||
		  !address_of_node(selection->node)))
		flow->flags |= FLOW_SNAT;
	if (!(header->tcp_flags & TCP_SYN))
		flow->flags |= FLOW_ESTABLISHED;
	if (header->tcp_flags & TCP_FIN)
		flow->flags |= FLOW_CLOSING;
	else if ((selection->service_flags & SELECT_MASK) ==
		 SELECT_LEAST_CONNECTIONS)
		flow->flags |= FLOW_WEIGHED;
}

static __always_inline int keep_flow(struct xdp_md *ctx, struct arrival *arrival)
{
	struct flow *flow = &arrival->flow;
	int remembered = REMEMBER_COLLISION;

	if (flow->flags & FLOW_LOCAL)
		note_own_backend(&flow->peer);
	if (!(flow->flags & FLOW_SNAT))
		remembered = remember_arrival(arrival);
	if (remembered == REMEMBER_COLLISION &&
	    (flow->flags & FLOW_SNAT ||
	     flow->peer.protocol != PROTOCOL_SCTP))
		remembered = claim_port(ctx, arrival);
	return remembered;
}

/* Checks what no selection can know; UPLINK_REASON_COUNT: nothing is wrong. */
static __always_inline enum uplink_reason
check_selected(const struct arrival *arrival)
{
	const struct selection *selection = &arrival->selection;

	if (is_mapped(&selection->peer.addr) !=
	    is_mapped(&selection->asked.addr))
		return UPLINK_OTHER_FAMILY;
	if (selection->asked.protocol == PROTOCOL_SCTP &&
	    selection->peer.port != selection->asked.port)
		return UPLINK_SCTP_PORT;
	return UPLINK_REASON_COUNT;
}

/* Selects a backend and remembers it. If there is no source under which answers
 * of this backend could be told apart, another one is selected, and if that does
 * not help the packet is dropped. */
static __always_inline int begin_flow(struct xdp_md *ctx, struct arrival *arrival,
				      struct frontend *frontend)
{
	int remembered = REMEMBER_COLLISION;
	enum uplink_reason wrong;
	int i;

	for (i = 0; i < SELECTIONS; i++) {
		if (i)
			uplink_count(UPLINK_EVENT_RESELECTED);
		choose_backend(arrival, frontend);
		if (arrival->selection.reason != REASON_TRANSLATED)
			return not_selected(arrival);
		wrong = check_selected(arrival);
		if (wrong != UPLINK_REASON_COUNT)
			return leave(wrong, XDP_DROP);
		make_flow(arrival);
		if (arrival->error)
			return STEP_FOLLOW;
		remembered = keep_flow(ctx, arrival);
		if (remembered != REMEMBER_COLLISION)
			break;
	}
	if (remembered != REMEMBERED)
		report_packet(remembered == REMEMBER_FULL ? FAILURE_FLOWS_FULL :
							  FAILURE_COLLISION,
			    arrival->selection.service,
			    &subject_of(arrival)->source,
			    &arrival->selection.asked, &arrival->selection.peer);
	if (remembered == REMEMBER_COLLISION)
		return leave(arrival->flow.flags & FLOW_SNAT ? UPLINK_NO_PORT :
							       UPLINK_COLLISION,
			     XDP_DROP);
	if (remembered == REMEMBER_FULL)
		return leave(UPLINK_FLOWS_FULL, XDP_DROP);
	weigh_flow(&arrival->flow);
	uplink_count(UPLINK_EVENT_FLOW_MADE);
	return STEP_FOLLOW;
}

/* Whether no host can have sent the packet, or its answers would look to a node
 * like what another one wrapped for it. */
static __always_inline bool is_martian(const struct header *header)
{
	const struct address *from = &header->source.addr;
	__u32 first = bpf_ntohl(is_mapped(from) ? from->word[3] : from->word[0]) >>
		      24;

	if (header->protocol == PROTOCOL_UDP &&
	    header->source.port == bpf_htons(OVERLAY_PORT))
		return true;
	if (is_mapped(from))
		return !first || first == 127 || first >= 224;
	return first == 0xff || (!from->word[0] && !from->word[1] &&
				 !from->word[2] &&
				 bpf_ntohl(from->word[3]) <= 1);
}

/* A packet without a flow that may go to a frontend: STEP_SELECT. */
__noinline int new_flow(struct xdp_md *ctx, struct arrival *arrival)
{
	struct frontend frontend = {};
	struct selection *selection;
	struct header *subject;
	bool maglev;

	if (!arrival)
		return XDP_ABORTED;
	subject = subject_of(arrival);
	selection = &arrival->selection;
	__builtin_memset(selection, 0, sizeof(*selection));
	selection->asked = subject->destination;
	selection->client = subject->source.addr;
	if (!find_service_frontend(&selection->asked, arrival->tunnel,
				   &frontend, &selection->reason)) {
		if (selection->reason != REASON_NO_SERVICE)
			return leave(UPLINK_NOT_SELECTED, XDP_DROP);
		if (arrival->tunnel)
			return leave(UPLINK_FOREIGN_TUNNEL, XDP_PASS);
		if (arrival->error)
			return leave(UPLINK_ERROR_NO_FLOW, XDP_PASS);
		if (!is_snat_port(subject->destination.port))
			remember_passed(arrival);
		return leave(UPLINK_NO_SERVICE, XDP_PASS);
	}
	if (is_martian(subject))
		return leave(UPLINK_MARTIAN, XDP_DROP);
	maglev = (frontend.service_flags & SELECT_MASK) == SELECT_MAGLEV;
	selection->hash = flow_hash(subject, frontend.affinity_seconds);
	if (arrival->error && !maglev && !arrival->tunnel)
		return leave(UPLINK_ERROR_NO_FLOW, XDP_PASS);
	if (subject->protocol == PROTOCOL_TCP &&
	    (subject->tcp_flags & TCP_RST ||
	     (subject->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)))
		return leave(UPLINK_NO_FLOW, XDP_DROP);
	if (!arrival->error && is_mid_flow(subject)) {
		uplink_count(UPLINK_EVENT_MID_FLOW);
		frontend.service_flags &= ~SELECT_MASK;
		frontend.service_flags |= SELECT_MAGLEV; /* by hash */
	}
	return begin_flow(ctx, arrival, &frontend);
}

/* The flow's backend is gone, or no longer reached in the flow's way. What cannot
 * begin anew is answered with an error at once. */
static __always_inline int gone_flow(const struct arrival *arrival)
{
	const struct header *header = &arrival->packet.outer;

	uplink_count(UPLINK_EVENT_FLOW_GONE);
	if (arrival->error)
		return leave(UPLINK_ERROR_NO_FLOW, XDP_PASS);
	if (header->protocol != PROTOCOL_TCP || header->tcp_flags & TCP_SYN)
		return STEP_SELECT;
	return STEP_RESET;
}

/* A later fragment whose first one did not come through here. The host's own
 * are for the kernel; of ours there is nothing that could be done. */
static __always_inline int lone_fragment(struct arrival *arrival)
{
	if (arrival->tunnel ||
	    is_announced(&arrival->packet.outer.destination.addr))
		return leave(UPLINK_FRAGMENT_LOST, XDP_DROP);
	return leave(UPLINK_FRAGMENT_PASSED, XDP_PASS);
}

/* The answer of a backend to our own address. */
static __always_inline int answered_flow(struct arrival *arrival)
{
	struct header *subject = subject_of(arrival);
	struct flow *flow;

	flow = lookup_reverse(&subject->source, &subject->destination,
			      arrival->now);
	if (!flow || !(flow->flags & FLOW_SNAT))
		return STEP_SELECT;
	if (!arrival->error) {
		note_end(flow, subject->protocol, subject->tcp_flags, true);
		touch_flow(flow, subject->protocol, subject->tcp_flags,
			   arrival->now);
	}
	if (arrival->packet.outer.hops <= 1)
		return STEP_TIME_EXCEEDED;
	arrival->to.source = flow->peer;
	arrival->to.destination = flow->source;
	return STEP_TRANSLATE_BACK;
}

/* TCP, UDP, SCTP, or an ICMP error about one of them. */
__noinline int serve(struct xdp_md *ctx, struct arrival *arrival)
{
	struct header *subject;
	struct recent_set *set;
	struct flow *flow;

	if (!arrival)
		return XDP_ABORTED;
	subject = subject_of(arrival);
	if (subject->fragment == FRAGMENT_LATER &&
	    !follow_fragment(subject, arrival->now))
		return lone_fragment(arrival);
	subject->destination.scope = SCOPE_EXTERNAL;
	set = forget_recent(arrival);
	flow = lookup_forward(subject, SCOPE_EXTERNAL, arrival->now);
	if (!flow) {
		if (is_snat_port(subject->destination.port) && !arrival->tunnel)
			return answered_flow(arrival);
		return STEP_SELECT;
	}
	if (!backend_of(flow) || is_cut_off(flow))
		return gone_flow(arrival);
	if (set)
		remember_recent(set, subject, flow);
	return known_flow(ctx, arrival, flow);
}

#endif

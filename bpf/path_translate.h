/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_TRANSLATE_H
#define SKEP_PATH_TRANSLATE_H

/* Services by the packet, for what no socket hook saw: a flow from a pod to a
 * service address is led to a backend, and what the backend answers gets the
 * service's address again. Answers to flows that came from outside through XDP
 * look the same and are undone by the same code. */

enum step {
	STEP_NONE,    /* not ours: the packet is as it was */
	STEP_CHANGED, /* translated: it goes on */
	STEP_ENDED,   /* *verdict says how */
};

enum {
	CAPACITY_FRAGMENTED = 8192,
	/* IPv4's reassembly timeout: after it an identification may be another
	 * datagram's. */
	FRAGMENT_SECONDS = 30,
};

struct datagram {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};

struct datagram_ports {
	__u64 noted; /* bpf_ktime_get_coarse_ns */
	struct ports ports;
	__u32 pad;
};

/* Ports of datagrams that come in fragments, as they were before translation. */
SKEP_MAP(skep_path_fragments, BPF_MAP_TYPE_LRU_HASH, struct datagram,
	 struct datagram_ports, CAPACITY_FRAGMENTED, 0);

/* Gives a later fragment the ports of its datagram, which the first one noted.
 * One that overtakes its first keeps port 0: nothing is found for it, and its
 * datagram is lost if it should have been translated. */
static __always_inline void know_fragment(struct passage *passage)
{
	struct header *header = &passage->packet.outer;
	struct datagram_ports *known;
	struct datagram key = {
		.source = header->source.addr,
		.destination = header->destination.addr,
		.id = header->fragment_id,
		.protocol = header->protocol,
	};

	if (header->fragment == FRAGMENT_FIRST) {
		struct datagram_ports first = {
			.noted = now(passage),
			.ports.source = header->source.port,
			.ports.destination = header->destination.port,
		};

		bpf_map_update_elem(&skep_path_fragments, &key, &first, BPF_ANY);
		return;
	}
	known = bpf_map_lookup_elem(&skep_path_fragments, &key);
	if (!known ||
	    now(passage) - known->noted > (__u64)FRAGMENT_SECONDS * NANOSECONDS) {
		tally(passage, PATH_EVENT_FRAGMENT_UNKNOWN);
		return;
	}
	header->source.port = known->ports.source;
	header->destination.port = known->ports.destination;
}

static __always_inline enum step failed(struct passage *passage, int *verdict,
					enum path_counter reason)
{
	*verdict = drop(passage, reason);
	return STEP_ENDED;
}

/* The ICMP error is about a packet that the backend's side sent or received:
 * inner names it as the backend's side knows it. */
static __always_inline long reverse_error(struct passage *passage,
					  const struct endpoint *frontend,
					  const struct endpoint *client, bool snat)
{
	struct header *outer = &passage->packet.outer;
	struct header *inner = &passage->packet.inner;
	struct __sk_buff *skb = passage->skb;
	long failed = 0;

	/* Else a router between reports it, who is right about who it is. */
	if (same_address(&outer->source.addr, &inner->destination.addr))
		failed = replace_address(skb, outer, END_SOURCE, &frontend->addr);
	failed = failed ?: replace_quoted(skb, outer, inner, END_DESTINATION,
					  frontend);
	if (snat && !failed) {
		failed = replace_quoted(skb, outer, inner, END_SOURCE, client);
		failed = failed ?: replace_address(skb, outer, END_DESTINATION,
						   &client->addr);
	}
	return failed;
}

/* If the packet is a backend's answer to a flow that was translated by the
 * packet, gives it the address that the client asked. */
static __always_inline enum step reverse(struct passage *passage, int *verdict)
{
	struct header *outer = &passage->packet.outer;
	struct header *inner = &passage->packet.inner;
	struct endpoint *from = &outer->source, *to = &outer->destination;
	struct endpoint frontend, client;
	struct flow *flow;
	bool snat;
	long error;

	if (passage->parsed == PARSED_ERROR) {
		from = &inner->destination;
		to = &inner->source;
	} else if (passage->parsed != PARSED_PORTS) {
		return STEP_NONE;
	}
	if (!may_answer_flow(from))
		return STEP_NONE;
	flow = lookup_reverse(from, to, now(passage));
	if (!flow)
		return STEP_NONE;
	frontend = flow->peer;
	client = flow->source;
	snat = flow->flags & FLOW_SNAT;
	if (passage->parsed == PARSED_ERROR) {
		tally(passage, PATH_EVENT_ERROR);
		error = reverse_error(passage, &frontend, &client, snat);
	} else {
		note_end(flow, outer->protocol, outer->tcp_flags, true);
		touch_flow(flow, outer->protocol, outer->tcp_flags, now(passage));
		error = replace_endpoint(passage->skb, outer, END_SOURCE, &frontend);
		if (snat)
			error = error ?: replace_endpoint(passage->skb, outer,
							  END_DESTINATION,
							  &client);
	}
	if (error)
		return failed(passage, verdict, PATH_NOT_WRITTEN);
	tally(passage, PATH_EVENT_REVERSED);
	return STEP_CHANGED;
}

/* Writes both entries of a new flow of the packet's, or renews them. A client's
 * port that leads to the backend already, by way of another frontend, is given
 * another number towards it, so that answers can be told apart. A global
 * function: it is verified once. */
__noinline int skep_remember_flow(struct header *header)
{
	struct workspace *space = workspace();
	int remembered = REMEMBER_COLLISION;
	struct flow_key key;
	struct flow *flow;
	__u32 i, first;

	if (!header || !space)
		return REMEMBER_FULL;
	flow = &space->flow;
	header->destination.scope = SCOPE_CLUSTER;
	first = bpf_ntohs(header->source.port) ^ bpf_ntohs(flow->peer.port);
	for (i = 0; i <= SNAT_TRIES; i++) {
		if (i) {
			if (!(flow->flags & FLOW_SNAT))
				flow->source = header->source;
			flow->source.port = snat_port(first, i);
			flow->flags |= FLOW_SNAT;
		}
		space->reverse = *flow;
		remembered = write_reverse(&header->source, &header->destination,
					   flow, &space->reverse, true);
		if (remembered != REMEMBER_COLLISION ||
		    header->protocol == PROTOCOL_SCTP)
			break;
	}
	note_asked(&header->destination);
	key.source = header->source; /* Linux 6.1 takes keys from the stack alone */
	key.destination = header->destination;
	if (remembered == REMEMBERED &&
	    bpf_map_update_elem(&skep_flows, &key, flow, BPF_ANY))
		remembered = REMEMBER_FULL;
	return remembered;
}

/* A pod that is its own backend sees its packets come from an address that it
 * does not have: from its own it would not accept them. */
static __always_inline void hide_client(const struct passage *passage,
					struct flow *flow)
{
	const struct header *header = &passage->packet.outer;
	struct pod *pod = bpf_map_lookup_elem(&skep_pods, &flow->peer.addr);
	struct path_config *config = path_config();

	if (!pod || !config || pod->ifindex != passage->skb->ifindex)
		return;
	flow->source = header->source;
	flow->source.addr = header->family == FAMILY_IPV4 ? config->hairpin4 :
							    config->hairpin6;
	flow->flags |= FLOW_SNAT;
}

/* Chooses a backend and fills the workspace's flow with it. */
static __always_inline enum step begin_flow(struct passage *passage,
					    struct frontend *frontend,
					    struct workspace *space, int *verdict)
{
	struct header *header = &passage->packet.outer;
	struct selection *selection = &space->selection;
	struct flow *flow = &space->flow;
	struct backend *backend;
	__u32 id;

	__builtin_memset(space, 0, sizeof(*space));
	selection->asked = header->destination;
	selection->client = header->source.addr;
	selection->hash = bpf_get_hash_recalc(passage->skb);
	select_backend(frontend, selection);
	if (selection->reason == REASON_TRANSLATED &&
	    is_mapped(&selection->peer.addr) != (header->family == FAMILY_IPV4))
		selection->reason = REASON_FAMILY_MISMATCH;
	count(selection->reason);
	id = selection->backend;
	backend = bpf_map_lookup_elem(&skep_backends, &id);
	if (selection->reason != REASON_TRANSLATED || !backend) {
		enum event_kind kind = kind_of(selection->reason);

		if (kind != FAILURE_COUNT)
			report_packet(kind, selection->service, &header->source,
				    &selection->asked, NULL);
		*verdict = refuse_packet(passage);
		return STEP_ENDED;
	}
	flow->peer = selection->peer;
	flow->backend = id;
	flow->serial = backend->serial;
	flow->node = selection->node;
	flow->service = selection->service;
	flow->used = now(passage);
	hide_client(passage, flow);
	touch_flow(flow, header->protocol, header->tcp_flags, now(passage));
	if ((selection->service_flags & SELECT_MASK) ==
		    SELECT_LEAST_CONNECTIONS &&
	    !(flow->flags & FLOW_CLOSING))
		flow->flags |= FLOW_WEIGHED;
	tally(passage, PATH_EVENT_NEW_FLOW);
	return STEP_CHANGED;
}

static __always_inline enum step apply_flow(struct passage *passage,
					    const struct flow *flow, int *verdict)
{
	struct header *header = &passage->packet.outer;
	long error;

	if (header->protocol == PROTOCOL_SCTP &&
	    flow->peer.port != header->destination.port)
		return failed(passage, verdict, PATH_SCTP_PORT);
	error = replace_endpoint(passage->skb, header, END_DESTINATION, &flow->peer);
	if (flow->flags & FLOW_SNAT) {
		if (!same_address(&flow->source.addr, &header->source.addr))
			tally(passage, PATH_EVENT_HAIRPIN);
		error = error ?: replace_endpoint(passage->skb, header, END_SOURCE,
						  &flow->source);
	}
	if (error)
		return failed(passage, verdict, PATH_NOT_WRITTEN);
	tally(passage, PATH_EVENT_TRANSLATED);
	return STEP_CHANGED;
}

/* Whether a flow may go on with its backend. One that drains keeps its TCP
 * connections; datagrams leave it at once. */
static __always_inline bool keeps_backend(const struct flow *flow, __u8 protocol)
{
	struct backend *backend = backend_of(flow);

	if (!backend || !backend->flags) /* 0: gone, its id not used again yet */
		return false;
	return protocol != PROTOCOL_UDP ||
	       backend->flags & (BACKEND_IN_RUN | BACKEND_IN_LOCAL_RUN);
}

/* The pod's packet asks for a service: leads it to a backend. */
static __always_inline enum step to_service(struct passage *passage, int *verdict)
{
	struct header *header = &passage->packet.outer;
	enum counter reason = REASON_NO_SERVICE;
	struct workspace *space = workspace();
	struct flow *known = NULL;
	bool fresh = true, made = false;

	if (!space)
		return STEP_NONE;
	header->destination.scope = SCOPE_CLUSTER;
	if (may_be_asked(&header->destination))
		known = lookup_forward(header, SCOPE_CLUSTER, now(passage));
	if (known && keeps_backend(known, header->protocol)) {
		fresh = now(passage) - known->used >
			(__u64)FLOW_SECONDS_RENEWAL * NANOSECONDS;
		note_end(known, header->protocol, header->tcp_flags, false);
		touch_flow(known, header->protocol, header->tcp_flags, now(passage));
		space->flow = *known;
	} else {
		struct frontend frontend = {};
		enum step step;

		if (!find_service_frontend(&header->destination, false,
					   &frontend, &reason))
			return STEP_NONE;
		step = begin_flow(passage, &frontend, space, verdict);
		if (step != STEP_CHANGED)
			return step;
		made = true;
	}
	if (fresh) {
		int remembered = skep_remember_flow(header);

		if (made && remembered != REMEMBERED)
			report_packet(remembered == REMEMBER_FULL ?
					    FAILURE_FLOWS_FULL :
					    FAILURE_COLLISION,
				    space->flow.service, &header->source,
				    &header->destination, &space->flow.peer);
		if (remembered == REMEMBER_COLLISION)
			return failed(passage, verdict, PATH_COLLISION);
		if (remembered == REMEMBER_FULL)
			return failed(passage, verdict, PATH_NOT_STORED);
	}
	if (made)
		weigh_flow(&space->flow);
	return apply_flow(passage, &space->flow, verdict);
}

/* The pod reports an error about an answer that it got from a service: it goes
 * to the backend that sent it. */
static __always_inline enum step error_to_service(struct passage *passage,
						  int *verdict)
{
	struct header *outer = &passage->packet.outer;
	struct header *inner = &passage->packet.inner;
	struct flow_key key = {
		.source = inner->destination,
		.destination = inner->source,
	};
	struct endpoint backend, source;
	struct flow *flow;
	bool snat;
	long error;

	flow = bpf_map_lookup_elem(&skep_flows, &key);
	if (!flow)
		return STEP_NONE;
	backend = flow->peer;
	source = flow->source;
	snat = flow->flags & FLOW_SNAT;
	if (snat && !same_address(&source.addr, &inner->destination.addr))
		return STEP_NONE; /* the pod's own, of a connection to itself */
	error = replace_quoted(passage->skb, outer, inner, END_SOURCE, &backend);
	if (snat)
		error = error ?: replace_quoted(passage->skb, outer, inner,
						END_DESTINATION, &source);
	error = error ?: replace_address(passage->skb, outer, END_DESTINATION,
					 &backend.addr);
	if (error)
		return failed(passage, verdict, PATH_NOT_WRITTEN);
	tally(passage, PATH_EVENT_ERROR);
	return STEP_CHANGED;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_SNAT_H
#define SKEP_SNAT_H

/* Backends elsewhere reached from this node's own address, for services that
 * ask for it and for backends that no node of the cluster has: they answer to
 * us, and we to the client. Towards a backend behind an overlay it is the address
 * on the overlay: the answer comes back through that, where the program at its tc
 * ingress undoes the translation (pod.c).
 *
 * And backends here that the client's port leads to already, by way of another
 * frontend: they see the client's address and another port. The program that
 * gives answers the frontend's address gives them the client's own port. */

/* Writes both entries of arrival->flow. */
__noinline int remember_arrival(struct arrival *arrival)
{
	struct header *header;

	if (!arrival)
		return REMEMBER_FULL;
	header = &arrival->packet.outer;
	return remember(&header->source, &header->destination, &arrival->flow);
}

/* Finds a port under which the backend has no other flow of ours, and writes
 * both entries of arrival->flow. */
__noinline int claim_port(struct xdp_md *ctx, struct arrival *arrival)
{
	int remembered = REMEMBER_FULL;
	enum route route = ROUTE_NONE;
	struct header *header;
	struct flow *flow;
	struct hop *hop;
	__u32 i, first;

	if (!arrival)
		return REMEMBER_FULL;
	header = &arrival->packet.outer;
	flow = &arrival->flow;
	/* The hash of a client with affinity leaves out its port. */
	first = arrival->selection.hash ^ bpf_ntohs(header->source.port);
	flow->source = header->source;
	if (flow->flags & FLOW_LOCAL) {
		flow->flags |= FLOW_SNAT;
	} else {
		hop = find_hop(ctx, &flow->peer.addr, arrival->now, &route);
		if (!hop)
			return REMEMBER_FULL;
		flow->source.addr = hop->from;
		if (header->protocol == PROTOCOL_SCTP) /* its port stays */
			return remember_arrival(arrival);
	}
	for (i = 0; i < SNAT_TRIES; i++) {
		flow->source.port = snat_port(first, i);
		remembered = remember_arrival(arrival);
		if (remembered != REMEMBER_COLLISION)
			break;
	}
	return remembered;
}

/* Gives the packet the endpoints of arrival->to and sends it. */
__noinline int translate(struct xdp_md *ctx, struct arrival *arrival,
			 enum uplink_reason reason)
{
	enum route route = ROUTE_NONE;
	struct header *header;
	struct hop *hop;

	if (!arrival)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	hop = find_hop(ctx, &arrival->to.destination.addr, arrival->now, &route);
	if (!hop)
		return leave(UPLINK_NO_ROUTE, XDP_DROP);
	if (hop->mtu && header->end - header->l3 > hop->mtu) {
		arrival->mtu = hop->mtu;
		return STEP_TOO_BIG;
	}
	if (!rewrite_packet(ctx, arrival) || !decrement_hops(ctx, header))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return send_to(ctx, hop, route, reason);
}

#endif

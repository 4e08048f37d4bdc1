/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_REWRITE_H
#define SKEP_REWRITE_H

/* Writes new endpoints into a packet and keeps every checksum right: its own,
 * and in an ICMP error those of the packet inside and of the error. */

/* Writes both addresses of the IP header at header->l3 and returns how the
 * words that a pseudo header covers changed; false: it is not in the packet. */
static __always_inline bool rewrite_addresses(struct xdp_md *ctx,
					      struct header *header,
					      const struct address *source,
					      const struct address *destination,
					      __u64 *change)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	*change = change_address(0, &header->source.addr, source);
	*change = change_address(*change, &header->destination.addr, destination);
	if (header->family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, header->l3, sizeof(*ip4));
		if (!ip4)
			return false;
		ip4->saddr = source->word[3];
		ip4->daddr = destination->word[3];
		apply_change(&ip4->check, *change);
		return true;
	}
	ip6 = packet_at(data, data_end, header->l3, sizeof(*ip6));
	if (!ip6)
		return false;
	__builtin_memcpy(&ip6->saddr, source, sizeof(ip6->saddr));
	__builtin_memcpy(&ip6->daddr, destination, sizeof(ip6->daddr));
	return true;
}

/* Writes both ports, and applies change, to which theirs is added, to the
 * transport checksum. Returns how the words written here changed, for a
 * checksum around them. A quoted packet may end before its checksum. */
static __always_inline __u64 rewrite_ports(struct xdp_md *ctx,
					   struct header *header,
					   const struct rewrite *to, __u64 change)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	struct ports *ports;
	__sum16 *checksum, before;
	__u64 ports_change;
	__u32 at;

	if (header->fragment == FRAGMENT_LATER ||
	    header->protocol == PROTOCOL_SCTP)
		return 0;
	ports = packet_at(data, data_end, header->l4, sizeof(*ports));
	if (!ports)
		return 0;
	ports_change = change16(0, ports->source, to->source.port);
	ports_change = change16(ports_change, ports->destination,
				to->destination.port);
	ports->source = to->source.port;
	ports->destination = to->destination.port;
	at = header->l4 + (header->protocol == PROTOCOL_TCP ?
				   offsetof(struct tcphdr, check) :
				   offsetof(struct udphdr, check));
	if (at + sizeof(*checksum) > header->end)
		return ports_change;
	checksum = packet_at(data, data_end, at, sizeof(*checksum));
	if (!checksum)
		return ports_change;
	before = *checksum;
	if (header->protocol == PROTOCOL_TCP)
		apply_change(checksum, change + ports_change);
	else
		apply_udp_change(checksum, change + ports_change);
	return change16(ports_change, before, *checksum);
}

static __always_inline bool rewrite_transport(struct xdp_md *ctx,
					      struct header *header,
					      const struct rewrite *to)
{
	__u64 change;

	if (!rewrite_addresses(ctx, header, &to->source.addr,
			       &to->destination.addr, &change))
		return false;
	rewrite_ports(ctx, header, to, change);
	return true;
}

/* An ICMP error goes where its flow goes: the packet inside, which came from
 * there, is given the endpoints it left with, and the error is sent to its
 * sender. Its own source stays, which is whoever found the error, but for one
 * that the flow's other end itself found. */
static __always_inline bool rewrite_error(struct xdp_md *ctx,
					  struct packet *packet,
					  const struct rewrite *to)
{
	/* as in the packet: parse mirrored inner for the flow's sake */
	struct rewrite inside = {
		.source = to->destination,
		.destination = to->source,
	};
	struct address source = packet->outer.source.addr;
	__u64 inner_change, outer_change, addresses;
	struct icmp_header *icmp;

	mirror(&packet->inner);
	if (same_address(&source, &packet->inner.destination.addr))
		source = to->source.addr;
	if (!rewrite_addresses(ctx, &packet->inner, &inside.source.addr,
			       &inside.destination.addr, &addresses))
		return false;
	inner_change = rewrite_ports(ctx, &packet->inner, &inside, addresses);
	if (!rewrite_addresses(ctx, &packet->outer, &source,
			       &to->destination.addr, &outer_change))
		return false;
	/* In IPv4 the inner header's own checksum makes up for its addresses,
	 * and ICMP has no pseudo header. */
	if (packet->outer.family == FAMILY_IPV6)
		inner_change += addresses + outer_change;
	icmp = packet_at(begin_of(ctx), end_of(ctx), packet->outer.l4,
			 sizeof(*icmp));
	if (!icmp)
		return false;
	apply_change(&icmp->checksum, inner_change);
	return true;
}

/* Gives the packet the endpoints of arrival->to. */
static __always_inline bool rewrite_packet(struct xdp_md *ctx,
					   struct arrival *arrival)
{
	if (arrival->error)
		return rewrite_error(ctx, &arrival->packet, &arrival->to);
	return rewrite_transport(ctx, &arrival->packet.outer, &arrival->to);
}

/* What a router does to the packet. */
static __always_inline bool decrement_hops(struct xdp_md *ctx,
					   struct header *header)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__u16 before;

	if (header->family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, header->l3, sizeof(*ip4));
		if (!ip4)
			return false;
		before = *(__u16 *)&ip4->ttl;
		ip4->ttl--;
		apply_change(&ip4->check,
			     change16(0, before, *(__u16 *)&ip4->ttl));
		return true;
	}
	ip6 = packet_at(data, data_end, header->l3, sizeof(*ip6));
	if (!ip6)
		return false;
	ip6->hop_limit--;
	return true;
}

#endif

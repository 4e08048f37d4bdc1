/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_TUNNEL_ERROR_H
#define SKEP_TUNNEL_ERROR_H

/* ICMP errors about the tunnels that we make. A router between two nodes that
 * says what fits is believed for a while, as by the kernel: clients then get
 * errors for packets that do not fit. Anyone can send such a message; so it has to quote
 * a tunnel from this node to another of ours, and may not make the path narrower
 * than what IP demands of every link or all hosts can receive. All of them go on
 * to the stack.
 *
 * Includes before this: hop.h, encapsulate.h. */

enum {
	PATH_MTU_SECONDS = 600, /* as net.ipv4.route.mtu_expires */
	IPV4_MTU_MIN = 576,
	ICMP_FRAGMENTATION_NEEDED = 4,
	ICMPV6_PACKET_TOO_BIG = 2,
};

/* Whether the ICMP error quotes a packet that we encapsulated for a node. */
static __always_inline bool is_our_tunnel_error(const struct packet *packet)
{
	const struct header *quoted = &packet->inner;

	if (!quoted->family || quoted->fragment ||
	    (quoted->protocol != IPPROTO_NUMBER_IPV4 &&
	     quoted->protocol != IPPROTO_NUMBER_IPV6))
		return false;
	return address_flags(&quoted->source.addr) & ADDRESS_OWN &&
	       address_flags(&quoted->destination.addr) & ADDRESS_PEER;
}

/* The MTU that the error reports; 0: none, or none that a link can have. */
static __always_inline __u32 reported_mtu(struct xdp_md *ctx,
				      const struct header *header)
{
	struct icmp_header *icmp;
	__u32 mtu;

	icmp = packet_at(begin_of(ctx), end_of(ctx), header->l4, sizeof(*icmp));
	if (!icmp)
		return 0;
	mtu = bpf_ntohl(icmp->rest);
	if (header->family == FAMILY_IPV6)
		return icmp->type == ICMPV6_PACKET_TOO_BIG &&
				       mtu >= IPV6_MTU_MIN ?
			       mtu :
			       0;
	mtu &= 0xffff;
	return icmp->type == ICMP_UNREACHABLE &&
			       icmp->code == ICMP_FRAGMENTATION_NEEDED &&
			       mtu >= IPV4_MTU_MIN ?
		       mtu :
		       0;
}

/* Only an entry's end makes a path wider again (RFC 1191, 6.3). */
static __always_inline void note_path_mtu(const struct address *to, __u32 mtu,
					  __u64 now)
{
	struct address key = *to;
	struct path_mtu *known = bpf_map_lookup_elem(&skep_path_mtu, &key);
	struct path_mtu path = {
		.until = now + (__u64)PATH_MTU_SECONDS * NANOSECONDS,
		.mtu = mtu,
	};
	struct hop *hop = hop_place(to);

	if (known && known->until > now && known->mtu <= mtu)
		return;
	bpf_map_update_elem(&skep_path_mtu, &key, &path, BPF_ANY);
	if (hop)
		hop->expires = 0;
}

__noinline int take_tunnel_error(struct xdp_md *ctx, struct arrival *arrival)
{
	__u32 mtu;

	if (!arrival)
		return XDP_ABORTED;
	mtu = reported_mtu(ctx, &arrival->packet.outer);
	if (!mtu)
		return leave(UPLINK_TUNNEL_ERROR, XDP_PASS);
	note_path_mtu(&arrival->packet.inner.destination.addr, mtu,
		      arrival->now);
	return leave(UPLINK_TUNNEL_TOO_BIG, XDP_PASS);
}

#endif

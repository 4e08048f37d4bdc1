/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_ENCAPSULATE_H
#define SKEP_ENCAPSULATE_H

/* IP in IP to the node that has the backend, and what its receiver reads in the
 * outer header: the low 16 bits of the backend's address (IPv4: the
 * identification, which packets that may not be fragmented do not need; IPv6:
 * the flow label), and whether it was sent on before (a DSCP of local use). */

enum {
	TRAFFIC_CLASS_FORWARDED = 0x0c,
	TUNNEL_HOPS = 64,
	DONT_FRAGMENT = 0x4000,

};

static __always_inline __u16 hint_of(const struct address *backend)
{
	return bpf_ntohl(backend->word[3]);
}

static __always_inline bool is_zero_address(const struct address *addr)
{
	return !(addr->word[0] | addr->word[1] | addr->word[2] | addr->word[3]);
}

/* The node's address that an uplink here can send to; NULL: none. */
static __always_inline const struct address *address_of_node(__u32 id)
{
	struct node *node;

	if (!id)
		return NULL;
	node = bpf_map_lookup_elem(&skep_nodes, &id);
	if (!node)
		return NULL;
	if (!is_zero_address(&node->ip4))
		return &node->ip4;
	if (!is_zero_address(&node->ip6))
		return &node->ip6;
	return NULL;
}

static __always_inline bool is_tunnel_to_us(const struct header *header)
{
	return address_flags(&header->source.addr) & ADDRESS_PEER &&
	       address_flags(&header->destination.addr) & ADDRESS_OWN;
}

static __always_inline __u16 tunnel_hint(void *data, void *data_end,
					 const struct header *header)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (header->family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, header->l3, sizeof(*ip4));
		return ip4 ? bpf_ntohs(ip4->id) : 0;
	}
	ip6 = packet_at(data, data_end, header->l3, sizeof(*ip6));
	return ip6 ? ip6->flow_lbl[1] << 8 | ip6->flow_lbl[2] : 0;
}

struct tunnel {
	const struct address *from;
	const struct address *to;
	__u32 inner_length;
	__u16 hint;
	__u8 inner_family;
	__u8 traffic_class;
};

static __always_inline __u8 tunnel_protocol(const struct tunnel *tunnel)
{
	return tunnel->inner_family == FAMILY_IPV4 ? IPPROTO_NUMBER_IPV4 :
						     IPPROTO_NUMBER_IPV6;
}

static __always_inline bool push_ipv4(struct xdp_md *ctx,
				      const struct tunnel *tunnel)
{
	struct ethhdr *ethernet;
	struct iphdr *ip;
	__u64 sum = 0;
	__u16 *words;
	int i;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return false;
	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(*ip));
	if (!ethernet)
		return false;
	ethernet->h_proto = bpf_htons(ETH_P_IP);
	ip = (void *)(ethernet + 1);
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = tunnel->traffic_class;
	ip->tot_len = bpf_htons(tunnel->inner_length + sizeof(*ip));
	ip->id = bpf_htons(tunnel->hint);
	ip->frag_off = bpf_htons(DONT_FRAGMENT);
	ip->ttl = TUNNEL_HOPS;
	ip->protocol = tunnel_protocol(tunnel);
	ip->check = 0;
	ip->saddr = tunnel->from->word[3];
	ip->daddr = tunnel->to->word[3];
	words = (void *)ip;
	for (i = 0; i < (int)sizeof(*ip) / 2; i++)
		sum += words[i];
	ip->check = ~fold(sum);
	return true;
}

static __always_inline bool push_ipv6(struct xdp_md *ctx,
				      const struct tunnel *tunnel)
{
	struct ethhdr *ethernet;
	struct ipv6hdr *ip;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return false;
	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(*ip));
	if (!ethernet)
		return false;
	ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	ip = (void *)(ethernet + 1);
	ip->version = 6;
	ip->priority = tunnel->traffic_class >> 4;
	ip->flow_lbl[0] = tunnel->traffic_class << 4;
	ip->flow_lbl[1] = tunnel->hint >> 8;
	ip->flow_lbl[2] = tunnel->hint;
	ip->payload_len = bpf_htons(tunnel->inner_length);
	ip->nexthdr = tunnel_protocol(tunnel);
	ip->hop_limit = TUNNEL_HOPS;
	__builtin_memcpy(&ip->saddr, tunnel->from, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, tunnel->to, sizeof(ip->daddr));
	return true;
}

/* Wraps the packet as it is and sends it to the flow's node. */
__noinline int encapsulate(struct xdp_md *ctx, struct arrival *arrival,
			   const struct flow *flow)
{
	enum route route = ROUTE_NONE;
	__u32 size = sizeof(struct ipv6hdr);
	const struct address *to;
	struct tunnel tunnel;
	struct header *header;
	struct hop *hop;
	bool pushed;

	if (!arrival || !flow)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	to = address_of_node(flow->node);
	tunnel.to = to;
	tunnel.inner_length = header->end - header->l3;
	tunnel.hint = hint_of(&flow->peer.addr);
	tunnel.inner_family = header->family;
	tunnel.traffic_class = arrival->peeled ? TRAFFIC_CLASS_FORWARDED : 0;
	if (!to)
		return leave(UPLINK_NO_NODE, XDP_DROP);
	hop = find_hop(ctx, to, arrival->now, &route);
	if (!hop || is_zero_address(&hop->from))
		return leave(UPLINK_NO_NODE, XDP_DROP);
	tunnel.from = &hop->from;
	if (is_mapped(to))
		size = sizeof(struct iphdr);
	if (route == ROUTE_READY && tunnel.inner_length + size > hop->mtu) {
		arrival->mtu = hop->mtu - size;
		return STEP_TOO_BIG;
	}
	if (!decrement_hops(ctx, header))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	if (is_mapped(to))
		pushed = push_ipv4(ctx, &tunnel);
	else
		pushed = push_ipv6(ctx, &tunnel);
	if (!pushed)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return send_to(ctx, hop, route, UPLINK_ENCAPSULATED);
}

#endif

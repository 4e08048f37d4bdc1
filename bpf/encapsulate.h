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
static __always_inline const struct address *tunnel_end(const struct node *node)
{
	if (!is_zero_address(&node->ip4))
		return &node->ip4;
	if (!is_zero_address(&node->ip6))
		return &node->ip6;
	return NULL;
}

static __always_inline const struct address *address_of_node(__u32 id)
{
	struct node *node;

	if (!id)
		return NULL;
	node = bpf_map_lookup_elem(&skep_nodes, &id);
	return node ? tunnel_end(node) : NULL;
}

/* Whether packets of the flow would have to be wrapped for a node that takes no
 * tunnels any more. */
static __always_inline bool is_cut_off(const struct flow *flow)
{
	return !(flow->flags & (FLOW_LOCAL | FLOW_SNAT)) &&
	       !address_of_node(flow->node);
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

static __always_inline void describe_tunnel(struct tunnel *tunnel,
					    const struct header *inner,
					    const struct address *from,
					    const struct address *to,
					    const struct address *backend)
{
	tunnel->from = from;
	tunnel->to = to;
	tunnel->inner_length = inner->end - inner->l3;
	tunnel->hint = hint_of(backend);
	tunnel->inner_family = inner->family;
	tunnel->traffic_class = 0;
}

/* Bytes of the outer header. */
static __always_inline __u32 tunnel_size(const struct address *to)
{
	return is_mapped(to) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

static __always_inline __u8 tunnel_protocol(const struct tunnel *tunnel)
{
	return tunnel->inner_family == FAMILY_IPV4 ? IPPROTO_NUMBER_IPV4 :
						     IPPROTO_NUMBER_IPV6;
}

/* The header is summed in registers, as words in network order. */
static __always_inline bool push_ipv4(struct xdp_md *ctx,
				      const struct tunnel *tunnel)
{
	__u32 from = tunnel->from->word[3], to = tunnel->to->word[3];
	__u32 length = tunnel->inner_length + sizeof(struct iphdr);
	__u32 first, second, third, *words;
	struct ethhdr *ethernet;
	__u64 sum;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return false;
	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(struct iphdr));
	if (!ethernet)
		return false;
	first = bpf_htonl(0x45000000 | tunnel->traffic_class << 16 | length);
	second = bpf_htonl((__u32)tunnel->hint << 16 | DONT_FRAGMENT);
	third = bpf_htonl(TUNNEL_HOPS << 24 | tunnel_protocol(tunnel) << 16);
	sum = (__u64)first + second + third + from + to;
	ethernet->h_proto = bpf_htons(ETH_P_IP);
	words = (void *)(ethernet + 1);
	words[0] = first;
	words[1] = second;
	words[2] = third | bpf_htonl(bpf_ntohs((__u16)~fold(sum)));
	words[3] = from;
	words[4] = to;
	return true;
}

static __always_inline bool push_ipv6(struct xdp_md *ctx,
				      const struct tunnel *tunnel)
{
	struct ethhdr *ethernet;
	__u32 *words;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct ipv6hdr)))
		return false;
	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(struct ipv6hdr));
	if (!ethernet)
		return false;
	ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	words = (void *)(ethernet + 1);
	words[0] = bpf_htonl(0x60000000 | tunnel->traffic_class << 20 |
			     tunnel->hint);
	words[1] = bpf_htonl(tunnel->inner_length << 16 |
			     tunnel_protocol(tunnel) << 8 | TUNNEL_HOPS);
	__builtin_memcpy(words + 2, tunnel->from, sizeof(*tunnel->from));
	__builtin_memcpy(words + 6, tunnel->to, sizeof(*tunnel->to));
	return true;
}

static __always_inline bool put_on(struct xdp_md *ctx,
				   const struct tunnel *tunnel)
{
	if (is_mapped(tunnel->to))
		return push_ipv4(ctx, tunnel);
	return push_ipv6(ctx, tunnel);
}

/* Wraps the packet as it is and sends it to the flow's node. */
__noinline int encapsulate(struct xdp_md *ctx, struct arrival *arrival,
			   const struct flow *flow)
{
	enum route route = ROUTE_NONE;
	const struct address *to;
	struct tunnel tunnel;
	struct header *header;
	struct hop *hop;
	__u32 size;

	if (!arrival || !flow)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	to = address_of_node(flow->node);
	if (!to)
		return leave(UPLINK_NO_NODE, XDP_DROP);
	hop = find_hop(ctx, to, arrival->now, &route);
	if (!hop || is_zero_address(&hop->from))
		return leave(UPLINK_NO_NODE, XDP_DROP);
	describe_tunnel(&tunnel, header, &hop->from, to, &flow->peer.addr);
	if (arrival->peeled)
		tunnel.traffic_class = TRAFFIC_CLASS_FORWARDED;
	size = tunnel_size(to);
	if (route == ROUTE_READY && tunnel.inner_length + size > hop->mtu) {
		arrival->mtu = hop->mtu - size;
		return STEP_TOO_BIG;
	}
	if (!decrement_hops(ctx, header) || !put_on(ctx, &tunnel))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return send_to(ctx, hop, route, UPLINK_ENCAPSULATED);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_SHORTCUT_H
#define SKEP_SHORTCUT_H

/* The way of almost every packet: a plain one of a flow that this CPU saw a
 * moment ago. All of it is one function, since with a kernel's guarded returns
 * each call costs as much as a lookup. What it finds odd it leaves, untouched,
 * to the general way, which knows every case; both count the same reasons.
 *
 * Includes before this: all that uplink.c includes but uplink_flow.h. */

enum {
	NO_SHORTCUT = -1, /* beside the verdicts of XDP */
	PLAIN_IPV4 = 0x45, /* no options */
	TUNNEL_PAIRS_SHIFT = 8,
	TUNNEL_PAIRS = 1 << TUNNEL_PAIRS_SHIFT,
};

/* Ends of tunnels that were found to be a node's of ours and this one. */
struct tunnel_pair {
	struct address source;
	struct address destination;
	__u64 until; /* jiffies */
};

SKEP_MAP(skep_tunnel_pairs, BPF_MAP_TYPE_PERCPU_ARRAY, __u32,
	 struct tunnel_pair, TUNNEL_PAIRS, 0);

static __always_inline bool plain_ipv4(void *data, void *data_end, __u32 l3,
				       struct header *header)
{
	struct iphdr *ip = data + l3;

	if ((void *)(ip + 1) > data_end || *(__u8 *)ip != PLAIN_IPV4 ||
	    ip->frag_off & bpf_htons(0x3fff) || ip->ttl <= 1)
		return false;
	header->end = l3 + bpf_ntohs(ip->tot_len);
	header->l4 = l3 + sizeof(*ip);
	header->protocol = ip->protocol;
	set_mapped(&header->source.addr, ip->saddr);
	set_mapped(&header->destination.addr, ip->daddr);
	return header->end <= data_end - data;
}

static __always_inline bool plain_ipv6(void *data, void *data_end, __u32 l3,
				       struct header *header)
{
	struct ipv6hdr *ip = data + l3;

	if ((void *)(ip + 1) > data_end || ip->version != 6 ||
	    ip->hop_limit <= 1)
		return false;
	header->l4 = l3 + sizeof(*ip);
	header->end = header->l4 + bpf_ntohs(ip->payload_len);
	header->protocol = ip->nexthdr;
	set_address6(&header->source.addr, &ip->saddr);
	set_address6(&header->destination.addr, &ip->daddr);
	return header->end <= data_end - data;
}

static __always_inline bool plain_ip(void *data, void *data_end, __u32 l3,
				     enum family family, struct header *header)
{
	header->l3 = l3;
	header->family = family;
	header->fragment = FRAGMENT_NONE;
	if (family == FAMILY_IPV4)
		return plain_ipv4(data, data_end, l3, header);
	return plain_ipv6(data, data_end, l3, header);
}

/* TCP that changes no flow, or UDP. */
static __always_inline bool plain_ports(void *data, void *data_end, __u32 l4,
					struct header *header)
{
	struct tcphdr *tcp = data + l4;
	struct udphdr *udp = data + l4;
	__u32 size = sizeof(*udp);

	if ((void *)(udp + 1) > data_end)
		return false;
	if (header->protocol == PROTOCOL_TCP) {
		if ((void *)(tcp + 1) > data_end || tcp->doff < TCP_HEADER_WORDS)
			return false;
		header->tcp_flags = ((__u8 *)tcp)[13];
		if (changes_flow(header))
			return false;
		size = tcp->doff * 4;
	} else if (header->protocol != PROTOCOL_UDP ||
		   bpf_ntohs(udp->len) < sizeof(*udp)) {
		return false;
	}
	header->source.port = udp->source;
	header->destination.port = udp->dest;
	header->source.protocol = header->protocol;
	header->source.scope = 0;
	header->destination.protocol = header->protocol;
	header->destination.scope = SCOPE_EXTERNAL;
	return l4 + size <= header->end;
}

static __always_inline bool plain(void *data, void *data_end, __u32 l3,
				  enum family family, struct header *header)
{
	__u32 size = family == FAMILY_IPV4 ? sizeof(struct iphdr) :
					     sizeof(struct ipv6hdr);

	return plain_ip(data, data_end, l3, family, header) &&
	       plain_ports(data, data_end, l3 + size, header);
}

static __always_inline struct tunnel_pair *
tunnel_pair(const struct header *header)
{
	__u32 index = header->source.addr.word[3] * 0x85ebca6bu ^
		      header->destination.addr.word[3];

	index = index * 0x9e3779b1u >> (32 - TUNNEL_PAIRS_SHIFT);
	return bpf_map_lookup_elem(&skep_tunnel_pairs, &index);
}

/* Whether the tunnel of this outer header leads from a node of ours to us. */
static __always_inline bool is_known_tunnel(const struct header *header)
{
	struct tunnel_pair *pair = tunnel_pair(header);

	if (!pair)
		return false;
	if (pair->until > bpf_jiffies64() &&
	    same_address(&pair->source, &header->source.addr) &&
	    same_address(&pair->destination, &header->destination.addr))
		return true;
	if (!is_tunnel_to_us(header))
		return false;
	pair->source = header->source.addr;
	pair->destination = header->destination.addr;
	pair->until = bpf_jiffies64() + RECENT_JIFFIES;
	return true;
}

/* The record of the flow's backend as backend_of gives it; its endpoint is
 * copied before its serial is read, which a new owner of the record is given
 * first. */
static __always_inline struct backend *recent_backend(const struct recent *recent,
						      struct endpoint *peer)
{
	__u32 id = recent->backend;
	struct backend *backend = bpf_map_lookup_elem(&skep_backends, &id);

	if (!backend || !(*(volatile __u32 *)&backend->flags & BACKEND_SERVING))
		return NULL;
	*peer = backend->key;
	asm volatile("" ::: "memory");
	if (*(volatile __u32 *)&backend->serial != recent->serial)
		return NULL;
	return backend;
}

static __always_inline int shortcut_here(struct xdp_md *ctx,
					 struct header *header, __u32 tunnel,
					 const struct recent *recent,
					 struct rewrite *to)
{
	struct backend *backend = recent_backend(recent, &to->destination);

	if (!backend || node_down(backend->node))
		return NO_SHORTCUT;
	if (tunnel) {
		if (!remove_header(ctx, tunnel, header->family))
			return leave(UPLINK_NO_ROOM, XDP_DROP);
		shift_header(header, tunnel);
	}
	to->source = header->source;
	if (!rewrite_transport(ctx, header, to))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return leave(UPLINK_DELIVERED, XDP_PASS);
}

static __always_inline int shortcut_elsewhere(struct xdp_md *ctx,
					      struct header *header,
					      const struct recent *recent,
					      struct endpoint *peer)
{
	const struct address *to;
	struct backend *backend;
	struct tunnel tunnel;
	struct node *node;
	struct hop *hop;
	__u32 id;

	backend = recent_backend(recent, peer);
	if (!backend)
		return NO_SHORTCUT;
	id = backend->node;
	node = bpf_map_lookup_elem(&skep_nodes, &id);
	if (!node || *(volatile __u32 *)&node->down)
		return NO_SHORTCUT;
	to = tunnel_end(node);
	if (!to)
		return NO_SHORTCUT;
	hop = ready_hop(to);
	if (!hop)
		return NO_SHORTCUT;
	describe_tunnel(&tunnel, header, &hop->from, to, &peer->addr);
	if (tunnel.inner_length + tunnel_size(to) > hop->mtu)
		return NO_SHORTCUT;
	if (!decrement_hops(ctx, header) || !put_on(ctx, &tunnel))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return send_to(ctx, hop, ROUTE_READY, UPLINK_ENCAPSULATED);
}

/* Whether there still is no frontend for the packet: then no flow can have
 * begun since the entry was made. */
static __always_inline bool still_no_frontend(const struct header *header)
{
	const struct endpoint *asked = &header->destination;
	const struct frontend_hash *with = frontend_hash();

	return with &&
	       !find_entry(asked, endpoint_hash(with, asked), with->line_mask) &&
	       !entry_at_any_address(with, asked);
}

static __always_inline int follow_recent(struct xdp_md *ctx,
					 struct arrival *arrival,
					 struct header *header, __u32 tunnel)
{
	struct rewrite *to = &arrival->to;
	struct recent *recent = find_recent(header);

	if (!recent)
		return NO_SHORTCUT;
	if (recent->kind == RECENT_HERE)
		return shortcut_here(ctx, header, tunnel, recent, to);
	if (tunnel)
		return NO_SHORTCUT;
	if (recent->kind == RECENT_ELSEWHERE)
		return shortcut_elsewhere(ctx, header, recent,
					  &to->destination);
	if (!still_no_frontend(header))
		return NO_SHORTCUT;
	return leave(UPLINK_NO_SERVICE, XDP_PASS);
}

static __always_inline int shortcut(struct xdp_md *ctx, struct arrival *arrival,
				    enum family family)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	__u32 l4 = ETH_HLEN + sizeof(struct ipv6hdr);
	struct header *header = &arrival->packet.outer;
	bool ok;

	if (!plain_ip(data, data_end, ETH_HLEN, family, header))
		return NO_SHORTCUT;
	if (family == FAMILY_IPV4)
		l4 = ETH_HLEN + sizeof(struct iphdr);
	if (header->protocol != IPPROTO_NUMBER_IPV4 &&
	    header->protocol != IPPROTO_NUMBER_IPV6) {
		if (!plain_ports(data, data_end, l4, header))
			return NO_SHORTCUT;
		return follow_recent(ctx, arrival, header, 0);
	}
	if (!is_known_tunnel(header))
		return NO_SHORTCUT;
	if (header->protocol == IPPROTO_NUMBER_IPV4)
		ok = plain(data, data_end, l4, FAMILY_IPV4, header);
	else
		ok = plain(data, data_end, l4, FAMILY_IPV6, header);
	if (!ok)
		return NO_SHORTCUT;
	return follow_recent(ctx, arrival, header, l4 - ETH_HLEN);
}

#endif

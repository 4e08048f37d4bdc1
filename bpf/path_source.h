/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_SOURCE_H
#define SKEP_PATH_SOURCE_H

/* Who may have sent a packet: what pods may send beside IP packets of their own,
 * and which pods' addresses may come in at an uplink, wrapped or not.
 *
 * A node is believed about its own pods and itself, by the source address of what
 * it sends, which no pod can forge: from_pod drops what would pass for a node's.
 *
 * Includes before this: link.h, path.h, flow.h. */

enum {
	VXLAN_VNI_VALID = 0x08,
	VXLAN_PART = 16, /* UDP's and VXLAN's headers */
	VLAN_ID_MASK = 0x0fff,
	IPV4_SOURCE_AT = 12,
	IPV6_SOURCE_AT = 8,
	SOURCES_SHIFT = 8,
	SOURCES = 1 << SOURCES_SHIFT,
	SOURCE_JIFFIES = 100,
};

struct range_key {
	__u32 prefix; /* bits of addr that count */
	struct address addr;
};

enum range_flags {
	RANGE_OWN = 1, /* of this node */
};

/* Whose pods have the addresses of a range, or whose own address it is. */
struct range_owner {
	struct address ip4; /* of the node, all zero: none */
	struct address ip6;
	enum range_flags flags;
};

/* pods' ranges and addresses of all nodes of the cluster. Written by Go. */
SKEP_MAP(skep_node_ranges, BPF_MAP_TYPE_LPM_TRIE, struct range_key,
	 struct range_owner, CAPACITY_RANGES, BPF_F_NO_PREALLOC);
/* indexes of the interfaces that are overlays; the values mean nothing */
SKEP_MAP(skep_path_overlays, BPF_MAP_TYPE_HASH, __u32, __u32, CAPACITY_OVERLAYS,
	 0);

/* A source that was found to be right a moment ago, so that packets between
 * nodes take no walk through the ranges each. */
struct known_source {
	struct address source;
	__u64 until; /* jiffies */
	__u32 ifindex;
	__u32 pad;
};

SKEP_MAP(skep_path_sources, BPF_MAP_TYPE_PERCPU_ARRAY, __u32,
	 struct known_source, SOURCES, 0);

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	int i, differ = 0;

	for (i = 0; i < ETH_ALEN; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

/* Whether the frame is ARP in the pod's own name. Any other would fill the host's
 * neighbour table, which all its interfaces share, or lie to it. */
static __always_inline bool is_own_arp(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = packet_at(data, data_end, 0,
					    sizeof(*ethernet) +
						    sizeof(struct arp));
	struct address sender;
	struct arp *arp;
	struct pod *pod;
	__be32 address;

	if (!ethernet || ethernet->h_proto != bpf_htons(ETH_P_ARP))
		return false;
	arp = (void *)(ethernet + 1);
	if (!is_arp_of_ipv4(arp))
		return false;
	__builtin_memcpy(&address, arp->sender, sizeof(address));
	set_mapped(&sender, address);
	pod = bpf_map_lookup_elem(&skep_pods, &sender);
	return pod && pod->ifindex == skb->ifindex &&
	       same_mac(arp->sender_mac, pod->mac);
}

/* Of IPv6's talk between neighbours, what a host says: no router's
 * advertisements or redirects, and no solicitations of routers, which make the
 * kernel remember each sender. */
static __always_inline bool is_host_talk(const struct passage *passage)
{
	const struct header *header = &passage->packet.outer;
	__u8 type;

	if (header->fragment || /* RFC 6980 */
	    bpf_skb_load_bytes(passage->skb, header->l4, &type, sizeof(type)))
		return false;
	return (type >= MLD_QUERY && type <= MLD_DONE) ||
	       type == NDP_SOLICITATION || type == NDP_ADVERTISEMENT ||
	       type == MLD2_REPORT;
}

static __always_inline bool is_overlay_port(const struct header *header)
{
	return header->protocol == PROTOCOL_UDP &&
	       header->destination.port == bpf_htons(OVERLAY_PORT);
}

/* Whether the packet is of a kind that nodes unwrap. */
static __always_inline bool is_wrapped(const struct header *header)
{
	return header->protocol == IPPROTO_NUMBER_IPV4 ||
	       header->protocol == IPPROTO_NUMBER_IPV6 ||
	       is_overlay_port(header);
}

/* Two VLAN tags of which the outer one is 0: the kernel removes both without
 * showing programs what is inside. */
static __always_inline bool is_hidden_by_tags(const struct __sk_buff *skb)
{
	return skb->vlan_present && !(skb->vlan_tci & VLAN_ID_MASK);
}

static __always_inline struct range_owner *owner_of(const struct address *addr)
{
	struct range_key key = { .prefix = 128, .addr = *addr };

	return bpf_map_lookup_elem(&skep_node_ranges, &key);
}

/* Whether an address that is no pod's here may be one's elsewhere. */
static __always_inline bool is_for_pod(const struct path_config *config,
				       const struct address *addr)
{
	struct range_owner *owner = owner_of(addr);

	return config && in_cluster(config, addr) &&
	       !(owner && owner->flags & RANGE_OWN);
}

static __always_inline bool owns(const struct range_owner *owner,
				 const struct address *node)
{
	return same_address(&owner->ip4, node) || same_address(&owner->ip6, node);
}

/* The source of the packet inside VXLAN; false: there is none to be read. */
static __noinline bool wrapped_source(struct __sk_buff *skb, __u32 at,
				      struct address *source)
{
	struct in6_addr ip6;
	__be16 type;
	__be32 ip4;

	if (bpf_skb_load_bytes(skb, at + offsetof(struct ethhdr, h_proto), &type,
			       sizeof(type)))
		return false;
	at += ETH_HLEN;
	if (type == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, at + IPV4_SOURCE_AT, &ip4,
				       sizeof(ip4)))
			return false;
		set_mapped(source, ip4);
		return true;
	}
	if (type != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, at + IPV6_SOURCE_AT, &ip6, sizeof(ip6)))
		return false;
	set_address6(source, &ip6);
	return !is_mapped(source);
}

/* Whether a packet to the overlay's port is one that a node of this cluster
 * wrapped for a pod of its own or for itself; or another's VXLAN, by its number. */
static __always_inline bool is_overlay_right(const struct passage *passage)
{
	const struct header *header = &passage->packet.outer;
	struct path_config *config = path_config();
	struct address source = {};
	struct range_owner *owner;
	__be32 vxlan[2];

	if (!config || !config->nodes_known ||
	    header->fragment == FRAGMENT_LATER)
		return true; /* of no use without its first, which is looked at */
	if (bpf_skb_load_bytes(passage->skb, header->l4 + sizeof(struct udphdr),
			       vxlan, sizeof(vxlan)))
		return false;
	if (!(vxlan[0] & bpf_htonl((__u32)VXLAN_VNI_VALID << 24)) ||
	    vxlan[1] >> 8 != bpf_htonl((__u32)OVERLAY_ID << 8) >> 8)
		return true;
	if (!wrapped_source(passage->skb, header->l4 + VXLAN_PART, &source))
		return false;
	owner = owner_of(&source);
	return owner && owns(owner, &header->source.addr);
}

/* Whether XDP knows the flow: it may have brought a packet of a pod here back
 * from another node. */
static __always_inline bool is_flow_known(struct passage *passage)
{
	const struct endpoint *backend = &passage->packet.outer.destination;
	const struct endpoint *client = &passage->packet.outer.source;

	if (passage->parsed == PARSED_ERROR) {
		backend = &passage->packet.inner.source;
		client = &passage->packet.inner.destination;
	} else if (passage->parsed != PARSED_PORTS) {
		return false;
	}
	return may_answer_flow(backend) &&
	       lookup_reverse(backend, client, now(passage));
}

/* Whether packets from that address come by an overlay, if they come right. */
static __noinline bool comes_by_overlay(struct __sk_buff *skb,
					const struct address *source)
{
	struct bpf_fib_lookup query = {};
	__u32 ifindex = skb->ifindex;
	long found;

	if (bpf_map_lookup_elem(&skep_path_overlays, &ifindex))
		return false;
	query.ifindex = ifindex;
	if (is_mapped(source)) {
		query.family = FIB_IPV4;
		query.ipv4_dst = source->word[3];
	} else {
		query.family = FIB_IPV6;
		__builtin_memcpy(query.ipv6_dst, source, sizeof(*source));
	}
	found = bpf_fib_lookup(skb, &query, sizeof(query), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS &&
	    found != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    found != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return false;
	ifindex = query.ifindex;
	return bpf_map_lookup_elem(&skep_path_overlays, &ifindex);
}

/* Whether the packet, which comes in unwrapped or out of an overlay, may have
 * the source that it bears: a pod's address is that of a pod elsewhere, whose
 * packets come this way. */
static __always_inline bool is_source_right(struct passage *passage)
{
	const struct address *source = &passage->packet.outer.source.addr;
	struct path_config *config = path_config();
	struct known_source *known;
	struct range_owner *owner;
	__u32 index;

	if (!config || !config->nodes_known || !in_cluster(config, source))
		return true;
	index = (source->word[3] ^ source->word[2]) * 0x9e3779b1u >>
		(32 - SOURCES_SHIFT);
	known = bpf_map_lookup_elem(&skep_path_sources, &index);
	if (!known)
		return false;
	if (known->until > bpf_jiffies64() &&
	    known->ifindex == passage->skb->ifindex &&
	    same_address(&known->source, source))
		return true;
	owner = owner_of(source);
	if (!owner)
		return false;
	if (owner->flags & RANGE_OWN)
		return is_flow_known(passage);
	if (comes_by_overlay(passage->skb, source))
		return false;
	known->source = *source;
	known->ifindex = passage->skb->ifindex;
	known->until = bpf_jiffies64() + SOURCE_JIFFIES;
	return true;
}

#endif

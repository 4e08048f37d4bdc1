/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_NEIGHBOUR_H
#define SKEP_NEIGHBOUR_H

/* Answers to ARP and NDP for the addresses that this node announces: no
 * interface has them, so the kernel would not answer. Each has a deadline, past
 * which a node that lost its agent falls silent by itself.
 *
 * Includes before this: link.h, arrival.h. */

enum {
	CAPACITY_ANNOUNCED = 16384,
	NDP_HOPS = 255,
	NDP_OPTION_TARGET = 2,
	NDP_SOLICITED = 0x40000000,
	NDP_OVERRIDE = 0x20000000,
};

/* address -> bpf_ktime_get_boot_ns until which we answer. Time that the host is
 * suspended counts: another node may own the address by then. */
SKEP_MAP(skep_announced, BPF_MAP_TYPE_HASH, struct address, __u64,
	 CAPACITY_ANNOUNCED, BPF_F_NO_PREALLOC);

struct ndp {
	struct icmp_header icmp;
	struct address target;
};

struct ndp_answer {
	struct ndp ndp;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
};

static __always_inline bool is_announced(const struct address *addr)
{
	struct address key = *addr;
	__u64 *until = bpf_map_lookup_elem(&skep_announced, &key);

	return until && bpf_ktime_get_boot_ns() < *until;
}

__noinline int answer_arp(struct xdp_md *ctx)
{
	struct ethhdr *ethernet;
	struct address target;
	struct uplink *uplink;
	struct arp *arp;
	__be32 asked;

	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(*arp));
	if (!ethernet)
		return leave(UPLINK_NOT_IP, XDP_PASS);
	arp = (void *)(ethernet + 1);
	__builtin_memcpy(&asked, arp->target, sizeof(asked));
	set_mapped(&target, asked);
	if (!is_arp_of_ipv4(arp) || arp->operation != bpf_htons(ARP_REQUEST) ||
	    !__builtin_memcmp(arp->sender, arp->target, 4) ||
	    !is_announced(&target))
		return leave(UPLINK_NOT_IP, XDP_PASS);
	uplink = uplink_of(ctx);
	if (!uplink)
		return leave(UPLINK_NOT_IP, XDP_PASS);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, uplink->mac, ETH_ALEN);
	arp->operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->target, arp->sender, 4);
	__builtin_memcpy(arp->sender_mac, uplink->mac, ETH_ALEN);
	__builtin_memcpy(arp->sender, &asked, 4);
	return leave(UPLINK_ARP_ANSWERED, XDP_TX);
}

/* Whether the packet asks for the link address of one that we announce. */
static __always_inline bool is_our_solicitation(struct xdp_md *ctx,
						const struct header *header)
{
	struct address target;
	struct ndp *ndp;

	if (header->family != FAMILY_IPV6 || header->hops != NDP_HOPS ||
	    header->l4 != ETH_HLEN + sizeof(struct ipv6hdr) ||
	    header->l4 + sizeof(*ndp) > header->end)
		return false;
	ndp = packet_at(begin_of(ctx), end_of(ctx), header->l4, sizeof(*ndp));
	if (!ndp || ndp->icmp.type != NDP_SOLICITATION || ndp->icmp.code)
		return false;
	target = ndp->target;
	return is_announced(&target);
}

static __always_inline void write_advertisement(struct ndp_answer *answer,
						bool probe,
						const struct uplink *uplink)
{
	__u32 flags = NDP_OVERRIDE;

	if (!probe)
		flags |= NDP_SOLICITED;
	answer->ndp.icmp.type = NDP_ADVERTISEMENT;
	answer->ndp.icmp.code = 0;
	answer->ndp.icmp.checksum = 0;
	answer->ndp.icmp.rest = bpf_htonl(flags);
	answer->option = NDP_OPTION_TARGET;
	answer->option_length = 1;
	__builtin_memcpy(answer->mac, uplink->mac, ETH_ALEN);
}

/* A probe (duplicate address detection) has no source: all nodes are answered. */
static __always_inline void all_nodes(struct ethhdr *ethernet,
				      struct address *destination)
{
	*(__be16 *)ethernet->h_dest = bpf_htons(0x3333);
	*(__be32 *)(ethernet->h_dest + 2) = bpf_htonl(1);
	destination->word[0] = bpf_htonl(0xff020000);
	destination->word[3] = bpf_htonl(1);
}

__noinline int answer_solicitation(struct xdp_md *ctx, struct arrival *arrival)
{
	struct uplink *uplink = uplink_of(ctx);
	struct ndp_answer *answer;
	struct address destination;
	struct ethhdr *ethernet;
	struct ipv6hdr *ip;
	bool probe;
	__u64 sum;

	if (!uplink || !arrival)
		return leave(UPLINK_OTHER_PROTOCOL, XDP_PASS);
	destination = arrival->packet.outer.source.addr;
	probe = is_unspecified(&destination);
	if (!set_frame_length(ctx, ETH_HLEN + sizeof(*ip) + sizeof(*answer)))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
			     sizeof(*ethernet) + sizeof(*ip) + sizeof(*answer));
	if (!ethernet)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	ip = (void *)(ethernet + 1);
	answer = (void *)(ip + 1);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, uplink->mac, ETH_ALEN);
	if (probe)
		all_nodes(ethernet, &destination);
	write_advertisement(answer, probe, uplink);
	ip->payload_len = bpf_htons(sizeof(*answer));
	__builtin_memcpy(&ip->saddr, &answer->ndp.target, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &destination, sizeof(ip->daddr));
	sum = bpf_htons(sizeof(*answer)) + bpf_htons(IPPROTO_NUMBER_ICMPV6);
	sum = sum_words(begin_of(ctx), end_of(ctx),
			ETH_HLEN + offsetof(struct ipv6hdr, saddr),
			(2 * sizeof(struct address) + sizeof(*answer)) / 4, sum);
	answer = packet_at(begin_of(ctx), end_of(ctx), ETH_HLEN + sizeof(*ip),
			   sizeof(*answer));
	if (!answer)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	answer->ndp.icmp.checksum = ~fold(sum);
	return leave(UPLINK_NEIGHBOUR_ANSWERED, XDP_TX);
}

#endif

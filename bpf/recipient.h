/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_RECIPIENT_H
#define SKEP_RECIPIENT_H

/* Whom a frame is for, by its destination's link address. An interface sees
 * frames for other hosts while it is promiscuous, and while a switch floods what
 * it has not learnt: if this host served those too, several would answer one
 * client. They are the stack's, which drops them (PACKET_OTHERHOST).
 *
 * Includes before this: packet.h, arrival.h. */

enum recipient {
	RECIPIENT_US,
	RECIPIENT_GROUP, /* broadcast and multicast */
	RECIPIENT_OTHER,
};

enum {
	CAPACITY_MACS = 1024,
	FIRST_MACS = 64, /* one of an uplink: index modulo this */
};

/* A link address at which an interface is sent frames. */
struct mac {
	__u32 ifindex; /* 0: none */
	__u8 octets[ETH_ALEN];
	__u16 pad;
};

/* All of them, of uplinks and of a bond's members, from which its frames come.
 * Written by Go; the values mean nothing. */
SKEP_MAP(skep_macs, BPF_MAP_TYPE_HASH, struct mac, __u32, CAPACITY_MACS,
	 BPF_F_NO_PREALLOC);
/* For each index one of them, which nearly every frame has, so that it is found
 * without a call. */
SKEP_MAP(skep_first_macs, BPF_MAP_TYPE_ARRAY, __u32, struct mac, FIRST_MACS, 0);

static __always_inline bool is_for(const struct ethhdr *ethernet,
				   const struct mac *mac)
{
	return *(__be32 *)ethernet->h_dest == *(__be32 *)mac->octets &&
	       *(__be16 *)(ethernet->h_dest + 4) == *(__be16 *)(mac->octets + 4);
}

static __always_inline enum recipient recipient_of(struct xdp_md *ctx)
{
	struct ethhdr *ethernet;
	struct mac key = {}, *first;
	__u32 slot;

	ethernet = packet_at(begin_of(ctx), end_of(ctx), 0, sizeof(*ethernet));
	if (!ethernet)
		return RECIPIENT_OTHER;
	key.ifindex = ctx->ingress_ifindex;
	slot = key.ifindex % FIRST_MACS;
	first = bpf_map_lookup_elem(&skep_first_macs, &slot);
	if (first && first->ifindex == key.ifindex && is_for(ethernet, first))
		return RECIPIENT_US;
	if (ethernet->h_dest[0] & 1)
		return RECIPIENT_GROUP;
	__builtin_memcpy(key.octets, ethernet->h_dest, ETH_ALEN);
	return bpf_map_lookup_elem(&skep_macs, &key) ? RECIPIENT_US :
						       RECIPIENT_OTHER;
}

#endif

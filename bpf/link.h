/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_LINK_H
#define SKEP_LINK_H

/* How hosts on a link ask for each other's link addresses: ARP, and the neighbour
 * discovery of IPv6.
 *
 * Includes before this: packet.h. */

enum {
	ARP_HARDWARE_ETHERNET = 1,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

/* Types of ICMPv6: of the listeners of groups, and of neighbours. */
enum {
	MLD_QUERY = 130, /* to MLD_DONE */
	MLD_DONE = 132,
	NDP_SOLICITATION = 135,
	NDP_ADVERTISEMENT = 136,
	MLD2_REPORT = 143,
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
};

/* Whether it is about IPv4 addresses on Ethernet. */
static __always_inline bool is_arp_of_ipv4(const struct arp *arp)
{
	return arp->hardware == bpf_htons(ARP_HARDWARE_ETHERNET) &&
	       arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_length == ETH_ALEN && arp->protocol_length == 4;
}

#endif

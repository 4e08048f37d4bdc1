// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* Entry point 3: XDP at the uplink. A packet from outside to a frontend goes to a
 * backend of it: translated and delivered if that lives here, encapsulated and
 * sent to its node if not, which answers the client directly. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "constants.h"
#include "structs.h"
#include "maps.h"
#include "selection.h"
#include "packet.h"
#include "checksum.h"
#include "flow.h"
#include "events.h"
#include "weigh.h"
#include "reasons.h"
#include "arrival.h"
#include "recipient.h"
#include "recent.h"
#include "rewrite.h"
#include "handover.h"
#include "hop.h"
#include "answer.h"
#include "encapsulate.h"
#include "tunnel_error.h"
#include "snat.h"
#include "fragment.h"
#include "link.h"
#include "neighbour.h"
#include "shortcut.h"
#include "uplink_flow.h"
#include "reflect.h"

/* Takes the steps that the others leave. */
static __always_inline int finish(struct xdp_md *ctx, struct arrival *arrival,
				  int step)
{
	if (step == STEP_SELECT)
		step = new_flow(ctx, arrival);
	if (step == STEP_FOLLOW)
		step = follow(ctx, arrival, &arrival->flow);
	if (step == STEP_TRANSLATE_OUT)
		step = translate(ctx, arrival, UPLINK_TRANSLATED_OUT);
	else if (step == STEP_TRANSLATE_BACK)
		step = translate(ctx, arrival, UPLINK_TRANSLATED_BACK);
	if (step >= 0)
		return step;
	if (!decapsulate(ctx, arrival))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	switch (step) {
	case STEP_RESET:
		return answer_reset(ctx, arrival);
	case STEP_REFUSE:
		return refuse_packet(ctx, arrival);
	case STEP_TOO_BIG:
		return answer_too_big(ctx, arrival);
	default:
		return answer_icmp(ctx, arrival, ANSWER_TIME_EXCEEDED, 0);
	}
}

__noinline int parse(struct xdp_md *ctx, struct arrival *arrival, __u32 l3,
		     enum family family)
{
	if (!arrival)
		return PARSED_MALFORMED;
	__builtin_memset(&arrival->packet, 0, sizeof(arrival->packet));
	return parse_packet(begin_of(ctx), end_of(ctx), bpf_xdp_get_buff_len(ctx),
			    l3, family, &arrival->packet);
}

/* Looks into a tunnel that another node of ours may have made. It is removed
 * only once the packet inside proves to be for a frontend. */
static __always_inline int parse_tunnel(struct xdp_md *ctx,
					struct arrival *arrival)
{
	struct header *header = &arrival->packet.outer;
	__u32 l3 = header->l3, l4 = header->l4;
	enum family family = header->protocol == IPPROTO_NUMBER_IPV4 ?
				     FAMILY_IPV4 :
				     FAMILY_IPV6;

	if (!is_tunnel_to_us(header))
		return PARSED_OTHER;
	arrival->hint = tunnel_hint(begin_of(ctx), end_of(ctx), header);
	arrival->forwarded = header->traffic_class == TRAFFIC_CLASS_FORWARDED;
	arrival->tunnel = l4 - l3;
	return parse(ctx, arrival, l4, family);
}

static __always_inline int arrive(struct xdp_md *ctx, struct arrival *arrival,
				  enum family family)
{
	int parsed = parse(ctx, arrival, ETH_HLEN, family);

	arrival->tunnel = 0;
	arrival->peeled = 0;
	arrival->hint = 0;
	arrival->forwarded = 0;
	arrival->error = 0;
	arrival->now = bpf_ktime_get_coarse_ns();
	if (parsed == PARSED_TUNNEL) {
		parsed = parse_tunnel(ctx, arrival);
		if (parsed != PARSED_PORTS && parsed != PARSED_ERROR)
			return leave(UPLINK_FOREIGN_TUNNEL, XDP_PASS);
	}
	switch (parsed) {
	case PARSED_ERROR:
		arrival->error = 1;
		mirror(&arrival->packet.inner);
		__attribute__((fallthrough));
	case PARSED_PORTS:
		if (is_probe(ctx, arrival))
			return reflect_probe(ctx, arrival);
		return finish(ctx, arrival, serve(ctx, arrival));
	case PARSED_ICMP:
		if (is_our_solicitation(ctx, &arrival->packet.outer))
			return answer_solicitation(ctx, arrival);
		if (is_our_tunnel_error(&arrival->packet))
			return take_tunnel_error(ctx, arrival);
		return leave(UPLINK_OTHER_PROTOCOL, XDP_PASS);
	case PARSED_MALFORMED:
		return leave(UPLINK_MALFORMED, XDP_PASS);
	default:
		return leave(UPLINK_OTHER_PROTOCOL, XDP_PASS);
	}
}

/* A packet for several hosts: only questions of neighbours about addresses that
 * we announce are ours. */
static __always_inline int arrive_for_group(struct xdp_md *ctx,
					    struct arrival *arrival,
					    enum family family)
{
	if (family == FAMILY_IPV6 &&
	    parse(ctx, arrival, ETH_HLEN, family) == PARSED_ICMP &&
	    is_our_solicitation(ctx, &arrival->packet.outer))
		return answer_solicitation(ctx, arrival);
	return leave(UPLINK_GROUP, XDP_PASS);
}

SEC("xdp.frags")
int skep_uplink(struct xdp_md *ctx)
{
	enum recipient recipient;
	struct arrival *arrival;
	enum family family;
	__u32 zero = 0;
	__be16 type = 0;
	int verdict;

	family = ethernet_family(begin_of(ctx), end_of(ctx), &type);
	if (has_handover_mac(begin_of(ctx), end_of(ctx)))
		return leave(UPLINK_FORGED, XDP_DROP);
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD))
		return leave(UPLINK_VLAN_TAGGED, XDP_PASS);
	if (!family && type != bpf_htons(ETH_P_ARP))
		return leave(UPLINK_NOT_IP, XDP_PASS);
	recipient = recipient_of(ctx);
	if (recipient == RECIPIENT_OTHER)
		return leave(UPLINK_OTHER_HOST, XDP_PASS);
	if (!family)
		return answer_arp(ctx);
	arrival = bpf_map_lookup_elem(&skep_arrival, &zero);
	if (!arrival)
		return leave(UPLINK_NOT_SELECTED, XDP_DROP);
	if (recipient == RECIPIENT_GROUP)
		return arrive_for_group(ctx, arrival, family);
	verdict = shortcut(ctx, arrival, family);
	if (verdict != NO_SHORTCUT)
		return verdict;
	return arrive(ctx, arrival, family);
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

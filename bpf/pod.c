// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* Entry point 2: packets at pods' interfaces and, towards pods, at the uplink.
 * Services by the packet for what no socket hook saw, answers of flows that were
 * translated by the packet, refusal of forged sources, accounting, and the way
 * around the host's upper stack. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "constants.h"
#include "structs.h"
#include "maps.h"
#include "selection.h"
#include "packet.h"
#include "flow.h"
#include "events.h"
#include "weigh.h"
#include "handover.h"
#include "path.h"
#include "link.h"
#include "path_source.h"
#include "path_rewrite.h"
#include "path_deliver.h"
#include "path_refuse.h"
#include "path_translate.h"

enum {
	/* All headers that are looked at, of a packet and of the one inside an
	 * ICMP error. */
	HEADERS_LENGTH = 192,
};

/* Parses the packet into zeroed *packet. A global function: it is verified once,
 * and what follows it once for whatever it found, not once for every way through
 * its headers. */
__noinline int skep_parse(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	enum family family;
	__be16 type;

	if (!packet)
		return PARSED_MALFORMED;
	family = ethernet_family(data, data_end, &type);
	if (family == FAMILY_NONE)
		return PARSED_NOT_IP;
	return parse_packet(data, data_end, skb->len, ETH_HLEN, family, packet);
}

/* Nearly always all headers are linear, and nothing more is made so: the kernel
 * would copy the head of every packet that TCP may have to send again. */
static __always_inline enum parsed parse(struct __sk_buff *skb,
					 struct packet *packet)
{
	enum parsed parsed = skep_parse(skb, packet);
	__u32 linear = skb->data_end - skb->data, length = skb->len;

	if (parsed != PARSED_MALFORMED && parsed != PARSED_ICMP)
		return parsed;
	if (length > HEADERS_LENGTH)
		length = HEADERS_LENGTH;
	if (linear >= length || bpf_skb_pull_data(skb, length))
		return parsed;
	__builtin_memset(packet, 0, sizeof(*packet));
	return skep_parse(skb, packet);
}

/* True: the packet is IP. */
static __always_inline bool enter(struct passage *passage, struct __sk_buff *skb,
				  enum path_hook hook)
{
	passage->skb = skb;
	passage->hook = hook;
	passage->parsed = parse(skb, &passage->packet);
	if (passage->parsed == PARSED_NOT_IP)
		return false;
	if (passage->parsed == PARSED_PORTS && passage->packet.outer.fragment)
		know_fragment(passage);
	return true;
}

/* IPv6 neighbour discovery and multicast listener reports have sources of their
 * own, and go no further than the host. */
static __always_inline bool is_neighbour_talk(const struct header *header)
{
	const struct address *source = &header->source.addr;
	bool link_local = (source->word[0] & bpf_htonl(0xffc00000)) ==
			  bpf_htonl(0xfe800000);
	bool unspecified = !source->word[0] && !source->word[1] &&
			   !source->word[2] && !source->word[3];

	return header->family == FAMILY_IPV6 &&
	       header->protocol == IPPROTO_NUMBER_ICMPV6 &&
	       (link_local || unspecified);
}

/* A packet that now has its final addresses, after a pod sent it. reversed: its
 * source is a service's. */
static __always_inline int leave_pod(struct passage *passage, bool reversed)
{
	const struct address *to = &passage->packet.outer.destination.addr;
	struct pod *pod = bpf_map_lookup_elem(&skep_pods, to);
	struct path_config *config;

	if (pod)
		return into_pod(passage, pod, reversed);
	config = path_config();
	if (is_wrapped(&passage->packet.outer) && !is_for_pod(config, to))
		return drop(passage, PATH_WRAPPED);
	if (reversed)
		return out(passage, PATH_DIRECT, true);
	if (config && in_cluster(config, to))
		return out(passage, PATH_NEIGHBOUR_NODE, false);
	return to_stack(passage, PATH_STACK);
}

/* Whether a service may be asked for: its address is neither a pod's nor in the
 * cluster's pod ranges. */
static __always_inline bool may_be_service(const struct passage *passage)
{
	const struct address *to = &passage->packet.outer.destination.addr;
	struct path_config *config = path_config();

	return config && !in_cluster(config, to);
}

static __always_inline int from_pod(struct passage *passage)
{
	const struct header *header = &passage->packet.outer;
	struct pod *pod = bpf_map_lookup_elem(&skep_pods, &header->source.addr);
	enum step step;
	int verdict = TC_ACT_SHOT;

	if (passage->parsed == PARSED_MALFORMED)
		return drop(passage, PATH_MALFORMED);
	if (!pod || pod->ifindex != passage->skb->ifindex) {
		if (!is_neighbour_talk(header))
			return drop(passage, PATH_FORGED);
		if (!is_host_talk(passage))
			return drop(passage, PATH_LINK_REFUSED);
		return to_stack(passage, PATH_NEIGHBOUR);
	}
	if (header->hops <= 1)
		return to_stack(passage, PATH_HOPS_SPENT);
	if (passage->parsed == PARSED_PORTS)
		account(passage, &header->source, false);
	step = reverse(passage, &verdict);
	if (step == STEP_CHANGED)
		return leave_pod(passage, true);
	if (step == STEP_NONE && may_be_service(passage)) {
		if (passage->parsed == PARSED_PORTS)
			step = to_service(passage, &verdict);
		else if (passage->parsed == PARSED_ERROR)
			step = error_to_service(passage, &verdict);
	}
	if (step == STEP_ENDED)
		return verdict;
	return leave_pod(passage, false);
}

SEC("tc")
int skep_from_pod(struct __sk_buff *skb)
{
	struct passage passage = {};

	if (!enter(&passage, skb, HOOK_FROM_POD)) {
		if (is_own_arp(skb))
			return to_stack(&passage, PATH_NOT_IP);
		return drop(&passage, PATH_LINK_REFUSED);
	}
	return from_pod(&passage);
}

/* What the host's stack sends to a pod. */
SEC("tc")
int skep_to_pod(struct __sk_buff *skb)
{
	struct passage passage = {};
	int verdict = TC_ACT_SHOT;

	if (!enter(&passage, skb, HOOK_TO_POD))
		return to_stack(&passage, PATH_NOT_IP);
	if (passage.parsed == PARSED_MALFORMED)
		return to_stack(&passage, PATH_MALFORMED);
	if (is_neighbour_talk(&passage.packet.outer))
		return to_stack(&passage, PATH_NEIGHBOUR);
	if (reverse(&passage, &verdict) == STEP_ENDED)
		return verdict;
	if (passage.parsed == PARSED_PORTS)
		account(&passage, &passage.packet.outer.destination, true);
	return to_stack(&passage, PATH_DELIVERED);
}

/* Whether the host's connection tracking must not be kept from seeing the
 * packet: it comes from outside and nothing shows that the answer will pass the
 * stack by as well. */
static __always_inline bool is_strange(struct passage *passage)
{
	struct path_config *config = path_config();

	return !(config &&
		 in_cluster(config, &passage->packet.outer.source.addr)) &&
	       !is_flow_known(passage);
}

/* Of an uplink, what cannot be parsed is the stack's to drop. It accepts IPv6
 * packets with more headers than are looked through here, so none of those may
 * reach the host itself. */
static __always_inline int leave_malformed(const struct passage *passage)
{
	const struct header *header = &passage->packet.outer;

	if (header->family == FAMILY_IPV6 &&
	    address_flags(&header->destination.addr) & ADDRESS_OWN)
		return drop(passage, PATH_MALFORMED);
	return to_stack(passage, PATH_MALFORMED);
}

/* Whether the packet answers what XDP sent through an overlay in this node's name,
 * or is an ICMP error about that. */
static __always_inline bool is_snat_answer(struct passage *passage)
{
	const struct endpoint *backend = &passage->packet.outer.source;
	const struct endpoint *us = &passage->packet.outer.destination;
	struct flow *flow;

	if (passage->parsed == PARSED_ERROR) {
		backend = &passage->packet.inner.destination;
		us = &passage->packet.inner.source;
	} else if (passage->parsed != PARSED_PORTS) {
		return false;
	}
	if (!may_answer_flow(backend))
		return false;
	flow = lookup_reverse(backend, us, now(passage));
	return flow && flow->flags & FLOW_SNAT;
}

SEC("tc")
int skep_from_uplink(struct __sk_buff *skb)
{
	struct passage passage = {};
	int verdict = TC_ACT_SHOT;
	struct pod *pod;
	enum step step;

	if (skb->pkt_type == PACKET_OTHERHOST) { /* flooded: the stack drops it */
		tally_at(HOOK_UPLINK, PATH_STACK);
		return TC_ACT_UNSPEC;
	}
	if (!enter(&passage, skb, HOOK_UPLINK) && !restore_handed_over(skb)) {
		if (is_hidden_by_tags(skb))
			return drop(&passage, PATH_LINK_REFUSED);
		return to_stack(&passage, PATH_NOT_IP);
	}
	if (passage.parsed == PARSED_NOT_IP || is_handed_over(skb)) {
		tally(&passage, PATH_HANDED_OVER);
		return send_handed_over(skb);
	}
	if (passage.parsed == PARSED_MALFORMED)
		return leave_malformed(&passage);
	if (is_overlay_port(&passage.packet.outer) && !is_overlay_right(&passage))
		return drop(&passage, PATH_WRAPPED_FORGED);
	if (!is_source_right(&passage))
		return drop(&passage, PATH_FORGED);
	pod = bpf_map_lookup_elem(&skep_pods,
				  &passage.packet.outer.destination.addr);
	if (!pod && !is_snat_answer(&passage))
		return to_stack(&passage, PATH_STACK);
	if (passage.packet.outer.hops <= 1)
		return to_stack(&passage, PATH_HOPS_SPENT);
	step = reverse(&passage, &verdict);
	if (step == STEP_ENDED)
		return verdict;
	if (!pod)
		return out(&passage, PATH_DIRECT, step == STEP_CHANGED);
	if (step == STEP_NONE && is_strange(&passage))
		return to_stack(&passage, PATH_STACK);
	return into_pod(&passage, pod, step == STEP_CHANGED);
}

/* What arrives at the host's other interfaces, which lead to no pod and to no node:
 * whatever bears a pod's or a node's name there is the stack's if it may be right. */
SEC("tc")
int skep_from_other(struct __sk_buff *skb)
{
	struct passage passage = {};

	if (!enter(&passage, skb, HOOK_UPLINK)) {
		if (is_hidden_by_tags(skb))
			return drop(&passage, PATH_LINK_REFUSED);
		return to_stack(&passage, PATH_NOT_IP);
	}
	if (passage.parsed == PARSED_NOT_IP)
		return to_stack(&passage, PATH_NOT_IP);
	if (passage.parsed == PARSED_MALFORMED)
		return leave_malformed(&passage);
	if (is_overlay_port(&passage.packet.outer) && !is_overlay_right(&passage))
		return drop(&passage, PATH_WRAPPED_FORGED);
	if (!is_source_right(&passage))
		return drop(&passage, PATH_FORGED);
	return to_stack(&passage, PATH_STACK);
}

/* Whether a packet that leaves by an uplink may need its source translated: it is
 * from a port of a backend in the host's own network, or an ICMP error. Nearly
 * every packet is answered for by a few loads. */
static __always_inline bool may_be_answer(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	struct flow_ports *ports = flow_ports();
	enum family family;
	__u32 l4 = ETH_HLEN;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__be16 *port, type;
	__u8 protocol, *icmp;

	family = ethernet_family(data, data_end, &type);
	if (family == FAMILY_NONE || !ports)
		return false;
	if (family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip4));
		if (!ip4)
			return true;
		if (ip4->frag_off & bpf_htons(0x1fff))
			return ports->any_own;
		protocol = ip4->protocol;
		l4 += ip4->ihl * 4;
	} else {
		ip6 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip6));
		if (!ip6)
			return true;
		protocol = ip6->nexthdr;
		l4 += sizeof(*ip6);
		if (is_extension(protocol))
			return ports->any_own;
	}
	if (protocol == IPPROTO_NUMBER_ICMP || protocol == IPPROTO_NUMBER_ICMPV6) {
		icmp = packet_at(data, data_end, l4, sizeof(*icmp));
		return !icmp || is_icmp_error(family, *icmp);
	}
	if (!has_ports(protocol))
		return false;
	port = packet_at(data, data_end, l4, sizeof(*port));
	return !port || has_port(ports->own, *port);
}

/* Of what the host's stack sends, the answers of backends in its own network to
 * clients outside, and errors about what XDP translated. */
static __always_inline int answer_of_host(struct __sk_buff *skb)
{
	struct passage passage = {};
	int verdict = TC_ACT_SHOT;

	if (!enter(&passage, skb, HOOK_TO_UPLINK))
		return to_stack(&passage, PATH_NOT_IP);
	if (passage.parsed == PARSED_MALFORMED)
		return to_stack(&passage, PATH_MALFORMED);
	switch (reverse(&passage, &verdict)) {
	case STEP_ENDED:
		return verdict;
	case STEP_CHANGED:
		return to_stack(&passage, PATH_DIRECT);
	default:
		return to_stack(&passage, PATH_STACK);
	}
}

/* What leaves by an uplink. */
SEC("tc")
int skep_to_uplink(struct __sk_buff *skb)
{
	if (may_be_answer(skb))
		return answer_of_host(skb);
	tally_at(HOOK_TO_UPLINK, PATH_STACK);
	return TC_ACT_UNSPEC;
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

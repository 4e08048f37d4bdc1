/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_ANSWER_H
#define SKEP_ANSWER_H

/* Packets that XDP answers itself, in the frontend's name: TCP resets and ICMP
 * errors. The answer is made in place of the packet and leaves the way it came,
 * or, if another node sent it to us, by the route to the client. */

enum answer {
	ANSWER_UNREACHABLE,
	ANSWER_TOO_BIG,
	ANSWER_TIME_EXCEEDED,
	ANSWER_COUNT,
};

enum {
	/* As the kernel's icmp_msgs_per_sec, here for each CPU and kind. */
	ANSWERS_PER_SECOND = 1000,
	/* How much of the packet an ICMP error repeats at most. */
	QUOTE_WORDS = 64,
	ANSWER_HOPS = 64,
	IPV6_MTU_MIN = 1280,
	TCP_HEADER_WORDS = 5,
};

struct answer_window {
	__u64 since; /* bpf_ktime_get_coarse_ns */
	__u64 sent;
};

SKEP_MAP(skep_answers, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct answer_window,
	 ANSWER_COUNT, 0);

static __always_inline bool may_answer(__u32 answer, __u64 now)
{
	struct answer_window *window = bpf_map_lookup_elem(&skep_answers, &answer);

	if (!window)
		return false;
	if (now - window->since > NANOSECONDS) {
		window->since = now;
		window->sent = 0;
	}
	return window->sent++ < ANSWERS_PER_SECOND;
}

static __always_inline void icmp_kind(__u8 family, enum answer answer,
				      struct icmp_header *icmp)
{
	bool ip4 = family == FAMILY_IPV4;

	if (answer == ANSWER_UNREACHABLE) {
		icmp->type = ip4 ? 3 : 1;
		icmp->code = ip4 ? 3 : 4;
	} else if (answer == ANSWER_TOO_BIG) {
		icmp->type = ip4 ? 3 : 2;
		icmp->code = ip4 ? 4 : 0;
	} else {
		icmp->type = ip4 ? 11 : 3;
		icmp->code = 0;
	}
}

static __always_inline enum uplink_reason answer_reason(enum answer answer)
{
	if (answer == ANSWER_UNREACHABLE)
		return UPLINK_UNREACHABLE;
	if (answer == ANSWER_TOO_BIG)
		return UPLINK_TOO_BIG;
	return UPLINK_TIME_EXCEEDED;
}

/* Writes the IP header of an answer with `payload` bytes behind it; returns the
 * sum of its pseudo header. */
static __always_inline bool write_answer_ip(struct xdp_md *ctx,
					    const struct header *to,
					    __u8 protocol, __u32 payload,
					    __u64 *pseudo)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	const __u32 *from = to->destination.addr.word;
	const __u32 *target = to->source.addr.word;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	int i;

	*pseudo = bpf_htons(payload) + bpf_htons(protocol);
	if (to->family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip4));
		if (!ip4)
			return false;
		__builtin_memset(ip4, 0, sizeof(*ip4));
		ip4->version = 4;
		ip4->ihl = sizeof(*ip4) / 4;
		ip4->tot_len = bpf_htons(sizeof(*ip4) + payload);
		ip4->ttl = ANSWER_HOPS;
		ip4->protocol = protocol;
		ip4->saddr = from[3];
		ip4->daddr = target[3];
		ip4->check = ~fold(sum_words(data, data_end, ETH_HLEN,
					     sizeof(*ip4) / 4, 0));
		*pseudo += (__u64)from[3] + target[3];
		return true;
	}
	ip6 = packet_at(data, data_end, ETH_HLEN, sizeof(*ip6));
	if (!ip6)
		return false;
	__builtin_memset(ip6, 0, sizeof(*ip6));
	ip6->version = 6;
	ip6->payload_len = bpf_htons(payload);
	ip6->nexthdr = protocol;
	ip6->hop_limit = ANSWER_HOPS;
	__builtin_memcpy(&ip6->saddr, from, sizeof(ip6->saddr));
	__builtin_memcpy(&ip6->daddr, target, sizeof(ip6->daddr));
	for (i = 0; i < 4; i++)
		*pseudo += (__u64)from[i] + target[i];
	return true;
}

/* Sends the answer, whose Ethernet header was `came` when it was a question. */
static __always_inline int send_answer(struct xdp_md *ctx,
				       struct arrival *arrival,
				       const struct ethhdr *came,
				       enum uplink_reason reason)
{
	const struct address *to = &arrival->packet.outer.source.addr;
	struct ethhdr *ethernet = packet_at(begin_of(ctx), end_of(ctx), 0,
					    sizeof(*ethernet));
	enum route route = ROUTE_NONE;
	struct hop *hop;

	if (!ethernet)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	ethernet->h_proto = came->h_proto;
	if (arrival->peeled) {
		hop = find_hop(ctx, to, arrival->now, &route);
		if (!hop)
			return leave(UPLINK_NO_ROUTE, XDP_DROP);
		return send_to(ctx, hop, route, reason);
	}
	__builtin_memcpy(ethernet->h_dest, came->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, came->h_dest, ETH_ALEN);
	return leave(reason, XDP_TX);
}

static __always_inline bool set_frame_length(struct xdp_md *ctx, __u32 length)
{
	return !bpf_xdp_adjust_tail(ctx, (int)length -
						 (int)bpf_xdp_get_buff_len(ctx));
}

/* An ICMP error about the packet, which is unchanged so far and no longer
 * encapsulated. mtu: what ANSWER_TOO_BIG reports. */
__noinline int answer_icmp(struct xdp_md *ctx, struct arrival *arrival,
			   enum answer answer, __u32 mtu)
{
	__u32 quote, size = sizeof(struct iphdr);
	struct ethhdr *at, came;
	struct icmp_header *icmp;
	struct header *header;
	__u64 pseudo;

	if (!arrival)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	quote = header->end - header->l3;
	at = packet_at(begin_of(ctx), end_of(ctx), 0, sizeof(*at));
	if (!at || arrival->error || header->fragment == FRAGMENT_LATER)
		return leave(UPLINK_NO_ANSWER, XDP_DROP);
	came = *at;
	if (!may_answer(answer, arrival->now))
		return leave(UPLINK_ANSWER_LIMITED, XDP_DROP);
	if (quote > QUOTE_WORDS * 4)
		quote = QUOTE_WORDS * 4;
	quote &= ~3;
	if (header->family == FAMILY_IPV6)
		size = sizeof(struct ipv6hdr);
	size += sizeof(*icmp);
	if (bpf_xdp_adjust_head(ctx, -(int)size) ||
	    !set_frame_length(ctx, ETH_HLEN + size + quote))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	if (!write_answer_ip(ctx, header,
			     header->family == FAMILY_IPV4 ?
				     IPPROTO_NUMBER_ICMP :
				     IPPROTO_NUMBER_ICMPV6,
			     sizeof(*icmp) + quote, &pseudo))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	size += ETH_HLEN - sizeof(*icmp);
	icmp = packet_at(begin_of(ctx), end_of(ctx), size, sizeof(*icmp));
	if (!icmp)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	icmp_kind(header->family, answer, icmp);
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(mtu);
	if (header->family == FAMILY_IPV4)
		pseudo = 0;
	icmp->checksum = ~fold(sum_words(begin_of(ctx), end_of(ctx), size,
					 sizeof(*icmp) / 4 + QUOTE_WORDS,
					 pseudo));
	return send_answer(ctx, arrival, &came, answer_reason(answer));
}

static __always_inline int answer_too_big(struct xdp_md *ctx,
					  struct arrival *arrival)
{
	__u32 mtu = arrival->mtu;

	if (arrival->packet.outer.family == FAMILY_IPV6 && mtu < IPV6_MTU_MIN)
		mtu = IPV6_MTU_MIN; /* RFC 8200: never less */
	return answer_icmp(ctx, arrival, ANSWER_TOO_BIG, mtu);
}

/* What the peer has to see in a reset that it believes (RFC 9293, 3.5.2). */
static __always_inline void reset_of(const struct tcphdr *tcp, __u32 segment,
				     struct tcphdr *reset)
{
	reset->source = tcp->dest;
	reset->dest = tcp->source;
	reset->doff = TCP_HEADER_WORDS;
	reset->rst = 1;
	if (tcp->ack) {
		reset->seq = tcp->ack_seq;
		return;
	}
	reset->ack = 1;
	reset->ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + segment);
}

__noinline int answer_reset(struct xdp_md *ctx, struct arrival *arrival)
{
	struct tcphdr *tcp, reset = {};
	struct ethhdr *at, came;
	__u32 size = ETH_HLEN, segment;
	struct header *header;
	__u64 pseudo;

	if (!arrival)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	at = packet_at(begin_of(ctx), end_of(ctx), 0, sizeof(*at));
	tcp = packet_at(begin_of(ctx), end_of(ctx), header->l4, sizeof(*tcp));
	if (!at || !tcp || tcp->rst || arrival->error ||
	    header->fragment == FRAGMENT_LATER)
		return leave(UPLINK_NO_ANSWER, XDP_DROP);
	came = *at;
	segment = header->end - header->l4 - tcp->doff * 4 + tcp->syn + tcp->fin;
	reset_of(tcp, segment, &reset);
	size += header->family == FAMILY_IPV4 ? sizeof(struct iphdr) :
						sizeof(struct ipv6hdr);
	if (!set_frame_length(ctx, size + sizeof(reset)) ||
	    !write_answer_ip(ctx, header, PROTOCOL_TCP, sizeof(reset), &pseudo))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	tcp = packet_at(begin_of(ctx), end_of(ctx), size, sizeof(*tcp));
	if (!tcp)
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	*tcp = reset;
	tcp->check = ~fold(sum_words(begin_of(ctx), end_of(ctx), size,
				     TCP_HEADER_WORDS, pseudo));
	return send_answer(ctx, arrival, &came, UPLINK_RESET);
}

/* What the kernel answers where nobody listens. */
static __always_inline int refuse_packet(struct xdp_md *ctx,
					 struct arrival *arrival)
{
	if (arrival->packet.outer.protocol == PROTOCOL_TCP)
		return answer_reset(ctx, arrival);
	return answer_icmp(ctx, arrival, ANSWER_UNREACHABLE, 0);
}

#endif

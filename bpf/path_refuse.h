/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_REFUSE_H
#define SKEP_PATH_REFUSE_H

/* The answer to a pod that asks for a service without backends: a TCP reset, or
 * ICMP "port unreachable", both from the service's address, so that the pod's
 * call ends at once. The packet itself becomes the answer. */

enum {
	QUOTE_MAX = 128, /* IP header and options, and 8 bytes behind them */
	QUOTED_TRANSPORT = 8,
	IPV4_PORT_UNREACHABLE = 3,
	IPV6_DESTINATION_UNREACHABLE = 1,
	IPV6_PORT_UNREACHABLE = 4,
	ANSWER_HOPS = 64,
};

struct pseudo_header {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
};

struct ipv4_reset {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct ipv6_reset {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

struct ipv4_unreachable {
	struct iphdr ip;
	struct icmp_header icmp;
};

struct ipv6_unreachable {
	struct ipv6hdr ip;
	struct icmp_header icmp;
};

/* Too much for the stack. */
struct answer {
	union {
		struct ipv4_reset reset4;
		struct ipv6_reset reset6;
		struct ipv4_unreachable unreachable4;
		struct ipv6_unreachable unreachable6;
	};
	struct pseudo_header pseudo;
	struct tcphdr asked;
	__u8 quote[QUOTE_MAX];
};

SKEP_MAP(skep_path_answer, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct answer, 1, 0);

static __always_inline __u16 fold(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The sum of size bytes, of which size is constant and a multiple of 4. */
static __always_inline __s64 sum_of(void *data, __u32 size, __s64 seed)
{
	return bpf_csum_diff(NULL, 0, data, size, seed);
}

/* Of both families: the zero words and the mapping prefix of IPv4 are left out. */
static __always_inline __s64 pseudo_sum(const struct passage *passage,
					struct answer *answer, __u8 protocol,
					__u32 length)
{
	const struct header *header = &passage->packet.outer;
	struct pseudo_header *pseudo = &answer->pseudo;

	__builtin_memset(pseudo, 0, sizeof(*pseudo));
	if (header->family == FAMILY_IPV4) {
		pseudo->source.word[3] = header->destination.addr.word[3];
		pseudo->destination.word[3] = header->source.addr.word[3];
	} else {
		pseudo->source = header->destination.addr;
		pseudo->destination = header->source.addr;
	}
	pseudo->length = bpf_htonl(length);
	pseudo->protocol = bpf_htonl(protocol);
	return sum_of(pseudo, sizeof(*pseudo), 0);
}

static __always_inline void answer_ipv4(const struct passage *passage,
					struct iphdr *ip, __u8 protocol,
					__u32 payload)
{
	const struct header *header = &passage->packet.outer;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + payload);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = protocol;
	ip->saddr = header->destination.addr.word[3];
	ip->daddr = header->source.addr.word[3];
	ip->check = fold(sum_of(ip, sizeof(*ip), 0));
}

static __always_inline void answer_ipv6(const struct passage *passage,
					struct ipv6hdr *ip, __u8 protocol,
					__u32 payload)
{
	const struct header *header = &passage->packet.outer;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_HOPS;
	__builtin_memcpy(&ip->saddr, &header->destination.addr, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &header->source.addr, sizeof(ip->daddr));
}

/* RFC 9293, 3.10.7.1: the reset that a closed port sends. */
static __always_inline void fill_reset(const struct passage *passage,
				       struct answer *answer, struct tcphdr *tcp)
{
	const struct header *header = &passage->packet.outer;
	const struct tcphdr *asked = &answer->asked;
	__u32 length = header->end - header->l4 - asked->doff * 4;

	__builtin_memset(tcp, 0, sizeof(*tcp));
	tcp->source = header->destination.port;
	tcp->dest = header->source.port;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (asked->ack) {
		tcp->seq = asked->ack_seq;
	} else {
		tcp->ack = 1;
		tcp->ack_seq = bpf_htonl(bpf_ntohl(asked->seq) + length +
					 asked->syn + asked->fin);
	}
	tcp->check = fold(sum_of(tcp, sizeof(*tcp),
				 pseudo_sum(passage, answer, PROTOCOL_TCP,
					    sizeof(*tcp))));
}

static __always_inline long become_reset(const struct passage *passage,
					 struct answer *answer)
{
	const struct header *header = &passage->packet.outer;
	struct __sk_buff *skb = passage->skb;
	bool ipv4 = header->family == FAMILY_IPV4;
	__u32 size = ipv4 ? sizeof(answer->reset4) : sizeof(answer->reset6);
	long failed;

	if (header->tcp_flags & TCP_RST)
		return -1;
	failed = bpf_skb_load_bytes(skb, header->l4, &answer->asked,
				    sizeof(answer->asked));
	failed = failed ?: bpf_skb_change_tail(skb, ETH_HLEN + size, 0);
	if (failed)
		return failed;
	if (ipv4) {
		fill_reset(passage, answer, &answer->reset4.tcp);
		answer_ipv4(passage, &answer->reset4.ip, PROTOCOL_TCP,
			    sizeof(struct tcphdr));
		return bpf_skb_store_bytes(skb, ETH_HLEN, &answer->reset4,
					   sizeof(answer->reset4),
					   BPF_F_RECOMPUTE_CSUM);
	}
	fill_reset(passage, answer, &answer->reset6.tcp);
	answer_ipv6(passage, &answer->reset6.ip, PROTOCOL_TCP,
		    sizeof(struct tcphdr));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &answer->reset6,
				   sizeof(answer->reset6), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline __u16 unreachable_sum(struct answer *answer,
					     struct icmp_header *icmp, __s64 seed)
{
	/* What of quote is not quoted is zero and adds nothing. */
	seed = sum_of(answer->quote, sizeof(answer->quote), seed);
	return fold(sum_of(icmp, sizeof(*icmp), seed));
}

static __always_inline long write_unreachable(const struct passage *passage,
					      struct answer *answer, __u32 quoted)
{
	__u32 payload = sizeof(struct icmp_header) + quoted;
	struct icmp_header *icmp;

	if (passage->packet.outer.family == FAMILY_IPV4) {
		icmp = &answer->unreachable4.icmp;
		__builtin_memset(icmp, 0, sizeof(*icmp));
		icmp->type = ICMP_UNREACHABLE;
		icmp->code = IPV4_PORT_UNREACHABLE;
		icmp->checksum = unreachable_sum(answer, icmp, 0);
		answer_ipv4(passage, &answer->unreachable4.ip,
			    IPPROTO_NUMBER_ICMP, payload);
		return bpf_skb_store_bytes(passage->skb, ETH_HLEN,
					   &answer->unreachable4,
					   sizeof(answer->unreachable4), 0);
	}
	icmp = &answer->unreachable6.icmp;
	__builtin_memset(icmp, 0, sizeof(*icmp));
	icmp->type = IPV6_DESTINATION_UNREACHABLE;
	icmp->code = IPV6_PORT_UNREACHABLE;
	icmp->checksum = unreachable_sum(answer, icmp,
					 pseudo_sum(passage, answer,
						    IPPROTO_NUMBER_ICMPV6,
						    payload));
	answer_ipv6(passage, &answer->unreachable6.ip, IPPROTO_NUMBER_ICMPV6,
		    payload);
	return bpf_skb_store_bytes(passage->skb, ETH_HLEN, &answer->unreachable6,
				   sizeof(answer->unreachable6), 0);
}

static __always_inline long become_unreachable(const struct passage *passage,
					       struct answer *answer)
{
	const struct header *header = &passage->packet.outer;
	struct __sk_buff *skb = passage->skb;
	__u32 quoted = header->l4 - ETH_HLEN + QUOTED_TRANSPORT;
	__s32 room = header->family == FAMILY_IPV4 ?
			     sizeof(answer->unreachable4) :
			     sizeof(answer->unreachable6);
	long failed;

	if (quoted < QUOTED_TRANSPORT || quoted > QUOTE_MAX)
		return -1;
	__builtin_memset(answer->quote, 0, sizeof(answer->quote));
	failed = bpf_skb_load_bytes(skb, ETH_HLEN, answer->quote, quoted);
	failed = failed ?: bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0);
	failed = failed ?: bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0);
	return failed ?: write_unreachable(passage, answer, quoted);
}

/* Returns the verdict. */
static __always_inline int refuse_packet(struct passage *passage)
{
	const struct header *header = &passage->packet.outer;
	struct pod *pod = bpf_map_lookup_elem(&skep_pods, &header->source.addr);
	bool tcp = header->protocol == PROTOCOL_TCP;
	struct answer *answer;
	__u32 zero = 0;
	long failed;

	answer = bpf_map_lookup_elem(&skep_path_answer, &zero);
	if (!pod || !answer || header->fragment == FRAGMENT_LATER)
		return drop(passage, PATH_UNANSWERED);
	failed = tcp ? become_reset(passage, answer) :
		       become_unreachable(passage, answer);
	failed = failed ?: bpf_skb_store_bytes(passage->skb, 0, pod->mac,
					       sizeof(pod->mac) * 2, 0);
	if (failed)
		return drop(passage, PATH_UNANSWERED);
	tally(passage, tcp ? PATH_RESET : PATH_UNREACHABLE);
	return bpf_redirect_peer(pod->ifindex, 0);
}

#endif

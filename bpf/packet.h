/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PACKET_H
#define SKEP_PACKET_H

/* Parsing: Ethernet, IPv4, IPv6 with extension headers, TCP, UDP, SCTP, and the
 * packet inside an ICMP error. Works on data and data_end of xdp_md and of
 * __sk_buff alike; of the latter the headers have to be linear
 * (bpf_skb_pull_data). Nothing is written and nothing outside is read.
 *
 * Includes before this: stdbool, linux/{bpf,if_ether,ip,ipv6,tcp,udp}.h,
 * bpf_endian, bpf_helpers, constants.h, structs.h. */

enum family {
	FAMILY_NONE = 0,
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1, /* has the ports */
	FRAGMENT_LATER = 2, /* has none: ports are 0 */
};

enum tcp_flags {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

enum parsed {
	PARSED_PORTS,      /* TCP, UDP or SCTP; of a later fragment without ports */
	PARSED_ERROR,      /* ICMP error: packet->inner is the packet that it is about */
	PARSED_ICMP,       /* other ICMP: l4 is its header */
	PARSED_TUNNEL,     /* IPv4 or IPv6 directly inside: l4 is its header */
	PARSED_OTHER,      /* a protocol that has no ports */
	PARSED_NOT_IP,     /* neither IPv4 nor IPv6 */
	PARSED_MALFORMED,  /* its headers contradict themselves or its length */
};

enum {
	IPPROTO_NUMBER_HOPOPTS = 0,
	IPPROTO_NUMBER_ICMP = 1,
	IPPROTO_NUMBER_IPV4 = 4,
	IPPROTO_NUMBER_IPV6 = 41,
	IPPROTO_NUMBER_ROUTING = 43,
	IPPROTO_NUMBER_FRAGMENT = 44,
	IPPROTO_NUMBER_ICMPV6 = 58,
	IPPROTO_NUMBER_DESTINATION = 60,

	MAPPED_PREFIX = 0xffff, /* word 2 of ::ffff:a.b.c.d, host order */
	EXTENSION_HEADERS = 4,  /* more of them are not looked through */
	PACKET_OFFSET_MAX = 511, /* of every header that is looked at */
	SCTP_HEADER_LENGTH = 12,

	ICMP_UNREACHABLE = 3,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
	ICMPV6_INFORMATIONAL = 128, /* types below it are errors */
};

/* One IP header and the ports behind it. The first two members are laid out as
 * the key of a forward flow. Offsets count from data. */
struct header {
	struct endpoint source;
	struct endpoint destination;
	__u32 end;         /* where the IP packet ends by its own length */
	__u32 fragment_id; /* as in the packet, if fragment is not NONE */
	__u16 l3;
	__u16 l4;
	__u8 family;   /* enum family */
	__u8 protocol; /* behind the extension headers */
	__u8 fragment; /* enum fragment */
	__u8 hops;     /* TTL or hop limit */
	__u8 tcp_flags;
	__u8 traffic_class;
	__u8 pad[2];
};

struct packet {
	struct header outer;
	struct header inner; /* of an ICMP error only; its packet may be cut short */
};

/* Of both families. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest; /* error: MTU, pointer or nothing; echo: id and sequence */
};

struct ports {
	__be16 source;
	__be16 destination;
};

struct ipv6_extension {
	__u8 next;
	__u8 length;
};

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* A pointer to size bytes at offset, or NULL. */
static __always_inline void *packet_at(void *data, void *data_end, __u32 offset,
				       __u32 size)
{
	void *at;

	/* The verifier has to see the value that was compared added. */
	asm volatile("" : "+r"(offset));
	if (offset > PACKET_OFFSET_MAX)
		return NULL;
	at = data + offset;
	if (at + size > data_end)
		return NULL;
	return at;
}

static __always_inline void set_mapped(struct address *addr, __be32 ipv4)
{
	addr->word[0] = 0;
	addr->word[1] = 0;
	addr->word[2] = bpf_htonl(MAPPED_PREFIX);
	addr->word[3] = ipv4;
}

static __always_inline void set_address6(struct address *addr,
					 const struct in6_addr *ipv6)
{
	addr->word[0] = ipv6->in6_u.u6_addr32[0];
	addr->word[1] = ipv6->in6_u.u6_addr32[1];
	addr->word[2] = ipv6->in6_u.u6_addr32[2];
	addr->word[3] = ipv6->in6_u.u6_addr32[3];
}

static __always_inline bool same_address(const struct address *a,
					 const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] &&
	       a->word[1] == b->word[1] && a->word[0] == b->word[0];
}

/* length is the whole packet's, which of an skb is more than data_end - data.
 * A packet inside an ICMP error (quoted) may end anywhere. */
static __always_inline enum parsed parse_ipv4(void *data, void *data_end,
					      __u32 length, bool quoted,
					      struct header *header)
{
	struct iphdr *ip = packet_at(data, data_end, header->l3, sizeof(*ip));
	__u32 total, size;
	__u16 fragment;

	if (!ip || ip->version != 4)
		return PARSED_MALFORMED;
	size = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (size < sizeof(*ip) || total < size)
		return PARSED_MALFORMED;
	header->end = header->l3 + total;
	if (!quoted && header->end > length)
		return PARSED_MALFORMED;
	header->l4 = header->l3 + size;
	header->family = FAMILY_IPV4;
	header->protocol = ip->protocol;
	header->hops = ip->ttl;
	header->traffic_class = ip->tos;
	set_mapped(&header->source.addr, ip->saddr);
	set_mapped(&header->destination.addr, ip->daddr);
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & 0x1fff)
		header->fragment = FRAGMENT_LATER;
	else if (fragment & 0x2000)
		header->fragment = FRAGMENT_FIRST;
	if (header->fragment)
		header->fragment_id = ip->id;
	return PARSED_PORTS;
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_NUMBER_HOPOPTS ||
	       protocol == IPPROTO_NUMBER_ROUTING ||
	       protocol == IPPROTO_NUMBER_DESTINATION ||
	       protocol == IPPROTO_NUMBER_FRAGMENT;
}

static __always_inline enum parsed parse_extension(void *data, void *data_end,
						   struct header *header)
{
	struct ipv6_extension *extension;
	struct ipv6_fragment *fragment;

	if (header->protocol != IPPROTO_NUMBER_FRAGMENT) {
		extension = packet_at(data, data_end, header->l4,
				      sizeof(*extension));
		if (!extension)
			return PARSED_MALFORMED;
		header->protocol = extension->next;
		header->l4 += (extension->length + 1) * 8;
		return PARSED_PORTS;
	}
	fragment = packet_at(data, data_end, header->l4, sizeof(*fragment));
	if (!fragment)
		return PARSED_MALFORMED;
	if (fragment->offset & bpf_htons(0xfff8))
		header->fragment = FRAGMENT_LATER;
	else if (fragment->offset & bpf_htons(1))
		header->fragment = FRAGMENT_FIRST;
	if (header->fragment)
		header->fragment_id = fragment->id;
	header->protocol = fragment->next;
	header->l4 += sizeof(*fragment);
	return PARSED_PORTS;
}

static __always_inline enum parsed parse_ipv6(void *data, void *data_end,
					      __u32 length, bool quoted,
					      struct header *header)
{
	struct ipv6hdr *ip = packet_at(data, data_end, header->l3, sizeof(*ip));
	int i;

	if (!ip || ip->version != 6)
		return PARSED_MALFORMED;
	header->end = header->l3 + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (!quoted && header->end > length)
		return PARSED_MALFORMED;
	header->l4 = header->l3 + sizeof(*ip);
	header->family = FAMILY_IPV6;
	header->protocol = ip->nexthdr;
	header->hops = ip->hop_limit;
	header->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	set_address6(&header->source.addr, &ip->saddr);
	set_address6(&header->destination.addr, &ip->daddr);
	if (is_mapped(&header->source.addr) ||
	    is_mapped(&header->destination.addr))
		return PARSED_MALFORMED; /* would pass for IPv4's */
	for (i = 0; i < EXTENSION_HEADERS; i++) {
		if (!is_extension(header->protocol) ||
		    header->fragment == FRAGMENT_LATER)
			break;
		if (parse_extension(data, data_end, header) != PARSED_PORTS)
			return PARSED_MALFORMED;
	}
	if (is_extension(header->protocol) &&
	    header->fragment != FRAGMENT_LATER)
		return PARSED_MALFORMED; /* more than are looked through */
	return PARSED_PORTS;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP ||
	       protocol == PROTOCOL_SCTP;
}

/* Ports, TCP's flags, and whether the transport header fits in the packet. */
static __always_inline enum parsed parse_ports(void *data, void *data_end,
					       bool quoted, struct header *header)
{
	struct ports *ports;
	__u32 size = sizeof(struct udphdr);

	header->source.protocol = header->protocol;
	header->destination.protocol = header->protocol;
	if (header->fragment == FRAGMENT_LATER)
		return PARSED_PORTS;
	ports = packet_at(data, data_end, header->l4, sizeof(*ports));
	if (!ports)
		return PARSED_MALFORMED;
	header->source.port = ports->source;
	header->destination.port = ports->destination;
	if (quoted)
		return PARSED_PORTS;
	if (header->protocol == PROTOCOL_TCP) {
		struct tcphdr *tcp = packet_at(data, data_end, header->l4,
					       sizeof(*tcp));

		if (!tcp || tcp->doff < 5)
			return PARSED_MALFORMED;
		header->tcp_flags = ((__u8 *)tcp)[13];
		size = tcp->doff * 4;
	} else if (header->protocol == PROTOCOL_UDP) {
		struct udphdr *udp = packet_at(data, data_end, header->l4,
					       sizeof(*udp));

		if (!udp || bpf_ntohs(udp->len) < sizeof(*udp))
			return PARSED_MALFORMED;
	} else {
		size = SCTP_HEADER_LENGTH;
	}
	if (header->l4 + size > header->end)
		return PARSED_MALFORMED;
	return PARSED_PORTS;
}

/* Whether the ICMP header says that another packet follows it. */
static __always_inline bool is_icmp_error(__u8 family, __u8 type)
{
	if (family == FAMILY_IPV4)
		return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
		       type == ICMP_PARAMETER_PROBLEM;
	return type < ICMPV6_INFORMATIONAL;
}

static __always_inline enum parsed parse_ip(void *data, void *data_end,
					    __u32 length, bool quoted,
					    struct header *header)
{
	if (header->family == FAMILY_IPV4)
		return parse_ipv4(data, data_end, length, quoted, header);
	return parse_ipv6(data, data_end, length, quoted, header);
}

static __always_inline enum parsed parse_icmp(void *data, void *data_end,
					      struct packet *packet)
{
	struct icmp_header *icmp;

	if (packet->outer.fragment)
		return PARSED_OTHER;
	icmp = packet_at(data, data_end, packet->outer.l4, sizeof(*icmp));
	if (!icmp || packet->outer.l4 + sizeof(*icmp) > packet->outer.end)
		return PARSED_MALFORMED;
	if (!is_icmp_error(packet->outer.family, icmp->type))
		return PARSED_ICMP;
	packet->inner.l3 = packet->outer.l4 + sizeof(*icmp);
	packet->inner.family = packet->outer.family;
	if (parse_ip(data, data_end, 0, true, &packet->inner) != PARSED_PORTS)
		return PARSED_ICMP; /* nothing in it to find a flow by */
	if (packet->inner.fragment == FRAGMENT_LATER ||
	    !has_ports(packet->inner.protocol))
		return PARSED_ICMP;
	if (parse_ports(data, data_end, true, &packet->inner) != PARSED_PORTS)
		return PARSED_ICMP;
	return PARSED_ERROR;
}

/* Parses the packet whose IP header, of the named family, is at l3. *packet has
 * to be zero. */
static __always_inline enum parsed parse_packet(void *data, void *data_end,
						__u32 length, __u32 l3,
						enum family family,
						struct packet *packet)
{
	struct header *header = &packet->outer;
	enum parsed parsed;

	header->l3 = l3;
	header->family = family;
	parsed = parse_ip(data, data_end, length, false, header);
	if (parsed != PARSED_PORTS)
		return parsed;
	if (has_ports(header->protocol))
		return parse_ports(data, data_end, false, header);
	if ((family == FAMILY_IPV4 && header->protocol == IPPROTO_NUMBER_ICMP) ||
	    (family == FAMILY_IPV6 && header->protocol == IPPROTO_NUMBER_ICMPV6))
		return parse_icmp(data, data_end, packet);
	if (header->protocol == IPPROTO_NUMBER_IPV4 ||
	    header->protocol == IPPROTO_NUMBER_IPV6)
		return header->fragment ? PARSED_OTHER : PARSED_TUNNEL;
	return PARSED_OTHER;
}

/* The family behind the Ethernet header; its type in *type, network order. */
static __always_inline enum family ethernet_family(void *data, void *data_end,
						   __be16 *type)
{
	struct ethhdr *ethernet = packet_at(data, data_end, 0, sizeof(*ethernet));

	if (!ethernet)
		return FAMILY_NONE;
	*type = ethernet->h_proto;
	if (*type == bpf_htons(ETH_P_IP))
		return FAMILY_IPV4;
	if (*type == bpf_htons(ETH_P_IPV6))
		return FAMILY_IPV6;
	return FAMILY_NONE;
}

#endif

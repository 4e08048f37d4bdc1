/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_REWRITE_H
#define SKEP_PATH_REWRITE_H

/* Changes to an skb's headers, all through helpers, which keep the checksums of
 * the packet right whoever computes them: the packet itself, the card that sent
 * or will send it (CHECKSUM_COMPLETE, CHECKSUM_PARTIAL). Each returns 0, or the
 * error of a helper, after which the packet is half changed: drop it. */

enum {
	IPV4_CHECKSUM = 10, /* offsets in their headers */
	IPV4_HOPS = 8,
	IPV4_SOURCE = 12,
	IPV4_DESTINATION = 16,
	IPV6_HOPS = 7,
	IPV6_SOURCE = 8,
	IPV6_DESTINATION = 24,
	TCP_CHECKSUM = 16,
	UDP_CHECKSUM = 6,
	ICMP_CHECKSUM = 2,

	/* bpf_l4_csum_replace: the address of an IPv6 header changes, which has
	 * no checksum of its own to make up for it. Unknown to kernels before
	 * 6.16, which refuse it. */
	CHECKSUM_IPV6 = 1 << 7,
};

enum end {
	END_SOURCE,
	END_DESTINATION,
};

/* Where the checksum lies that covers a header's ports and pseudo header, and
 * the flags that its change needs; 0: there is none. */
static __always_inline __u32 checksum_of(const struct header *header, __u64 *flags)
{
	*flags = 0;
	if (header->fragment == FRAGMENT_LATER)
		return 0;
	switch (header->protocol) {
	case PROTOCOL_TCP:
		return header->l4 + TCP_CHECKSUM;
	case PROTOCOL_UDP:
		*flags = BPF_F_MARK_MANGLED_0;
		return header->l4 + UDP_CHECKSUM;
	case IPPROTO_NUMBER_ICMPV6:
		if (header->family == FAMILY_IPV6)
			return header->l4 + ICMP_CHECKSUM;
	}
	return 0;
}

static __always_inline long replace_ipv4(struct __sk_buff *skb, __u32 l3,
					 enum end end, __be32 from, __be32 to)
{
	__u32 at = l3 + (end == END_SOURCE ? IPV4_SOURCE : IPV4_DESTINATION);
	long failed;

	failed = bpf_l3_csum_replace(skb, l3 + IPV4_CHECKSUM, from, to, sizeof(to));
	return failed ?: bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
}

static __always_inline __u32 ipv6_address_at(const struct header *header,
					     enum end end)
{
	return header->l3 +
	       (end == END_SOURCE ? IPV6_SOURCE : IPV6_DESTINATION);
}

/* Writes one end's address in the IP header and what covers it. */
static __always_inline long replace_address(struct __sk_buff *skb,
					    struct header *header, enum end end,
					    const struct address *to)
{
	struct address *from = end == END_SOURCE ? &header->source.addr :
						   &header->destination.addr;
	__u64 flags;
	__u32 sum = checksum_of(header, &flags);
	long failed = 0;

	flags |= BPF_F_PSEUDO_HDR;
	if (header->family == FAMILY_IPV4) {
		if (sum)
			failed = bpf_l4_csum_replace(
				skb, sum, from->word[3], to->word[3],
				flags | sizeof(to->word[3]));
		failed = failed ?: replace_ipv4(skb, header->l3, end,
						from->word[3], to->word[3]);
	} else {
		__s64 diff = bpf_csum_diff((__be32 *)from, sizeof(*from),
					   (__be32 *)to, sizeof(*to), 0);

		if (sum && bpf_l4_csum_replace(skb, sum, 0, diff,
					       flags | CHECKSUM_IPV6))
			failed = bpf_l4_csum_replace(skb, sum, 0, diff, flags);
		failed = failed ?: bpf_skb_store_bytes(
					   skb, ipv6_address_at(header, end), to,
					   sizeof(*to),
					   sum ? 0 : BPF_F_RECOMPUTE_CSUM);
	}
	*from = *to;
	return failed;
}

static __always_inline long replace_port(struct __sk_buff *skb,
					 struct header *header, enum end end,
					 __be16 to)
{
	__be16 *from = end == END_SOURCE ? &header->source.port :
					   &header->destination.port;
	__u32 at = header->l4 + (end == END_SOURCE ? 0 : sizeof(to));
	__u64 flags;
	__u32 sum = checksum_of(header, &flags);
	long failed = 0;

	if (*from == to || header->fragment == FRAGMENT_LATER)
		return 0;
	if (sum)
		failed = bpf_l4_csum_replace(skb, sum, *from, to,
					     flags | sizeof(to));
	*from = to;
	return failed ?: bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
}

static __always_inline long replace_endpoint(struct __sk_buff *skb,
					     struct header *header, enum end end,
					     const struct endpoint *to)
{
	long failed = replace_port(skb, header, end, to->port);

	return failed ?: replace_address(skb, header, end, &to->addr);
}

/* The checksum behind the quoted ports, as far as it is quoted, and with it the
 * one of the ICMP error around it. */
static __always_inline long move_quoted_sum(struct __sk_buff *skb,
					    const struct header *outer,
					    const struct header *inner,
					    const struct endpoint *from,
					    const struct endpoint *to)
{
	__u16 before = 0, after = 0;
	__u64 flags;
	__u32 at = checksum_of(inner, &flags);
	__s64 diff;
	long failed;

	if (!at || at + sizeof(before) > outer->end)
		return 0;
	diff = bpf_csum_diff((__be32 *)&from->addr, sizeof(from->addr),
			     (__be32 *)&to->addr, sizeof(to->addr), 0);
	failed = bpf_skb_load_bytes(skb, at, &before, sizeof(before));
	failed = failed ?: bpf_l4_csum_replace(skb, at, 0, diff, flags);
	failed = failed ?: bpf_l4_csum_replace(skb, at, from->port, to->port,
					       flags | sizeof(to->port));
	failed = failed ?: bpf_skb_load_bytes(skb, at, &after, sizeof(after));
	return failed ?: bpf_l4_csum_replace(skb, outer->l4 + ICMP_CHECKSUM,
					     before, after, sizeof(after));
}

/* The same for the packet inside an ICMP error. The ICMP checksum covers it all:
 * of an IPv4 header the sum stays as it was, since its own checksum moves with
 * the address. */
static __always_inline long replace_quoted(struct __sk_buff *skb,
					   const struct header *outer,
					   struct header *inner, enum end end,
					   const struct endpoint *to)
{
	struct endpoint *from = end == END_SOURCE ? &inner->source :
						    &inner->destination;
	__u32 port = inner->l4 + (end == END_SOURCE ? 0 : sizeof(to->port));
	__u32 sum = outer->l4 + ICMP_CHECKSUM;
	__be16 to_port = to->port;
	long failed = move_quoted_sum(skb, outer, inner, from, to);

	if (failed)
		return failed;

	failed = bpf_l4_csum_replace(skb, sum, from->port, to_port,
				     sizeof(to_port));
	failed = failed ?: bpf_skb_store_bytes(skb, port, &to_port,
					       sizeof(to_port), 0);
	if (failed)
		return failed;
	if (inner->family == FAMILY_IPV4) {
		failed = replace_ipv4(skb, inner->l3, end, from->addr.word[3],
				      to->addr.word[3]);
	} else {
		__s64 diff = bpf_csum_diff((__be32 *)&from->addr,
					   sizeof(from->addr),
					   (__be32 *)&to->addr, sizeof(to->addr),
					   0);

		failed = bpf_l4_csum_replace(skb, sum, 0, diff, 0);
		failed = failed ?: bpf_skb_store_bytes(
					   skb, ipv6_address_at(inner, end),
					   &to->addr, sizeof(to->addr), 0);
	}
	*from = *to;
	return failed;
}

/* What a router does to a packet that it passes on. */
static __always_inline long spend_hop(struct __sk_buff *skb,
				      const struct header *header)
{
	__u8 hops = header->hops - 1;
	long failed;

	if (header->family == FAMILY_IPV6)
		return bpf_skb_store_bytes(skb, header->l3 + IPV6_HOPS, &hops,
					   sizeof(hops), BPF_F_RECOMPUTE_CSUM);
	failed = bpf_l3_csum_replace(skb, header->l3 + IPV4_CHECKSUM,
				     bpf_htons((__u16)header->hops << 8),
				     bpf_htons((__u16)hops << 8), 2);
	return failed ?: bpf_skb_store_bytes(skb, header->l3 + IPV4_HOPS, &hops,
					     sizeof(hops), 0);
}

#endif

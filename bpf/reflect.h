/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_REFLECT_H
#define SKEP_REFLECT_H

/* Answers to the probes by which nodes see whether they reach each other. The
 * kernel answers, so that it is true of the host and its links alone, however
 * busy its CPUs are and whether or not its agent runs. Both ways a probe has a
 * SipHash-2-4 over itself, its addresses and its ports, with a key that the
 * cluster's nodes share: nobody else gets an answer, can give one, or can turn
 * one around. An answer is as long as its probe.
 *
 * Includes before this: arrival.h, encapsulate.h, checksum.h. */

enum probe_format {
	PROBE_PORT = 10260, /* UDP; the agent listens there for other messages */
	PROBE_MAGIC = 0x736b7072, /* "skpr" */
	PROBE_REQUEST = 1,
	PROBE_ANSWER = 2,
};

struct probe {
	__be32 magic;
	__u8 kind;
	__u8 pad[3];   /* zero */
	__u64 nonce;   /* the prober's, opaque here */
	__u64 mac;     /* little endian */
};

struct probe_key {
	__u64 half[2];
	enum probe_format port; /* PROBE_PORT; 0: no key, and no answer */
	__u32 pad;
};

/* Written by Go. */
SKEP_MAP(skep_probe_key, BPF_MAP_TYPE_ARRAY, __u32, struct probe_key, 1, 0);

/* What is authenticated, word by word. */
enum probe_words {
	WORD_KIND,        /* magic, kind and padding */
	WORD_NONCE,
	WORD_SOURCE,      /* two words */
	WORD_DESTINATION = WORD_SOURCE + 2,
	WORD_PORTS = WORD_DESTINATION + 2, /* source, destination, zero */
	WORD_LENGTH,      /* SipHash's last: how many bytes, in the top one */
	PROBE_WORDS,
};

enum {
	PROBE_SIZE = sizeof(struct probe),
	PROBE_LENGTH_SHIFT = 56,
	SIP_LAST_ROUNDS = 4,
};

struct sip {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 rotate(__u64 word, int by)
{
	return word << by | word >> (64 - by);
}

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

static __always_inline __u64 sip_hash(const struct probe_key *key,
				      const __u64 *words)
{
	struct sip s = {
		.v0 = key->half[0] ^ 0x736f6d6570736575ull,
		.v1 = key->half[1] ^ 0x646f72616e646f6dull,
		.v2 = key->half[0] ^ 0x6c7967656e657261ull,
		.v3 = key->half[1] ^ 0x7465646279746573ull,
	};
	int i;

	for (i = 0; i < PROBE_WORDS; i++) {
		s.v3 ^= words[i];
		sip_round(&s);
		sip_round(&s);
		s.v0 ^= words[i];
	}
	s.v2 ^= 0xff;
	for (i = 0; i < SIP_LAST_ROUNDS; i++)
		sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* The MAC of a probe that goes from one end to the other. */
static __noinline __u64 probe_mac(const struct probe_key *key,
				  const struct probe *probe,
				  const struct endpoint *from,
				  const struct endpoint *to)
{
	__u64 words[PROBE_WORDS] = {};

	__builtin_memcpy(&words[WORD_KIND], probe, sizeof(words[0]));
	words[WORD_NONCE] = probe->nonce;
	__builtin_memcpy(&words[WORD_SOURCE], &from->addr, sizeof(from->addr));
	__builtin_memcpy(&words[WORD_DESTINATION], &to->addr, sizeof(to->addr));
	words[WORD_PORTS] = from->port | (__u32)to->port << 16;
	words[WORD_LENGTH] = (__u64)(WORD_LENGTH * sizeof(words[0]))
			     << PROBE_LENGTH_SHIFT;
	return sip_hash(key, words);
}

/* Whether the packet is a probe of this node; what else comes to that port is
 * the agent's. */
static __always_inline bool is_probe(struct xdp_md *ctx,
				     const struct arrival *arrival)
{
	const struct header *header = &arrival->packet.outer;
	__be32 *magic;

	if (header->destination.port != bpf_htons(PROBE_PORT) ||
	    header->protocol != PROTOCOL_UDP || arrival->tunnel ||
	    header->fragment != FRAGMENT_NONE)
		return false;
	magic = packet_at(begin_of(ctx), end_of(ctx),
			  header->l4 + sizeof(struct udphdr), sizeof(*magic));
	return magic && *magic == bpf_htonl(PROBE_MAGIC) &&
	       address_flags(&header->destination.addr) & ADDRESS_OWN;
}

/* Sends the packet back to where it came from. The sums of addresses and ports
 * stay what they were. */
static __always_inline bool turn_around(struct xdp_md *ctx,
					const struct header *header)
{
	void *data = begin_of(ctx), *data_end = end_of(ctx);
	struct ethhdr *ethernet = packet_at(data, data_end, 0, sizeof(*ethernet));
	struct udphdr *udp = packet_at(data, data_end, header->l4, sizeof(*udp));
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__u8 mac[ETH_ALEN];

	if (!ethernet || !udp)
		return false;
	__builtin_memcpy(mac, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, mac, ETH_ALEN);
	udp->source = header->destination.port;
	udp->dest = header->source.port;
	if (header->family == FAMILY_IPV4) {
		ip4 = packet_at(data, data_end, header->l3, sizeof(*ip4));
		if (!ip4)
			return false;
		ip4->saddr = header->destination.addr.word[3];
		ip4->daddr = header->source.addr.word[3];
		return true;
	}
	ip6 = packet_at(data, data_end, header->l3, sizeof(*ip6));
	if (!ip6)
		return false;
	__builtin_memcpy(&ip6->saddr, &header->destination.addr,
			 sizeof(ip6->saddr));
	__builtin_memcpy(&ip6->daddr, &header->source.addr, sizeof(ip6->daddr));
	return true;
}

/* Makes the answer of the probe in the packet, and its checksum right. */
static __always_inline bool write_answer(struct xdp_md *ctx,
					 const struct header *header,
					 const struct probe *answer)
{
	struct udphdr *udp = packet_at(begin_of(ctx), end_of(ctx), header->l4,
				       sizeof(*udp) + sizeof(*answer));
	__u32 from[PROBE_SIZE / 4], to[PROBE_SIZE / 4];
	__u64 change = 0;
	int i;

	if (!udp)
		return false;
	__builtin_memcpy(from, udp + 1, sizeof(from));
	__builtin_memcpy(to, answer, sizeof(to));
	for (i = 0; i < PROBE_SIZE / 4; i++)
		change = change32(change, from[i], to[i]);
	__builtin_memcpy(udp + 1, to, sizeof(to));
	apply_udp_change(&udp->check, change);
	return true;
}

__noinline int reflect_probe(struct xdp_md *ctx, struct arrival *arrival)
{
	struct header *header;
	struct probe_key *key;
	struct probe probe, *at;
	__u32 zero = 0;

	if (!arrival)
		return XDP_ABORTED;
	header = &arrival->packet.outer;
	key = bpf_map_lookup_elem(&skep_probe_key, &zero);
	if (!key || key->port != PROBE_PORT)
		return leave(UPLINK_PROBE_NO_KEY, XDP_DROP);
	if (!(address_flags(&header->source.addr) & ADDRESS_PEER))
		return leave(UPLINK_PROBE_FOREIGN, XDP_DROP);
	at = packet_at(begin_of(ctx), end_of(ctx),
		       header->l4 + sizeof(struct udphdr), sizeof(*at));
	if (!at ||
	    header->end != header->l4 + sizeof(struct udphdr) + sizeof(*at))
		return leave(UPLINK_PROBE_FORGED, XDP_DROP);
	probe = *at;
	/* A probe from the port itself could go back and forth for ever. */
	if (probe.kind != PROBE_REQUEST ||
	    header->source.port == bpf_htons(PROBE_PORT) ||
	    probe.mac != probe_mac(key, &probe, &header->source,
				   &header->destination))
		return leave(UPLINK_PROBE_FORGED, XDP_DROP);
	probe.kind = PROBE_ANSWER;
	probe.mac = probe_mac(key, &probe, &header->destination,
			      &header->source);
	if (!write_answer(ctx, header, &probe) || !turn_around(ctx, header))
		return leave(UPLINK_NO_ROOM, XDP_DROP);
	return leave(UPLINK_PROBE_ANSWERED, XDP_TX);
}

#endif

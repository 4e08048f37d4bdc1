/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_FRAGMENT_H
#define SKEP_FRAGMENT_H

/* Only the first fragment of a packet has its ports: they are noted, and the
 * others follow. */

enum {
	CAPACITY_FRAGMENTS = 8192,
	FRAGMENT_SECONDS = 30, /* as long as the kernel waits to reassemble one */
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};

struct fragment_ports {
	__be16 source;
	__be16 destination;
	__u32 pad;
	__u64 seen; /* bpf_ktime_get_coarse_ns */
};

SKEP_MAP(skep_fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key,
	 struct fragment_ports, CAPACITY_FRAGMENTS, 0);

static __always_inline void fragment_key(struct fragment_key *key,
					 const struct header *header)
{
	key->source = header->source.addr;
	key->destination = header->destination.addr;
	key->id = header->fragment_id;
	key->protocol = header->protocol;
}

__noinline int note_fragment(const struct header *header, __u64 now)
{
	struct fragment_ports ports = {};
	struct fragment_key key;

	if (!header)
		return 0;
	ports.source = header->source.port;
	ports.destination = header->destination.port;
	ports.seen = now;
	fragment_key(&key, header);
	bpf_map_update_elem(&skep_fragments, &key, &ports, BPF_ANY);
	uplink_count(UPLINK_EVENT_FRAGMENT_NOTED);
	return 0;
}

/* Gives a later fragment its ports; 0: they are not known. */
__noinline int follow_fragment(struct header *header, __u64 now)
{
	struct fragment_ports *ports;
	struct fragment_key key;

	if (!header)
		return 0;
	fragment_key(&key, header);
	ports = bpf_map_lookup_elem(&skep_fragments, &key);
	if (!ports || (__s64)(now - ports->seen) >
			      (__s64)FRAGMENT_SECONDS * NANOSECONDS)
		return 0;
	header->source.port = ports->source;
	header->destination.port = ports->destination;
	return 1;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_MAPS_H
#define SKEP_MAPS_H

#define SKEP_MAP(map_name, map_type, key_type, value_type, entries, flag_bits) \
	struct {                                                               \
		__uint(type, map_type);                                        \
		__type(key, key_type);                                         \
		__type(value, value_type);                                     \
		__uint(max_entries, entries);                                  \
		__uint(map_flags, flag_bits);                                  \
	} map_name SEC(".maps")

/* Go writes the next four through memory that it shares with programs; being
 * mappable also aligns their elements to cache lines. */
/* Frontends and the services that they lead to, an open-addressed table. */
SKEP_MAP(skep_frontends, BPF_MAP_TYPE_ARRAY, __u32, struct frontend_line,
	 CAPACITY_FRONTENDS, BPF_F_MMAPABLE);
SKEP_MAP(skep_services, BPF_MAP_TYPE_ARRAY, __u32, struct service,
	 CAPACITY_SERVICES, BPF_F_MMAPABLE);
SKEP_MAP(skep_slots, BPF_MAP_TYPE_ARRAY, __u32, struct slot_line,
	 CAPACITY_SLOT_LINES, BPF_F_MMAPABLE);
SKEP_MAP(skep_backends, BPF_MAP_TYPE_ARRAY, __u32, struct backend,
	 CAPACITY_BACKENDS, BPF_F_MMAPABLE);
SKEP_MAP(skep_nodes, BPF_MAP_TYPE_ARRAY, __u32, struct node, CAPACITY_NODES, 0);
/* service id -> the frontend that stands for it when a peer is derived */
SKEP_MAP(skep_primaries, BPF_MAP_TYPE_ARRAY, __u32, struct endpoint,
	 CAPACITY_SERVICES, 0);
/* backend endpoint -> backend id */
SKEP_MAP(skep_reverse, BPF_MAP_TYPE_HASH, struct endpoint, __u32,
	 CAPACITY_BACKENDS, BPF_F_NO_PREALLOC);
/* The exceptions to what can be derived; gone with its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct socket_state);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} skep_sockets SEC(".maps");
SKEP_MAP(skep_datagrams, BPF_MAP_TYPE_LRU_HASH, struct datagram_key,
	 struct endpoint, CAPACITY_DATAGRAMS, 0);
SKEP_MAP(skep_affinity, BPF_MAP_TYPE_LRU_HASH, struct affinity_key,
	 struct affinity, CAPACITY_AFFINITY, 0);
SKEP_MAP(skep_counters, BPF_MAP_TYPE_PERCPU_ARRAY, enum counter, __u64,
	 COUNTER_COUNT, 0);
/* addresses of this node and of others -> enum address_flags */
SKEP_MAP(skep_addresses, BPF_MAP_TYPE_HASH, struct address, enum address_flags,
	 CAPACITY_ADDRESSES, BPF_F_NO_PREALLOC);
/* source ranges of services: who may use their restricted frontends */
SKEP_MAP(skep_sources, BPF_MAP_TYPE_LPM_TRIE, struct source_key, __u32,
	 CAPACITY_SOURCES, BPF_F_NO_PREALLOC);
SKEP_MAP(skep_config, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1, 0);
/* names, for whoever reads the maps: no program does */
SKEP_MAP(skep_names, BPF_MAP_TYPE_HASH, struct name_key, struct name,
	 CAPACITY_NAMES, BPF_F_NO_PREALLOC);
SKEP_MAP(skep_layout, BPF_MAP_TYPE_ARRAY, __u32, struct layout, 1, 0);

static __always_inline void count(enum counter reason)
{
	__u64 *counter = bpf_map_lookup_elem(&skep_counters, &reason);

	if (counter)
		*counter += 1;
}

#endif

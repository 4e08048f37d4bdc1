/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_FRONTEND_H
#define SKEP_FRONTEND_H

/* Which service an endpoint belongs to. */

static __always_inline bool same_endpoint(const struct endpoint *a,
					  const struct endpoint *b)
{
	return a->addr.word[3] == b->addr.word[3] && a->port == b->port &&
	       a->protocol == b->protocol && a->scope == b->scope &&
	       a->addr.word[2] == b->addr.word[2] &&
	       a->addr.word[1] == b->addr.word[1] &&
	       a->addr.word[0] == b->addr.word[0];
}

/* What a lookup found. */
struct frontend {
	struct service *record;
	__u32 service; /* id */
	enum frontend_flags flags;
	enum service_flags service_flags;
	__u32 affinity_seconds;
};

/* Where an endpoint has its place; Go computes the same. The low half leads to
 * its line in skep_frontends, the high half to the home of a service whose
 * primary frontend it is, and is the check of its key. */
static __always_inline __u64 endpoint_hash(const struct frontend_hash *with,
					   const struct endpoint *key)
{
	__u64 hash = with->factor[5];

	hash += key->addr.word[0] * with->factor[0];
	hash += key->addr.word[1] * with->factor[1];
	hash += key->addr.word[2] * with->factor[2];
	hash += key->addr.word[3] * with->factor[3];
	hash += (key->port | key->protocol << 16 | (__u32)key->scope << 24) *
		with->factor[4];
	hash ^= hash >> 32;
	hash *= with->factor[6];
	return hash ^ hash >> 32;
}

static __always_inline const struct frontend_hash *frontend_hash(void)
{
	struct layout *layout;
	__u32 zero = 0;

	layout = bpf_map_lookup_elem(&skep_layout, &zero);
	return layout ? &layout->hash : 0;
}

/* Brings a record's line into the cache, beside others that are on their way. */
static __always_inline void touch(const void *record)
{
	if (record)
		(void)*(volatile __u64 *)record;
}

/* A service is placed, if there is room, where the hash of its primary frontend
 * says, and its first backends next to each other where its id says. So all that
 * a connection needs can be fetched at once, before it is known to be that; where
 * it is not, only time is lost. */
static __always_inline void touch_home(__u32 service)
{
	__u32 i, id;

	touch(bpf_map_lookup_elem(&skep_services, &service));
	for (i = 0; i < HOME_BACKENDS; i++) {
		id = service * HOME_BACKENDS + i;
		touch(bpf_map_lookup_elem(&skep_backends, &id));
	}
}

/* The entry of exactly this endpoint, or 0. A cell that was never used ends the
 * search: an entry is stored in the first place that is free for it. */
static __always_inline __u64 find_entry(const struct endpoint *asked, __u64 hash,
					__u32 line_mask)
{
	__u32 check = hash >> 32;
	__u32 i, j, index;

	for (i = 0; i < FRONTEND_PROBES; i++) {
		struct frontend_line *line;

		index = ((__u32)hash + i) & line_mask;
		line = bpf_map_lookup_elem(&skep_frontends, &index);
		if (!line)
			return 0;
		for (j = 0; j < FRONTENDS_EACH; j++) {
			struct frontend_cell *cell = &line->cell[j];
			__u64 entry = *(volatile __u64 *)&cell->entry;

			if (!entry)
				return 0;
			if ((__u32)entry == check &&
			    entry >> ENTRY_FLAGS_SHIFT & FRONTEND_LIVE &&
			    same_endpoint(&cell->key, asked))
				return entry;
		}
	}
	return 0;
}

/* What an entry leads to, or false with *reason set. touched: the home that was
 * fetched already. */
static __always_inline bool read_entry(__u64 entry, __u32 touched,
				       struct frontend *frontend,
				       enum counter *reason)
{
	struct service *service;

	*reason = REASON_BACKEND_MISSING;
	frontend->service = (entry >> ENTRY_ID_SHIFT) & ENTRY_ID_MASK;
	frontend->flags = entry >> ENTRY_FLAGS_SHIFT & FRONTEND_KNOWN;
	if (frontend->service != touched)
		touch_home(frontend->service);
	service = bpf_map_lookup_elem(&skep_services, &frontend->service);
	if (!service)
		return false;
	frontend->record = service;
	frontend->service_flags = service->flags;
	frontend->affinity_seconds = service->affinity_seconds;
	return true;
}

static __always_inline bool is_mapped(const struct address *addr)
{
	return !addr->word[0] && !addr->word[1] &&
	       addr->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_unspecified(const struct address *addr)
{
	return !addr->word[3] && !addr->word[0] && !addr->word[1] &&
	       (!addr->word[2] || addr->word[2] == bpf_htonl(0xffff));
}

static __always_inline __u32 address_flags(const struct address *addr)
{
	/* A copy, as of all keys that may be arguments of a global function: the
	 * kernel accepts such arguments as keys since 6.2 only. */
	struct address key = *addr;
	enum address_flags *flags = bpf_map_lookup_elem(&skep_addresses, &key);

	return flags ? *flags : 0;
}

/* The entry of the same port at every address of a node, or 0. A function of its
 * own, for its stack: callers have little left. */
static __noinline __u64
entry_at_any_address(const struct frontend_hash *with,
		     const struct endpoint *asked)
{
	struct endpoint any = *asked;

	any.addr.word[3] = 0;
	if (!is_mapped(&asked->addr)) {
		any.addr.word[0] = 0;
		any.addr.word[1] = 0;
		any.addr.word[2] = 0;
	}
	return find_entry(&any, endpoint_hash(with, &any), with->line_mask);
}

/* The frontend of an endpoint: its own, or that of the same port at every
 * address of this node (node ports, host ports), if the address is this node's.
 * own: the caller knows that it is. Few ports are node ports, so that the
 * address is looked up last. */
static __always_inline bool
find_service_frontend(const struct endpoint *asked, bool own,
		      struct frontend *frontend, enum counter *reason)
{
	const struct frontend_hash *with = frontend_hash();
	__u64 hash, entry = 0;
	__u32 home = ~0;

	*reason = REASON_NO_SERVICE;
	if (!with)
		return false;
	if (!is_unspecified(&asked->addr)) {
		hash = endpoint_hash(with, asked);
		home = (hash >> 32) * with->services >> 32;
		touch_home(home);
		entry = find_entry(asked, hash, with->line_mask);
	} else if (!own) {
		return false;
	}
	if (!entry) {
		entry = entry_at_any_address(with, asked);
		if (!entry ||
		    (!own && !(address_flags(&asked->addr) & ADDRESS_OWN)))
			return false;
	}
	return read_entry(entry, home, frontend, reason);
}

#endif

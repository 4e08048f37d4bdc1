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

/* Differs for certain between two keys that differ in one word. Go computes
 * the same. */
static __always_inline __u32 endpoint_check(const struct endpoint *key)
{
	const __u32 factor = 0x9e3779b1;
	__u32 check = key->addr.word[0];

	check = check * factor + key->addr.word[1];
	check = check * factor + key->addr.word[2];
	check = check * factor + key->addr.word[3];
	return check * factor +
	       (key->port | key->protocol << 16 | (__u32)key->scope << 24);
}

/* The frontend of exactly this endpoint, or false with *reason set. A check
 * that does not fit means that the hash element was recycled between lookup and
 * read; the next lookup sees what replaced it. */
static __always_inline bool find_frontend(const struct endpoint *asked,
					  struct frontend *frontend,
					  enum counter *reason)
{
	__u32 check = endpoint_check(asked);
	int i;

	for (i = 0; i < FRONTEND_LOOKUPS; i++) {
		__u64 *value = bpf_map_lookup_elem(&skep_frontends, asked);
		struct service *service;
		__u64 entry;

		if (!value) {
			*reason = REASON_NO_SERVICE;
			return false;
		}
		entry = *(volatile __u64 *)value;
		if ((__u32)entry != check)
			continue;
		frontend->service = (entry >> ENTRY_ID_SHIFT) & ENTRY_ID_MASK;
		frontend->flags = entry >> ENTRY_FLAGS_SHIFT;
		service = bpf_map_lookup_elem(&skep_services,
					      &frontend->service);
		if (!service)
			break;
		frontend->record = service;
		frontend->service_flags = service->flags;
		frontend->affinity_seconds = service->affinity_seconds;
		return true;
	}
	*reason = REASON_FRONTEND_STALE;
	return false;
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
	/* A copy, as of all keys that may be arguments of a global function: as
	 * such the kernel takes them since 6.2 only. */
	struct address key = *addr;
	enum address_flags *flags = bpf_map_lookup_elem(&skep_addresses, &key);

	return flags ? *flags : 0;
}

/* The frontend of an endpoint: its own, or that of the same port at every
 * address of this node (node ports, host ports), if the address is this node's.
 * own: the caller knows that it is. */
static __always_inline bool
find_service_frontend(const struct endpoint *asked, bool own,
		      struct frontend *frontend, enum counter *reason)
{
	struct endpoint any = *asked;

	if (is_unspecified(&asked->addr)) {
		if (!own) {
			*reason = REASON_NO_SERVICE;
			return false;
		}
	} else if (find_frontend(&any, frontend, reason)) {
		return true;
	} else if (*reason != REASON_NO_SERVICE ||
		   (!own && !(address_flags(&asked->addr) & ADDRESS_OWN))) {
		return false;
	}
	any.addr.word[3] = 0;
	if (!is_mapped(&asked->addr)) {
		any.addr.word[0] = 0;
		any.addr.word[1] = 0;
		any.addr.word[2] = 0;
	}
	return find_frontend(&any, frontend, reason);
}

#endif

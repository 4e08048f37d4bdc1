/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_ORIGIN_H
#define SKEP_ORIGIN_H

/* What a connected socket asked for is derived: its peer is a backend, the
 * backend has one service, the service has one frontend. Exceptions are
 * remembered here, by socket and peer:
 *   - the peer is reachable through several frontends (BACKEND_SHARED),
 *   - the socket asked for the backend's own address,
 *   - the socket is unconnected (sendmsg): it may also receive from backends
 *     that it never sent to through a service, so nothing can be derived. */

static __always_inline struct origin *
origin_entry(__u64 socket, const struct endpoint *peer)
{
	__u32 index = (__u32)socket + peer->addr.word[3] * 0x9e3779b1u +
		      peer->port * 0x85ebca6bu;

	index &= CAPACITY_ORIGINS - 1;
	return bpf_map_lookup_elem(&skep_origins, &index);
}

/* Empties the entry while it is written: a reader in between finds no match. */
static __always_inline void store_origin(struct bpf_sock_addr *ctx,
					 const struct endpoint *peer,
					 const struct endpoint *asked)
{
	__u64 socket = bpf_get_socket_cookie(ctx);
	struct origin *origin = origin_entry(socket, peer);

	if (!origin)
		return;
	*(volatile __u64 *)&origin->socket = 0;
	origin->peer = *peer;
	origin->asked = *asked;
	barrier();
	*(volatile __u64 *)&origin->socket = socket;
	count(EVENT_ORIGIN_STORED);
}

static __always_inline void forget_origin(struct bpf_sock_addr *ctx,
					  const struct endpoint *peer)
{
	__u64 socket = bpf_get_socket_cookie(ctx);
	struct origin *origin = origin_entry(socket, peer);

	if (origin && origin->socket == socket &&
	    same_endpoint(&origin->peer, peer))
		*(volatile __u64 *)&origin->socket = 0;
}

static __always_inline bool load_origin(struct bpf_sock_addr *ctx,
					const struct endpoint *peer,
					struct endpoint *asked)
{
	__u64 socket = bpf_get_socket_cookie(ctx);
	struct origin *origin = origin_entry(socket, peer);

	if (!origin || *(volatile __u64 *)&origin->socket != socket ||
	    !same_endpoint(&origin->peer, peer))
		return false;
	*asked = origin->asked;
	barrier();
	return *(volatile __u64 *)&origin->socket == socket;
}

static __always_inline struct backend *find_backend(const struct endpoint *peer)
{
	__u32 *id = bpf_map_lookup_elem(&skep_reverse, peer);
	struct backend *backend;
	__u32 index;

	if (!id)
		return NULL;
	index = *(volatile __u32 *)id;
	backend = bpf_map_lookup_elem(&skep_backends, &index);
	if (!backend || !same_endpoint(&backend->key, peer))
		return NULL;
	return backend;
}

/* Replaces *peer by what the socket asked for; false: by nothing. */
static __always_inline bool reverse_peer(struct bpf_sock_addr *ctx,
					 struct endpoint *peer, bool connected)
{
	struct endpoint asked, *primary;
	struct backend *backend;
	__u32 service;

	if (load_origin(ctx, peer, &asked)) {
		bool changed = !same_endpoint(&asked, peer);

		*peer = asked;
		return changed;
	}
	if (!connected)
		return false;
	backend = find_backend(peer);
	if (!backend || (backend->flags & BACKEND_SHARED))
		return false;
	service = backend->service;
	primary = bpf_map_lookup_elem(&skep_primaries, &service);
	if (!primary || !primary->port)
		return false;
	*peer = *primary;
	return true;
}

#endif

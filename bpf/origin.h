/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_ORIGIN_H
#define SKEP_ORIGIN_H

/* What a connected socket asked for is derived: its peer is a backend,
 * skep_reverse names one backend for that address, and its service has a
 * primary frontend. Whoever asked for exactly that needs no memory. Exceptions
 * are remembered:
 *   - in skep_sockets, until the socket is closed: it asked for another frontend
 *     (a node port), for another service that has the same backend, or for the
 *     backend's own address; with least connections, also whom it counts for.
 *     When the service that is derived loses the backend and others have it,
 *     nothing is derived any more, and whoever has no memory asked for the first;
 *   - in skep_datagrams: an unconnected socket (sendmsg). It may also receive
 *     from backends that it never sent to through a service, so that nothing can
 *     be derived. */

static __always_inline struct socket_state *
socket_state(struct bpf_sock_addr *ctx, bool create)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return NULL;
	return bpf_sk_storage_get(&skep_sockets, sk, 0,
				  create ? BPF_SK_STORAGE_GET_F_CREATE : 0);
}

/* The socket is no longer one of its backend's. */
static __always_inline void uncount_socket(struct socket_state *state)
{
	struct backend *backend;
	__u32 id = state->backend;
	__u32 serial = state->serial;

	if (!serial)
		return;
	state->serial = 0;
	backend = bpf_map_lookup_elem(&skep_backends, &id);
	if (backend && backend->serial == serial)
		__sync_fetch_and_add(&backend->active, -1);
}

static __always_inline void count_socket(struct socket_state *state,
					 __u32 id, __u32 serial)
{
	struct backend *backend = bpf_map_lookup_elem(&skep_backends, &id);

	if (!backend || backend->serial != serial)
		return;
	state->backend = id;
	state->serial = serial;
	__sync_fetch_and_add(&backend->active, 1);
}

/* Has no port while it is written: a reader in between finds no match. */
static __always_inline void store_origin(struct socket_state *state,
					 const struct endpoint *peer,
					 const struct endpoint *asked)
{
	*(volatile __u16 *)&state->peer.port = 0;
	state->asked = *asked;
	state->peer.addr = peer->addr;
	state->peer.protocol = peer->protocol;
	state->peer.scope = peer->scope;
	barrier();
	*(volatile __u16 *)&state->peer.port = peer->port;
	count(EVENT_ORIGIN_STORED);
}

static __always_inline void forget_origin(struct socket_state *state)
{
	*(volatile __u16 *)&state->peer.port = 0;
}

static __always_inline void name_datagram(struct bpf_sock_addr *ctx,
					  const struct endpoint *peer,
					  struct datagram_key *key)
{
	key->socket = bpf_get_socket_cookie(ctx);
	key->peer = *peer;
	key->pad = 0;
}

/* Written once for each socket and peer, as long as it is read now and then. */
static __always_inline void store_datagram(struct bpf_sock_addr *ctx,
					   const struct endpoint *peer,
					   const struct endpoint *asked)
{
	struct datagram_key key;
	struct endpoint *known;

	name_datagram(ctx, peer, &key);
	known = bpf_map_lookup_elem(&skep_datagrams, &key);
	if (known && same_endpoint(known, asked))
		return;
	if (bpf_map_update_elem(&skep_datagrams, &key, asked, BPF_ANY))
		count(EVENT_ORIGIN_LOST);
	else
		count(EVENT_ORIGIN_STORED);
}

static __always_inline void forget_datagram(struct bpf_sock_addr *ctx,
					    const struct endpoint *peer)
{
	struct datagram_key key;

	name_datagram(ctx, peer, &key);
	bpf_map_delete_elem(&skep_datagrams, &key);
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

/* Replaces *peer by what a connected socket asked for; false: by nothing. */
static __always_inline bool reverse_connected(struct bpf_sock_addr *ctx,
					      struct endpoint *peer)
{
	struct socket_state *state = socket_state(ctx, false);
	struct endpoint *primary;
	struct backend *backend;
	__u32 service;

	if (state && same_endpoint(&state->peer, peer)) {
		if (same_endpoint(&state->asked, peer))
			return false;
		*peer = state->asked;
		return true;
	}
	backend = find_backend(peer);
	if (!backend || !(backend->flags & BACKEND_DERIVED))
		return false;
	service = backend->service;
	primary = bpf_map_lookup_elem(&skep_primaries, &service);
	if (!primary || !primary->port)
		return false;
	*peer = *primary;
	return true;
}

/* The same for a datagram that an unconnected socket received. */
static __always_inline bool reverse_datagram(struct bpf_sock_addr *ctx,
					     struct endpoint *peer)
{
	struct datagram_key key;
	struct endpoint *asked;

	name_datagram(ctx, peer, &key);
	asked = bpf_map_lookup_elem(&skep_datagrams, &key);
	if (!asked)
		return false;
	*peer = *asked;
	return true;
}

#endif

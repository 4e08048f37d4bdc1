// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* Entry point 1: socket calls of a cgroup. A connection to a service address
 * becomes a connection to a backend before a packet exists. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "constants.h"
#include "structs.h"
#include "maps.h"
#include "selection.h"
#include "origin.h"
#include "belong.h"
#include "events.h"
#include "failure.h"

enum {
	ALLOW = 1,
	DENY = 0,
	SOCKET_CONNECTED = 1, /* TCP_ESTABLISHED, also of a connected UDP socket */
	SOCKET_CONNECTING = 2, /* TCP_SYN_SENT */
	SOCKET_IPV6 = 10,
};

/* Loopback, and "any address", which connect treats as loopback. */
static __always_inline bool is_loopback(const struct address *addr)
{
	if (is_unspecified(addr))
		return true;
	if (is_mapped(addr))
		return (addr->word[3] & bpf_htonl(0xff000000)) ==
		       bpf_htonl(0x7f000000);
	return !addr->word[0] && !addr->word[1] && !addr->word[2] &&
	       addr->word[3] == bpf_htonl(1);
}

/* Whether an address is this node's because it is the host's loopback. */
static __always_inline bool is_host_loopback(struct bpf_sock_addr *ctx,
					     const struct address *addr)
{
	struct config *config;
	__u32 zero = 0;

	if (!is_loopback(addr))
		return false;
	config = bpf_map_lookup_elem(&skep_config, &zero);
	return config && config->host_netns == bpf_get_netns_cookie(ctx);
}

/* The address that the call names; false: not ours to translate. SCTP is not:
 * its connect passes no hook (sctp_inet_connect has none), packets are translated
 * instead, and so its sockets know the service's address by themselves. */
static __always_inline bool read_endpoint(struct bpf_sock_addr *ctx, bool ip6,
					  struct endpoint *endpoint)
{
	__u32 protocol = ctx->protocol;

	if (protocol == PROTOCOL_MPTCP)
		protocol = PROTOCOL_TCP;
	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)
		return false;
	if (ip6) {
		endpoint->addr.word[0] = ctx->user_ip6[0];
		endpoint->addr.word[1] = ctx->user_ip6[1];
		endpoint->addr.word[2] = ctx->user_ip6[2];
		endpoint->addr.word[3] = ctx->user_ip6[3];
	} else {
		endpoint->addr.word[0] = 0;
		endpoint->addr.word[1] = 0;
		endpoint->addr.word[2] = bpf_htonl(0xffff);
		endpoint->addr.word[3] = ctx->user_ip4;
	}
	endpoint->port = ctx->user_port;
	endpoint->protocol = protocol;
	endpoint->scope = SCOPE_CLUSTER;
	return true;
}

static __always_inline void write_endpoint(struct bpf_sock_addr *ctx, bool ip6,
					   const struct endpoint *endpoint)
{
	if (ip6) {
		ctx->user_ip6[0] = endpoint->addr.word[0];
		ctx->user_ip6[1] = endpoint->addr.word[1];
		ctx->user_ip6[2] = endpoint->addr.word[2];
		ctx->user_ip6[3] = endpoint->addr.word[3];
	} else {
		ctx->user_ip4 = endpoint->addr.word[3];
	}
	ctx->user_port = endpoint->port;
}

static __always_inline int refused(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return DENY;
}

/* A socket that asks for a backend itself must not see later that it
 * asked for the service. */
static __always_inline void note_direct(struct bpf_sock_addr *ctx,
					const struct endpoint *asked,
					bool connects)
{
	bool backend = find_backend(asked);
	struct socket_state *state;

	if (!connects) {
		if (backend)
			forget_datagram(ctx, asked);
		return;
	}
	state = socket_state(ctx, backend);
	if (!state) {
		if (backend)
			count(EVENT_ORIGIN_LOST);
		return;
	}
	uncount_socket(state);
	if (backend)
		store_origin(state, asked, asked);
	else
		forget_origin(state);
}

static __always_inline void note_translated(struct bpf_sock_addr *ctx,
					    const struct frontend *frontend,
					    const struct selection *selection,
					    bool connects)
{
	bool derived = (frontend->flags & FRONTEND_PRIMARY) &&
		       (selection->backend_flags & BACKEND_DERIVED);
	bool counted = (frontend->service_flags & SELECT_MASK) ==
		       SELECT_LEAST_CONNECTIONS;
	struct socket_state *state;

	if (!connects) {
		store_datagram(ctx, &selection->peer, &selection->asked);
		return;
	}
	state = socket_state(ctx, !derived || counted);
	if (!state) {
		if (!derived || counted)
			count(EVENT_ORIGIN_LOST);
		return;
	}
	uncount_socket(state);
	if (counted)
		count_socket(state, selection->backend, selection->serial);
	if (derived)
		forget_origin(state);
	else
		store_origin(state, &selection->peer, &selection->asked);
}

static __always_inline void name_client(struct bpf_sock_addr *ctx,
					struct address *client)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);

	client->word[0] = cookie;
	client->word[1] = cookie >> 32;
}

static __always_inline void record_process(struct event *event)
{
	event->process = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->command, sizeof(event->command));
}

static __noinline void report_refused(enum event_kind kind, __u32 service,
				    const struct endpoint *asked)
{
	struct event *event = begin_event(kind, service);

	if (!event)
		return;
	event->asked = *asked;
	record_process(event);
	bpf_ringbuf_submit(event, 0);
}

/* connect and sendmsg. */
static __always_inline int forward(struct bpf_sock_addr *ctx, bool ip6,
				   bool connects)
{
	struct selection selection = {};
	struct frontend frontend = {};
	bool own;

	if (!read_endpoint(ctx, ip6, &selection.asked)) {
		count(REASON_OTHER_PROTOCOL);
		return ALLOW;
	}
	own = is_host_loopback(ctx, &selection.asked.addr);
	if (!own && is_loopback(&selection.asked.addr)) {
		/* A pod's own, whatever the host's leads to. */
		selection.reason = REASON_NO_SERVICE;
	} else if (find_service_frontend(&selection.asked, own, &frontend,
					 &selection.reason)) {
		if (frontend.affinity_seconds)
			name_client(ctx, &selection.client);
		/* There is no flow yet, and so no hash of it. */
		if ((frontend.service_flags & SELECT_MASK) == SELECT_MAGLEV)
			selection.hash = bpf_get_prandom_u32();
		select_backend(&frontend, &selection);
	}
	if (!ip6 && selection.reason == REASON_TRANSLATED &&
	    !is_mapped(&selection.peer.addr))
		selection.reason = REASON_FAMILY_MISMATCH;
	count(selection.reason);
	if (selection.reason == REASON_NO_SERVICE) {
		note_direct(ctx, &selection.asked, connects);
		return ALLOW;
	}
	if (selection.reason != REASON_TRANSLATED) {
		enum event_kind kind = kind_of(selection.reason);

		if (kind != FAILURE_COUNT)
			report_refused(kind, selection.service, &selection.asked);
		return refused();
	}
	note_translated(ctx, &frontend, &selection, connects);
	write_endpoint(ctx, ip6, &selection.peer);
	return ALLOW;
}

/* getpeername and recvmsg. */
static __always_inline int reverse(struct bpf_sock_addr *ctx, bool ip6,
				   bool connected)
{
	struct endpoint peer = {};

	if (!read_endpoint(ctx, ip6, &peer)) {
		count(REASON_OTHER_PROTOCOL);
		return ALLOW;
	}
	if (connected ? !reverse_connected(ctx, &peer) :
			!reverse_datagram(ctx, &peer)) {
		count(REASON_NOT_REVERSED);
		return ALLOW;
	}
	count(REASON_REVERSED);
	write_endpoint(ctx, ip6, &peer);
	return ALLOW;
}

static __always_inline bool socket_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->state == SOCKET_CONNECTED;
}

SEC("cgroup/connect4")
int skep_connect4(struct bpf_sock_addr *ctx)
{
	return forward(ctx, false, true);
}

SEC("cgroup/connect6")
int skep_connect6(struct bpf_sock_addr *ctx)
{
	return forward(ctx, true, true);
}

SEC("cgroup/sendmsg4")
int skep_sendmsg4(struct bpf_sock_addr *ctx)
{
	return forward(ctx, false, false);
}

SEC("cgroup/sendmsg6")
int skep_sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward(ctx, true, false);
}

SEC("cgroup/recvmsg4")
int skep_recvmsg4(struct bpf_sock_addr *ctx)
{
	return reverse(ctx, false, socket_connected(ctx));
}

SEC("cgroup/recvmsg6")
int skep_recvmsg6(struct bpf_sock_addr *ctx)
{
	return reverse(ctx, true, socket_connected(ctx));
}

SEC("cgroup/getpeername4")
int skep_getpeername4(struct bpf_sock_addr *ctx)
{
	return reverse(ctx, false, true);
}

SEC("cgroup/getpeername6")
int skep_getpeername6(struct bpf_sock_addr *ctx)
{
	return reverse(ctx, true, true);
}

/* The owner gave up before the backend answered. Errors that the kernel reports
 * to a socket are counted where it does. */
static __always_inline void note_unanswered(struct bpf_sock *ctx,
					    const struct socket_state *state)
{
	struct endpoint peer = { .protocol = PROTOCOL_TCP };
	struct backend *backend;

	if (ctx->family == SOCKET_IPV6) {
		peer.addr.word[0] = ctx->dst_ip6[0];
		peer.addr.word[1] = ctx->dst_ip6[1];
		peer.addr.word[2] = ctx->dst_ip6[2];
		peer.addr.word[3] = ctx->dst_ip6[3];
	} else {
		peer.addr.word[2] = bpf_htonl(0xffff);
		peer.addr.word[3] = ctx->dst_ip4;
		/* Else the compiler makes one load of the two, at an address
		 * that it computes, which the verifier refuses. */
		barrier();
	}
	peer.port = ctx->dst_port;
	backend = named_backend(&peer);
	if (backend)
		count_failed(state, backend);
}

/* The end of every socket, for those that a backend counts. */
SEC("cgroup/sock_release")
int skep_release(struct bpf_sock *ctx)
{
	struct socket_state *state = bpf_sk_storage_get(&skep_sockets, ctx, 0, 0);

	if (ctx->state == SOCKET_CONNECTING)
		note_unanswered(ctx, state);
	if (state)
		uncount_socket(state);
	return ALLOW;
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* Closes the sockets that are left on backends that are gone. One walk over the
 * open files of all processes finds the network namespaces that have such
 * sockets; walks over the sockets of those ask one question of each: does what
 * it asked for still lead to its peer? skep_judge_socket answers the same
 * question for a socket that user space has found by other means. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "constants.h"
#include "structs.h"
#include "maps.h"
#include "selection.h"
#include "belong.h"
#include "kernel.h"
#include "peer.h"

enum {
	CAPACITY_DEPARTED = 4096, /* endpoints judged in one walk */
};

/* What becomes of a socket that is connected to a departed endpoint. Go's
 * labels follow this order. */
enum verdict {
	VERDICT_OTHER,    /* not connected to a departed endpoint */
	VERDICT_OUTSIDE,  /* its cgroup has no hooks: it asked for the peer itself */
	VERDICT_DIRECT,   /* it asked for the peer itself */
	VERDICT_SERVED,   /* what it asked for leads to the peer again, or still */
	VERDICT_ALIVE,    /* connected, and its backend may still answer */
	VERDICT_STALE,    /* nothing leads it there any more: closed */
	VERDICT_REFUSED,  /* stale, and the kernel would not close it */
	VERDICT_COUNT,
};

struct departed {
	__u64 verdicts[VERDICT_COUNT]; /* sockets, counted by the walks */
	/* Not zero: leave TCP connections that the backend has answered. */
	__u64 only_connecting;
};

/* An endpoint without address and port stands for every backend whose node is
 * down. */
SKEP_MAP(skep_departed, BPF_MAP_TYPE_HASH, struct endpoint, struct departed,
	 CAPACITY_DEPARTED, 0);

/* What skep_print_tcp and skep_print_udp print of a socket. */
struct remembered_socket {
	__u64 cookie;
	struct socket_state state;
};

/* What skep_judge_socket is asked, and its answer. */
struct connected_socket {
	struct endpoint peer;
	struct socket_state origin; /* what skep_sockets holds of it */
	__u32 remembered;           /* zero: it holds nothing */
	__u32 if_node_down; /* not zero: other unless the peer's node is down */
	enum verdict verdict; /* out */
};

int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* Whether a new connection to asked could reach peer. The socket was translated
 * once, so a port of any address of this node counts even if the address is
 * loopback or no longer ours: at worst a live backend keeps a client. */
static __always_inline bool leads_to(const struct endpoint *asked,
				     const struct endpoint *peer)
{
	struct search search = { .peer = *peer, .live = true };
	struct frontend frontend = {};
	enum counter reason;

	if (!find_service_frontend(asked, true, &frontend, &reason))
		return false;
	return search_runs(&frontend, &search);
}

/* origin: what was remembered of the socket, or NULL. It is certain; without it
 * the socket asked for the primary frontend of the one backend that is found by
 * the peer's address, or that backend is gone. */
static __always_inline enum verdict judge(const struct socket_state *origin,
					  const struct endpoint *peer)
{
	struct endpoint asked = {}, *primary;
	struct backend *backend;
	__u32 key;

	if (origin && same_endpoint(&origin->peer, peer)) {
		asked = origin->asked;
		if (same_endpoint(&asked, peer))
			return VERDICT_DIRECT;
		return leads_to(&asked, peer) ? VERDICT_SERVED : VERDICT_STALE;
	}
	if (!bpf_map_lookup_elem(&skep_reverse, peer))
		return VERDICT_STALE;
	backend = named_backend(peer);
	if (!backend)
		return VERDICT_SERVED; /* being replaced: its new clients are right */
	if (!(backend->flags & BACKEND_DERIVED)) /* of a service that lost it */
		return VERDICT_STALE;
	key = backend->service;
	primary = bpf_map_lookup_elem(&skep_primaries, &key);
	if (!primary || !primary->port)
		return VERDICT_STALE;
	asked = *primary;
	return leads_to(&asked, peer) ? VERDICT_SERVED : VERDICT_STALE;
}

static __always_inline bool on_down_node(const struct endpoint *peer)
{
	struct backend *backend = named_backend(peer);

	return backend && node_down(backend->node);
}

/* The departed endpoint that a peer is, or NULL. */
static __always_inline struct departed *find_departed(const struct endpoint *peer)
{
	struct departed *departed = bpf_map_lookup_elem(&skep_departed, peer);
	struct endpoint down = { .protocol = peer->protocol };

	if (departed)
		return departed;
	departed = bpf_map_lookup_elem(&skep_departed, &down);
	return departed && on_down_node(peer) ? departed : NULL;
}

/* Judges a socket, closes it if it is stale, and counts what was done. The walk
 * holds the socket's lock. */
static __always_inline void sweep(struct sock_common *sk, struct sock *full,
				  const struct endpoint *peer,
				  struct departed *departed)
{
	enum verdict verdict = VERDICT_OUTSIDE;

	if (hooked(full))
		verdict = judge(bpf_sk_storage_get(&skep_sockets, full, 0, 0),
				peer);
	if (verdict == VERDICT_STALE && peer->protocol == PROTOCOL_TCP &&
	    departed->only_connecting && sk->skc_state != STATE_SYN_SENT)
		verdict = VERDICT_ALIVE;
	if (verdict == VERDICT_STALE && bpf_sock_destroy(sk))
		verdict = VERDICT_REFUSED;
	departed->verdicts[verdict] += 1;
}

/* Prints the number of each network namespace in which a process has a socket
 * that is connected to a departed endpoint. */
SEC("iter/task_file")
int skep_find_sockets(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct endpoint peer = {};
	struct socket *socket;
	struct sock *sk;
	__u32 namespace;
	__u8 protocol;

	if (!file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !sk->__sk_common.skc_dport ||
	    (sk->__sk_common.skc_family != SOCKET_IPV4 &&
	     sk->__sk_common.skc_family != SOCKET_IPV6))
		return 0;
	protocol = sk->sk_protocol == PROTOCOL_UDP ? PROTOCOL_UDP : PROTOCOL_TCP;
	read_peer(&sk->__sk_common, protocol, &peer);
	if (!find_departed(&peer))
		return 0;
	namespace = sk->__sk_common.skc_net.net->ns.inum;
	bpf_seq_write(ctx->meta->seq, &namespace, sizeof(namespace));
	return 0;
}

SEC("iter/tcp")
int skep_close_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct endpoint peer = {};
	struct departed *departed;
	struct tcp_sock *tcp;

	if (!sk || !sk->skc_dport)
		return 0;
	read_peer(sk, PROTOCOL_TCP, &peer);
	departed = find_departed(&peer);
	if (!departed)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp) /* else not a connection yet, or none any more */
		sweep(sk, &tcp->inet_conn.icsk_inet.sk, &peer, departed);
	return 0;
}

SEC("iter/udp")
int skep_close_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	struct endpoint peer = {};
	struct departed *departed;
	struct sock_common *sk;

	if (!udp)
		return 0;
	sk = (struct sock_common *)udp;
	if (!sk->skc_dport) /* not connected: every datagram is sent anew */
		return 0;
	read_peer(sk, PROTOCOL_UDP, &peer);
	departed = find_departed(&peer);
	if (departed)
		sweep(sk, &udp->inet.sk, &peer, departed);
	return 0;
}

/* Prints what is remembered of a socket, if it is connected to a departed
 * endpoint. */
static __always_inline void print_remembered(struct seq_file *seq,
					     struct sock *sk,
					     const struct endpoint *peer)
{
	struct remembered_socket remembered = {};
	struct socket_state *state;

	if (!find_departed(peer))
		return;
	state = bpf_sk_storage_get(&skep_sockets, sk, 0, 0);
	if (!state)
		return;
	remembered.state = *state;
	remembered.cookie = bpf_get_socket_cookie(sk);
	bpf_seq_write(seq, &remembered, sizeof(remembered));
}

SEC("iter/tcp")
int skep_print_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct endpoint peer = {};
	struct tcp_sock *tcp;

	if (!sk || !sk->skc_dport)
		return 0;
	read_peer(sk, PROTOCOL_TCP, &peer);
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp)
		print_remembered(ctx->meta->seq, &tcp->inet_conn.icsk_inet.sk,
				 &peer);
	return 0;
}

SEC("iter/udp")
int skep_print_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	struct endpoint peer = {};
	struct sock_common *sk;

	if (!udp)
		return 0;
	sk = (struct sock_common *)udp;
	if (!sk->skc_dport)
		return 0;
	read_peer(sk, PROTOCOL_UDP, &peer);
	print_remembered(ctx->meta->seq, &udp->inet.sk, &peer);
	return 0;
}

SEC("syscall")
int skep_judge_socket(struct connected_socket *socket)
{
	struct socket_state origin = socket->origin;
	struct endpoint peer = socket->peer;

	if (socket->if_node_down && !on_down_node(&peer))
		socket->verdict = VERDICT_OTHER;
	else
		socket->verdict = judge(socket->remembered ? &origin : NULL,
					&peer);
	return 0;
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

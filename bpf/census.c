// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* What is connected to each backend now, found when somebody asks, so that no
 * connection pays for it: one walk over the open files of all processes adds up
 * sockets, one over skep_flows what packets made. And connections that fail,
 * counted where the kernel reports the error to a socket. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "constants.h"
#include "structs.h"
#include "maps.h"
#include "selection.h"
#include "packet.h"
#include "events.h"
#include "flow.h"
#include "belong.h"
#include "failure.h"
#include "kernel.h"
#include "peer.h"

enum {
	CAPACITY_CONNECTED = 65536, /* backends that are connected to at once */
	CAPACITY_SEEN = 65536,      /* sockets */
};

struct connected_key {
	struct endpoint backend;
	__u32 service;
};

/* Filled by the walks, emptied by who reads it. */
struct connected {
	__u32 sockets;
	__u32 flows;    /* of packets, each on one node of the cluster only */
	__u32 weighed;  /* of packets, all that pass this node */
	__u32 timed;    /* TCP sockets with a round-trip time */
	__u64 trip_sum; /* of these, microseconds */
};

SKEP_MAP(skep_connected, BPF_MAP_TYPE_HASH, struct connected_key,
	 struct connected, CAPACITY_CONNECTED, BPF_F_NO_PREALLOC);
/* Cookies of the sockets that a walk has counted: processes share files. Of a
 * socket that finds no room every file is counted. */
SKEP_MAP(skep_seen, BPF_MAP_TYPE_HASH, __u64, __u32, CAPACITY_SEEN,
	 BPF_F_NO_PREALLOC);

/* Brings the type to Go: no map names it. */
const struct event *const skep_event_type __attribute__((unused));

/* What skep_count_flows is run with. */
struct flows_walk {
	__u64 now;  /* in: CLOCK_MONOTONIC_COARSE */
	__u64 lost; /* out: flows whose backend found no room */
};

static __always_inline struct connected *
connected_to(const struct endpoint *backend, __u32 service)
{
	struct connected_key key = { .backend = *backend, .service = service };
	struct connected *connected, none = {};

	connected = bpf_map_lookup_elem(&skep_connected, &key);
	if (connected)
		return connected;
	bpf_map_update_elem(&skep_connected, &key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&skep_connected, &key);
}

static __always_inline bool is_open(__u8 state)
{
	const __u32 open = 1 << STATE_ESTABLISHED | 1 << STATE_SYN_SENT |
			   1 << STATE_FIN_WAIT1 | 1 << STATE_FIN_WAIT2 |
			   1 << STATE_CLOSE_WAIT;

	return state < 32 && open >> state & 1;
}

/* The protocol that services know the socket by; 0: none. */
static __always_inline __u8 protocol_of(const struct sock *sk)
{
	switch (sk->sk_protocol) {
	case PROTOCOL_TCP:
	case PROTOCOL_MPTCP:
		return PROTOCOL_TCP;
	case PROTOCOL_UDP:
		return PROTOCOL_UDP;
	}
	return 0;
}

/* The backend that the socket's peer is, or NULL. */
static __always_inline struct backend *peer_backend(const struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;
	__u8 protocol = protocol_of(sk);
	struct endpoint peer = {};

	if (!protocol || !sk->__sk_common.skc_dport ||
	    (family != SOCKET_IPV4 && family != SOCKET_IPV6))
		return NULL;
	read_peer(&sk->__sk_common, protocol, &peer);
	return named_backend(&peer);
}

static __always_inline bool seen(struct sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	__u32 once = 1;
	int outcome; /* Linux before 6.4 leaves the upper half unset */

	outcome = bpf_map_update_elem(&skep_seen, &cookie, &once, BPF_NOEXIST);
	return outcome == -EEXIST;
}

SEC("iter/task_file")
int skep_count_sockets(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct connected *connected;
	struct backend *backend;
	struct tcp_sock *tcp;
	struct socket *socket;
	struct sock *sk;
	__u32 service;

	if (!file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_open(sk->__sk_common.skc_state))
		return 0;
	backend = peer_backend(sk);
	if (!backend || !hooked(sk) ||
	    !service_asked(bpf_sk_storage_get(&skep_sockets, sk, 0, 0), backend,
			   &service) ||
	    seen(sk))
		return 0;
	connected = connected_to(&backend->key, service);
	if (!connected)
		return 0;
	connected->sockets += 1;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp && tcp->srtt_us) {
		connected->timed += 1;
		connected->trip_sum += tcp->srtt_us >> 3;
	}
	return 0;
}

/* Whether the backend has ended the flow of this forward entry. */
static __always_inline bool answered_end(const struct flow_key *key,
					 const struct flow *flow)
{
	struct flow_key answers;
	struct flow *reverse;

	reverse_key(&answers,
		    flow->flags & FLOW_SNAT ? &flow->source : &key->source,
		    &flow->peer);
	reverse = bpf_map_lookup_elem(&skep_flows, &answers);
	return reverse && reverse->flags & FLOW_CLOSING;
}

/* A flow to a backend elsewhere is counted by that node, unless it looks there
 * like one from this node. */
static __always_inline bool counted_here(const struct flow_key *key,
				      const struct flow *flow)
{
	return key->destination.scope == SCOPE_CLUSTER ||
	       flow->flags & (FLOW_LOCAL | FLOW_SNAT);
}

static long count_flow(void *map, struct flow_key *key,
		       struct flow *flow, struct flows_walk *walk)
{
	struct connected *connected;
	struct backend *backend;
	bool here;

	(void)map;
	if (key->destination.scope == SCOPE_REVERSE ||
	    flow->flags & FLOW_CLOSING ||
	    flow_expired(flow, key->source.protocol, walk->now))
		return 0;
	backend = backend_of(flow);
	if (!backend)
		return 0;
	here = counted_here(key, flow);
	if (here && answered_end(key, flow))
		return 0;
	connected = connected_to(&backend->key, flow->service);
	if (!connected) {
		walk->lost += 1;
		return 0;
	}
	connected->weighed += 1;
	if (here && (key->source.protocol != PROTOCOL_TCP ||
		     flow->flags & FLOW_ESTABLISHED))
		connected->flows += 1;
	return 0;
}

SEC("syscall")
int skep_count_flows(struct flows_walk *ctx)
{
	struct flows_walk walk = { .now = ctx->now };

	bpf_for_each_map_elem(&skep_flows, count_flow, &walk, 0);
	*ctx = walk;
	return 0;
}

/* An error is reported to a socket. Of a connection that was never answered it
 * is its failure; one that the sweep or its owner ended is not. */
SEC("tp_btf/inet_sk_error_report")
int skep_socket_failed(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct backend *backend;
	struct tcp_sock *tcp;

	if (!sk->sk_err || sk->sk_err == ECONNABORTED ||
	    sk->sk_protocol == PROTOCOL_MPTCP) /* its subflow is reported, too */
		return 0;
	backend = peer_backend(sk);
	if (!backend)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if ((tcp && tcp->srtt_us) || !hooked(sk))
		return 0;
	count_failed(bpf_sk_storage_get(&skep_sockets, sk, 0, 0), backend);
	return 0;
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

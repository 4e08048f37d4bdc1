/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PEER_H
#define SKEP_PEER_H

/* What programs that see the kernel's own sockets read of one.
 *
 * Includes before this: kernel.h, structs.h. */

/* Id of the cgroup that the socket programs are attached to, 0: not known. */
const volatile __u64 skep_hooked_cgroup = 0;

enum {
	SOCKET_IPV4 = 2,
	SOCKET_IPV6 = 10,
	CGROUP_LEVELS = 32,
};

/* TCP's states; a connected UDP socket is "established". */
enum {
	STATE_ESTABLISHED = 1,
	STATE_SYN_SENT = 2,
	STATE_FIN_WAIT1 = 4,
	STATE_FIN_WAIT2 = 5,
	STATE_CLOSE_WAIT = 8,
};

static __always_inline void read_peer(const struct sock_common *sk,
				      __u8 protocol, struct endpoint *peer)
{
	if (sk->skc_family == SOCKET_IPV6) {
		peer->addr.word[0] = sk->skc_v6_daddr.in6_u.u6_addr32[0];
		peer->addr.word[1] = sk->skc_v6_daddr.in6_u.u6_addr32[1];
		peer->addr.word[2] = sk->skc_v6_daddr.in6_u.u6_addr32[2];
		peer->addr.word[3] = sk->skc_v6_daddr.in6_u.u6_addr32[3];
	} else {
		peer->addr.word[2] = bpf_htonl(0xffff);
		peer->addr.word[3] = sk->skc_daddr;
	}
	peer->port = sk->skc_dport;
	peer->protocol = protocol;
}

/* Whether the socket programs saw this socket's calls. */
static __always_inline bool hooked(const struct sock *sk)
{
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;
	int level;

	if (!skep_hooked_cgroup)
		return true;
	for (level = 0; level < CGROUP_LEVELS; level++) {
		struct cgroup_subsys_state *parent;

		if (!cgroup)
			return false;
		if (cgroup->kn->id == skep_hooked_cgroup)
			return true;
		parent = cgroup->self.parent;
		if (!parent)
			return false;
		cgroup = parent->cgroup;
	}
	return false;
}

#endif

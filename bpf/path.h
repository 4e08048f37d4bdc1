/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_PATH_H
#define SKEP_PATH_H

/* What only the programs at pods' interfaces use: their maps, and one counter
 * for each way a packet leaves them. */

enum path_capacity {
	CAPACITY_PODS = 4096,     /* addresses of this node's pods */
	CAPACITY_TRAFFIC = 16384, /* backends on this node */
	PATH_RANGES = 8,          /* the cluster's pod ranges */
	CAPACITY_RANGES = 65536,  /* pods' ranges and addresses of nodes */
	CAPACITY_OVERLAYS = 8,
};

/* Raise it whenever the meaning of a path map's bytes changes. */
enum path_version {
	PATH_VERSION = 1,
};

/* Which program counted. */
enum path_hook {
	HOOK_FROM_POD, /* ingress of a pod's host interface */
	HOOK_TO_POD,   /* egress of a pod's host interface */
	HOOK_UPLINK,   /* ingress of an uplink or of the VXLAN device */
	HOOK_TO_UPLINK, /* its egress */
	HOOK_COUNT,
};

/* Every packet counts one reason; then what happened to it on the way. */
enum path_counter {
	PATH_NOT_IP,        /* the stack: ARP, from a pod in its own name; others */
	PATH_MALFORMED,     /* dropped from a pod; else the stack's to drop */
	PATH_NEIGHBOUR,     /* the stack: IPv6 neighbour discovery, MLD */
	PATH_FORGED,        /* dropped: not an address of this pod; at an uplink, a
			     * pod's address that cannot come from there */
	PATH_STACK,         /* the stack: no fast path leads there */
	PATH_HOPS_SPENT,    /* the stack, which answers "time exceeded" */
	PATH_TOO_BIG,       /* the stack, which answers "too big" */
	PATH_NO_ROUTE,      /* the stack: no route, or one that only it can use */
	PATH_PEER,          /* into a pod here */
	PATH_QUEUE,         /* into a pod here, through its interface's queue */
	PATH_NEIGHBOUR_NODE, /* towards a pod elsewhere */
	PATH_DIRECT,        /* an answer, out to the client */
	PATH_HOST,          /* an answer to this host, handed to its stack */
	PATH_DELIVERED,     /* to the pod: went on */
	PATH_RESET,         /* service without backends: TCP reset sent back */
	PATH_UNREACHABLE,   /* the same: ICMP port unreachable sent back */
	PATH_UNANSWERED,    /* dropped: it could not be turned into an answer */
	PATH_SCTP_PORT,     /* dropped: SCTP whose port would have to change */
	PATH_COLLISION,     /* dropped: two services lead this client's port to
			     * one backend */
	PATH_NOT_STORED,    /* dropped: the flow could not be remembered */
	PATH_NOT_WRITTEN,   /* dropped: the kernel refused to change the packet */
	PATH_HANDED_OVER,   /* XDP made it ready, but knew no neighbour: sent there */
	PATH_LINK_REFUSED,  /* dropped from a pod: ARP in another's name, router
			     * messages, other protocols than IP, hidden by tags */
	PATH_WRAPPED,       /* dropped from a pod: what nodes would unwrap */
	PATH_WRAPPED_FORGED, /* dropped: VXLAN that no node wrapped for its pods */
	PATH_REASONS,
	PATH_EVENT_TRANSLATED = PATH_REASONS, /* service became backend */
	PATH_EVENT_NEW_FLOW,                  /* and a backend was chosen for it */
	PATH_EVENT_REVERSED,                  /* backend became service */
	PATH_EVENT_HAIRPIN,                   /* a pod talks to itself */
	PATH_EVENT_ERROR,                     /* ICMP error followed its flow */
	PATH_EVENT_FRAGMENT_UNKNOWN,          /* later fragment without its first */
	PATH_EVENT_TRAFFIC_FULL,              /* not accounted: no room */
	PATH_COUNTER_COUNT,
};

enum pod_flags {
	/* Its interface has a queue (bandwidth limit), which nothing may pass
	 * by. */
	POD_QUEUED = 1,
};

struct pod {
	__u32 ifindex; /* of the host's end */
	enum pod_flags flags;
	__u8 mac[6];
	__u8 host_mac[6];
};

struct path_range {
	struct address base;
	struct address mask;
};

struct path_config {
	enum path_version version;
	enum path_hook hooks; /* how many count */
	__u32 uplink; /* where answers to this host itself are handed in; 0: none */
	__u8 uplink_mac[6]; /* of that interface: its stack accepts no other's frames */
	__u8 nodes_known; /* skep_node_ranges has been written */
	__u8 pad[5];
	__u64 netns; /* cookie of the network namespace that ifindexes belong to */
	struct address hairpin4; /* source of a pod's packets to itself */
	struct address hairpin6;
	struct path_range ranges[PATH_RANGES]; /* unused: base and mask all ones */
};

struct traffic {
	__u64 to_packets; /* to the backend */
	__u64 to_bytes;
	__u64 from_packets;
	__u64 from_bytes;
};

/* address -> the pod of this node that has it */
SKEP_MAP(skep_pods, BPF_MAP_TYPE_HASH, struct address, struct pod, CAPACITY_PODS,
	 BPF_F_NO_PREALLOC);
SKEP_MAP(skep_path_config, BPF_MAP_TYPE_ARRAY, __u32, struct path_config, 1, 0);
/* backend endpoint -> what it received and sent, on this node */
SKEP_MAP(skep_traffic, BPF_MAP_TYPE_PERCPU_HASH, struct endpoint, struct traffic,
	 CAPACITY_TRAFFIC, BPF_F_NO_PREALLOC);
/* Ports of the backends in skep_traffic; a bit that was set stays. */
struct traffic_ports {
	__u64 word[PORT_WORDS];
};

SKEP_MAP(skep_traffic_ports, BPF_MAP_TYPE_ARRAY, __u32, struct traffic_ports, 1,
	 0);
/* hook * PATH_COUNTER_COUNT + counter */
SKEP_MAP(skep_path_counters, BPF_MAP_TYPE_PERCPU_ARRAY, enum path_counter, __u64,
	 HOOK_COUNT *PATH_COUNTER_COUNT, 0);

/* One packet on its way through one program. */
struct passage {
	struct __sk_buff *skb;
	enum path_hook hook;
	enum parsed parsed;
	__u64 read; /* the time, once it was asked */
	struct packet packet;
};

static __always_inline __u64 now(struct passage *passage)
{
	if (!passage->read)
		passage->read = bpf_ktime_get_coarse_ns();
	return passage->read;
}

/* The large things that a new flow or a refusal needs, which the stack has no
 * room for. Programs of one CPU do not interrupt each other. */
struct workspace {
	struct selection selection;
	struct flow flow;
	struct flow reverse;
};

SKEP_MAP(skep_path_workspace, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct workspace,
	 1, 0);

static __always_inline struct workspace *workspace(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&skep_path_workspace, &zero);
}

static __always_inline void tally_at(enum path_hook hook,
				     enum path_counter counter)
{
	__u32 index = hook * PATH_COUNTER_COUNT + counter;
	__u64 *value = bpf_map_lookup_elem(&skep_path_counters, &index);

	if (value)
		*value += 1;
}

static __always_inline void tally(const struct passage *passage,
				  enum path_counter counter)
{
	tally_at(passage->hook, counter);
}

/* The verdict of a packet for which there is nothing more to do here. Other
 * programs at the same hook see it, which TC_ACT_OK would keep from them. */
static __always_inline int to_stack(const struct passage *passage,
				    enum path_counter reason)
{
	tally(passage, reason);
	return TC_ACT_UNSPEC;
}

static __always_inline int drop(const struct passage *passage,
				enum path_counter reason)
{
	tally(passage, reason);
	return TC_ACT_SHOT;
}

static __always_inline struct path_config *path_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&skep_path_config, &zero);
}

static __always_inline bool in_cluster(const struct path_config *config,
				       const struct address *addr)
{
	int i;

	for (i = 0; i < PATH_RANGES; i++) {
		const struct path_range *range = &config->ranges[i];

		if ((addr->word[3] & range->mask.word[3]) == range->base.word[3] &&
		    (addr->word[2] & range->mask.word[2]) == range->base.word[2] &&
		    (addr->word[1] & range->mask.word[1]) == range->base.word[1] &&
		    (addr->word[0] & range->mask.word[0]) == range->base.word[0])
			return true;
	}
	return false;
}

static __always_inline struct traffic *open_line(const struct endpoint *key)
{
	struct traffic none = {};

	/* Another CPU may have been first: then the lookup finds its. */
	bpf_map_update_elem(&skep_traffic, key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&skep_traffic, key);
}

/* Adds a packet to what a backend on this node received or sent. A packet of a
 * backend takes one lookup, and so does the other end, which is none: ports that
 * have a line of their own are known by a bit. */
static __always_inline void account(const struct passage *passage,
				    const struct endpoint *endpoint, bool received)
{
	struct endpoint key = *endpoint;
	__u32 zero = 0, packets = passage->skb->gso_segs ?: 1;
	struct traffic_ports *ports;
	struct traffic *traffic = NULL;

	key.scope = 0;
	ports = bpf_map_lookup_elem(&skep_traffic_ports, &zero);
	if (!ports)
		return;
	if (has_port(ports->word, key.port))
		traffic = bpf_map_lookup_elem(&skep_traffic, &key);
	if (!traffic) {
		if (!bpf_map_lookup_elem(&skep_reverse, &key))
			return;
		traffic = open_line(&key);
		if (!traffic) {
			tally(passage, PATH_EVENT_TRAFFIC_FULL);
			return;
		}
		set_port(ports->word, key.port);
	}
	if (received) {
		traffic->to_packets += packets;
		traffic->to_bytes += passage->skb->len;
	} else {
		traffic->from_packets += packets;
		traffic->from_bytes += passage->skb->len;
	}
}

#endif

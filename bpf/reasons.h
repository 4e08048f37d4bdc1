/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_REASONS_H
#define SKEP_REASONS_H

/* What became of a packet at the uplink: every run counts exactly one UPLINK_
 * reason, and EVENT_ ones on its way. Go derives the names that people see from
 * these. */
enum uplink_reason {
	/* to the stack, as it came */
	UPLINK_NOT_IP,
	UPLINK_VLAN_TAGGED,     /* for an interface above this one */
	UPLINK_MALFORMED,       /* the kernel drops and counts it as well */
	UPLINK_OTHER_PROTOCOL,  /* none of TCP, UDP, SCTP and their ICMP errors */
	UPLINK_NO_SERVICE,      /* not for a frontend */
	UPLINK_ERROR_NO_FLOW,   /* ICMP error about no flow that we know */
	UPLINK_FOREIGN_TUNNEL,  /* IP in IP that no node of ours made for us */
	UPLINK_FRAGMENT_PASSED, /* not preceded by a first fragment for a frontend */
	UPLINK_TUNNEL_TOO_BIG,  /* ICMP: what fits on the way to a node; noted */
	UPLINK_TUNNEL_ERROR,    /* other ICMP about a tunnel that we made */
	UPLINK_OTHER_HOST,      /* for another link address than the uplink's */
	UPLINK_GROUP,           /* broadcast or multicast */
	/* where it should go */
	UPLINK_DELIVERED,       /* to a backend here, by the stack */
	UPLINK_ENCAPSULATED,    /* to the backend's node */
	UPLINK_TRANSLATED_OUT,  /* to a backend elsewhere, from our address */
	UPLINK_TRANSLATED_BACK, /* the answer to that, to its client */
	UPLINK_HANDED_OVER,     /* as one of the three above, by the stack, which
				 * finds the neighbour */
	/* answered */
	UPLINK_RESET,             /* TCP RST: no backend, or the flow's is gone */
	UPLINK_UNREACHABLE,       /* ICMP port unreachable: no backend */
	UPLINK_TOO_BIG,           /* ICMP fragmentation needed, packet too big */
	UPLINK_TIME_EXCEEDED,     /* ICMP time exceeded */
	UPLINK_ARP_ANSWERED,      /* for an announced address */
	UPLINK_NEIGHBOUR_ANSWERED, /* the same by NDP */
	UPLINK_PROBE_ANSWERED,    /* another node's, whether it reaches this one */
	/* dropped */
	UPLINK_ANSWER_LIMITED,   /* more ICMP errors than we send in a second */
	UPLINK_NO_ANSWER,        /* refused, but nothing may be sent about it */
	UPLINK_NO_LOCAL_BACKEND, /* traffic policy Local, none here */
	UPLINK_SOURCE_REFUSED,   /* client outside the source ranges */
	UPLINK_NOT_SELECTED,     /* service changed under us: the next try finds it */
	UPLINK_NO_FLOW,          /* TCP RST or SYN+ACK of no flow */
	UPLINK_COLLISION,        /* the client's port leads to the backend already */
	UPLINK_NO_PORT,          /* every port of our address is taken */
	UPLINK_FLOWS_FULL,       /* the kernel had no memory for a flow */
	UPLINK_SECOND_HOP,       /* sent on once already, and none here either */
	UPLINK_FRAGMENT_LOST,    /* a later fragment before its first */
	UPLINK_SCTP_PORT,        /* SCTP, whose ports cannot be translated */
	UPLINK_OTHER_FAMILY,     /* IPv6 backend of an IPv4 frontend, or so */
	UPLINK_NO_NODE,          /* no address of the backend's node, or of ours */
	UPLINK_NO_ROUTE,         /* unreachable, prohibited or blackholed */
	UPLINK_NO_ROOM,          /* the driver left no room for a header */
	UPLINK_FORGED,           /* with the source MAC of frames that we hand over */
	UPLINK_MARTIAN,          /* from what is no client's address, or from the
				  * overlay's port, to which no answer may go */
	UPLINK_PROBE_NO_KEY,     /* a probe, before the agent has set the key */
	UPLINK_PROBE_FOREIGN,    /* a probe from what is no node's address */
	UPLINK_PROBE_FORGED,     /* a probe with a wrong MAC, length or kind */
	/* events on the way */
	UPLINK_EVENT_FLOW_MADE,
	UPLINK_EVENT_FLOW_GONE,     /* its backend went away */
	UPLINK_EVENT_MID_FLOW,      /* TCP without a flow: selected by hash */
	UPLINK_EVENT_RESELECTED,    /* after a collision */
	UPLINK_EVENT_DECAPSULATED,
	UPLINK_EVENT_ANOTHER_HOP,   /* sent to us, but the backend is elsewhere */
	UPLINK_EVENT_FRAGMENT_NOTED,
	UPLINK_EVENT_HOP_LOOKUP,    /* next hop asked of the kernel */
	UPLINK_REASON_COUNT,
};

SKEP_MAP(skep_uplink_counters, BPF_MAP_TYPE_PERCPU_ARRAY, enum uplink_reason,
	 __u64, UPLINK_REASON_COUNT, 0);

static __always_inline void uplink_count(enum uplink_reason reason)
{
	__u64 *counter = bpf_map_lookup_elem(&skep_uplink_counters, &reason);

	if (counter)
		*counter += 1;
}

static __always_inline int leave(enum uplink_reason reason, int verdict)
{
	uplink_count(reason);
	return verdict;
}

#endif

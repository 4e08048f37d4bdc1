/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_CONSTANTS_H
#define SKEP_CONSTANTS_H

/* Raise it whenever the meaning of a map's bytes changes, even if their size
 * does not: Go compares it with the pinned value and starts fresh maps when
 * they differ. */
enum layout_version {
	LAYOUT_VERSION = 3,
};

/* Default sizes. Go overrides all but the counters before it creates the maps.
 * 250,000 endpoints in 50,000 services fit. */
enum capacity {
	CAPACITY_FRONTENDS = 131072, /* as many lines of twice as many cells */
	CAPACITY_SERVICES = 65536,
	CAPACITY_BACKENDS = 262144,
	CAPACITY_SLOT_LINES = 65536, /* of SLOTS_EACH slots */
	CAPACITY_NODES = 16384,
	CAPACITY_DATAGRAMS = 16384,
	CAPACITY_AFFINITY = 16384,
	CAPACITY_NAMES = 131072,
	CAPACITY_ADDRESSES = 32768,
	CAPACITY_SOURCES = 16384,
};

/* Where a frontend is reachable from. Socket hooks look up SCOPE_CLUSTER. */
enum frontend_scope {
	SCOPE_CLUSTER = 0,
	SCOPE_EXTERNAL = 1,
};

enum backend_flags {
	/* In the run of its service now: affinity may return to it. */
	BACKEND_IN_RUN = 1,
	/* In the run of this node's backends now. */
	BACKEND_IN_LOCAL_RUN = 2,
	/* Lives on this node. */
	BACKEND_LOCAL = 4,
	/* The one that skep_reverse names for its address: a socket that asked
	 * for the primary frontend of its service needs no memory of it. */
	BACKEND_DERIVED = 8,
	/* Flows that packets made go on to it: in a run, or draining and not
	 * UDP. */
	BACKEND_SERVING = 16,
};

enum frontend_flags {
	/* Stands for its service when a peer is derived. */
	FRONTEND_PRIMARY = 1,
	/* Leads to this node's backends only (traffic policy Local). */
	FRONTEND_LOCAL = 2,
	/* Only clients in the service's source ranges (skep_sources). */
	FRONTEND_RESTRICTED = 4,
	FRONTEND_KNOWN = 7,
	/* Not a flag of a frontend, but of its cell: it leads to a service. */
	FRONTEND_LIVE = 64,
	/* The cell had a frontend: a search goes on behind it. */
	FRONTEND_GONE = 128,
};

enum service_flags {
	/* The way a backend is chosen: the low bits, one of these. */
	SELECT_ROUND_ROBIN = 0,
	SELECT_LEAST_CONNECTIONS = 1,
	SELECT_RANDOM = 2,
	SELECT_MAGLEV = 3,
	SELECT_MASK = 15,
	/* Packets reach backends elsewhere with this node's address as source. */
	SERVICE_SNAT = 16,
};

/* Where things lie in shared memory. */
enum placement {
	FRONTENDS_EACH = 2,   /* of a line */
	FRONTEND_PROBES = 48, /* lines that are searched for one endpoint */
	HOME_BACKENDS = 4,    /* ids that follow from a service's id */
};

/* What an address in skep_addresses is. */
enum address_flags {
	ADDRESS_OWN = 1,  /* of this node: ports of every address apply */
	ADDRESS_PEER = 2, /* of another node: it may send us encapsulated packets */
};

/* The VXLAN by which nodes that share no link reach each other's pods; package
 * podnet makes its links, and a test compares. */
enum overlay {
	OVERLAY_PORT = 8472, /* UDP */
	OVERLAY_ID = 83,
};

/* One reason for each way a program ends, of which every run of a hook counts
 * one; then events on the way. */
enum counter {
	/* connect and sendmsg */
	REASON_TRANSLATED,      /* service address became a backend address */
	REASON_NO_SERVICE,      /* not a service address: left alone */
	REASON_NO_BACKEND,      /* service without backends: refused */
	REASON_BACKENDS_DOWN,   /* all its backends are on down nodes: refused */
	REASON_BACKEND_MISSING, /* service, slot or backend record absent: refused */
	REASON_FAMILY_MISMATCH, /* IPv6 backend for an IPv4 socket: refused */
	REASON_OTHER_PROTOCOL,  /* neither TCP nor UDP: left alone */
	REASON_NO_LOCAL_BACKEND, /* traffic policy Local, none here: refused */
	REASON_SOURCE_REFUSED,   /* client outside the source ranges: refused */
	/* getpeername and recvmsg */
	REASON_REVERSED,     /* backend address became a service address */
	REASON_NOT_REVERSED, /* not the peer of a translated socket */
	/* events */
	EVENT_NODE_DOWN_SKIPPED, /* a backend passed over */
	EVENT_AFFINITY_HIT,      /* client kept its backend */
	EVENT_ORIGIN_STORED,     /* origin written for a socket */
	EVENT_ORIGIN_LOST,       /* no memory to write it */
	COUNTER_COUNT,
};

enum name_kind {
	NAME_SERVICE = 1,
	NAME_NODE = 2,
};

enum {
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_SCTP = 132,
	PROTOCOL_MPTCP = 262,
	NAME_LENGTH = 160,
	/* Turns tried before the scan over every slot. */
	SELECT_TURNS = 4,
	/* Backends weighed for one connection of least connections. */
	LEAST_WINDOW = 64,
	NO_LEAST = 0x7fffffff,
	SLOTS_EACH = 16,
	NANOSECONDS = 1000000000,
};

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_STRUCTS_H
#define SKEP_STRUCTS_H

/* Addresses are 16 bytes, IPv4 mapped (::ffff:a.b.c.d). Addresses and ports
 * are in network order, everything else in host order. No struct has padding
 * that is not named, because keys are compared byte by byte. */

struct address {
	__u32 word[4];
};

struct endpoint {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 scope; /* enum frontend_scope; 0 for backends */
};

/* What leads from a frontend to its service, in one word: a check of the key in
 * the low half, the service's id in the next 24 bits, enum frontend_flags in the
 * top 8. 0: the cell was never used. */
enum frontend_entry {
	ENTRY_ID_SHIFT = 32,
	ENTRY_FLAGS_SHIFT = 56,
	ENTRY_ID_MASK = 0xffffff,
};

/* A place of skep_frontends. The key is written while entry says that nothing
 * is here, and no program that might have seen another key is left; it stays as
 * long as entry is live. */
struct frontend_cell {
	__u64 entry;
	struct endpoint key;
	__u32 pad;
};

struct frontend_line {
	struct frontend_cell cell[FRONTENDS_EACH];
};

/* A run of backends, in one word so that one store replaces it: base in the low
 * half, count above it. RUN_DIRECT: backends base, base + 1, ... themselves; if
 * not: the backends that these slots name. */
enum run_word {
	RUN_COUNT_SHIFT = 32,
	RUN_COUNT_MASK = 0x7fffffff,
	RUN_DIRECT_SHIFT = 63,
};

/* All that a connection reads and writes of its service, in one cache line.
 * Programs write the first four and the last two. The others change under
 * readers, a word at a time. */
struct service {
	__u64 cursor;
	__u64 local_cursor;
	__u64 connections;
	__u64 refused;
	__u64 run;       /* usable backends */
	__u64 local_run; /* those of them on this node */
	enum service_flags flags;
	__u32 affinity_seconds; /* 0: none */
	__u32 failed; /* connections that a backend refused or left unanswered */
	__u32 event_stamp; /* second since boot of its last event in skep_events,
			    * and how many there were in it */
};

/* The same of a backend. Immutable but for flags while anything refers to it;
 * programs write the counts. */
struct backend {
	struct endpoint key;
	__u32 service;
	__u32 node; /* 0: none, never down */
	enum backend_flags flags;
	__u32 serial; /* differs between two uses of one id; never 0 */
	/* What least connections weighs, kept for its services only: sockets, and
	 * flows that packets made. Go corrects flows, which may end in silence;
	 * between two corrections it may be a little below zero. */
	__u32 active;
	__u64 connections;
	__u32 flows;
	__u32 failed; /* connections that it refused or left unanswered */
	__u64 pad;
};

/* Backend ids. */
struct slot_line {
	__u32 backend[SLOTS_EACH];
};

struct node {
	struct address ip4; /* mapped; all zero: none known */
	struct address ip6; /* all zero: none known */
	__u32 down;
};

/* What must be remembered of one socket: nothing of most. */
struct socket_state {
	struct endpoint peer;  /* port 0: no origin */
	struct endpoint asked; /* equals peer: the socket asked for the peer itself */
	__u32 backend;         /* that counts this socket as active */
	__u32 serial;          /* its serial; 0: none does */
};

/* What an unconnected socket asked for when it sent to one peer. */
struct datagram_key {
	__u64 socket; /* cookie */
	struct endpoint peer;
	__u32 pad;
};

struct affinity_key {
	struct address client; /* see struct selection */
	__u32 service;
};

/* A client's address, as a prefix of a service's source ranges. */
struct source_key {
	__u32 prefix; /* bits that count: 32 of service, then those of addr */
	__u32 service;
	struct address addr;
};

struct affinity {
	__u64 used; /* ktime, ns */
	__u32 backend;
	__u32 serial;
};

struct name_key {
	enum name_kind kind;
	__u32 id;
};

struct name {
	__u8 text[NAME_LENGTH]; /* zero padded */
};

/* Where endpoints have their place in the maps. The factors are random: who
 * may choose addresses cannot choose those that collide. */
struct frontend_hash {
	__u64 factor[7];
	__u32 line_mask; /* lines of skep_frontends less one */
	__u32 services;  /* elements of skep_services */
};

/* What the pinned maps were made for. */
struct layout {
	enum layout_version version;
	enum frontend_scope socket_scope; /* what socket hooks look up */
	enum frontend_entry id_shift;     /* ENTRY_ID_SHIFT */
	enum run_word count_shift;        /* RUN_COUNT_SHIFT */
	enum frontend_flags known_flags;  /* FRONTEND_KNOWN */
	enum placement placement;         /* HOME_BACKENDS */
	struct frontend_hash hash;
};

/* What this host is; written at every start. */
struct config {
	__u64 host_netns; /* cookie of the host's network namespace */
};

/* Selection's small context: what is asked and what comes of it. */
struct selection {
	struct endpoint asked; /* in */
	/* in: whose affinity it is, and who is let in. A packet's source
	 * address; for a socket {network namespace cookie, 0, 0}. */
	struct address client;
	__u32 hash; /* in: of the flow; read by Maglev */
	__u32 service; /* out: id */
	__u32 backend; /* out: id */
	__u32 serial; /* out: of the backend */
	__u32 node; /* out: id of the backend's node, 0: none */
	enum service_flags service_flags; /* out */
	enum backend_flags backend_flags; /* out */
	struct endpoint peer; /* out: the backend, if reason is translated */
	enum counter reason; /* out */
};

#endif

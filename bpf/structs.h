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

/* Immutable from the moment skep_services names it until a grace period after
 * it no longer does. The hash element that led here may be recycled for
 * another key while a program reads it; comparing key shows that. */
struct frontend_record {
	struct endpoint key;
	__u32 service;
	__u32 slot_base;
	__u32 slot_count;
	__u32 affinity_seconds; /* 0: none */
	__u32 local_base;
	__u32 local_count;
	enum frontend_flags flags;
	enum service_flags service_flags;
};

/* Immutable but for flags while anything refers to it. */
struct backend {
	struct endpoint key;
	__u32 service;
	__u32 node; /* 0: none, never down */
	enum backend_flags flags;
	__u32 serial; /* differs between two uses of one id */
};

struct node {
	struct address ip4; /* mapped; all zero: none known */
	struct address ip6; /* all zero: none known */
	__u32 down;
};

/* Written by programs, but for creation. */
struct service_state {
	__u64 cursor;
	__u64 connections;
	__u64 refused;
};

/* What one socket asked for when it reached one peer. Direct mapped: a later
 * socket may overwrite it, so socket and peer are compared. */
struct origin {
	__u64 socket; /* cookie, 0: empty */
	struct endpoint peer;
	struct endpoint asked; /* equals peer: the socket asked for the peer itself */
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

/* What the pinned maps were made for. */
struct layout {
	enum layout_version version;
	enum frontend_scope socket_scope; /* what socket hooks look up */
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
	__u32 node; /* out: id of the backend's node, 0: none */
	enum service_flags service_flags; /* out */
	enum backend_flags backend_flags; /* out */
	struct endpoint peer; /* out: the backend, if reason is translated */
	enum counter reason; /* out */
};

#endif

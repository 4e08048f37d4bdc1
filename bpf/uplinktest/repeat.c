// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* BPF_PROG_TEST_RUN with repeat hands a program what it made of the packet the
 * last time. skep_repeat restores it and then becomes the program under test. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum {
	REPEATED_BYTES = 128,
};

struct repeated {
	__u32 flows;  /* 0: the packet as it is; else of one of so many flows */
	__u32 random; /* they come in random order, else each in turn */
	__u32 state;
	__u32 address; /* offset of the last two bytes of the source's address */
	__u32 port;    /* offset of the source's port */
	__u8 bytes[REPEATED_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct repeated);
	__uint(max_entries, 1);
} skep_repeated SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} skep_repeat_target SEC(".maps");

/* The packet's transport checksum stays that of the first flow: nothing that is
 * measured reads it. */
static __always_inline void choose_flow(struct repeated *repeated, void *data,
					void *data_end)
{
	__u32 flow = repeated->state;
	__u16 *at;

	if (repeated->random) {
		flow = flow * 1664525 + 1013904223;
		repeated->state = flow;
		flow = (flow >> 8) % repeated->flows;
	} else {
		repeated->state = flow + 1 < repeated->flows ? flow + 1 : 0;
	}
	at = data + (repeated->address & REPEATED_BYTES - 1);
	if ((void *)(at + 1) <= data_end)
		*at = flow >> 16;
	at = data + (repeated->port & REPEATED_BYTES - 1);
	if ((void *)(at + 1) <= data_end)
		*at = flow;
}

SEC("xdp.frags")
int skep_repeat(struct xdp_md *ctx)
{
	long length = (long)ctx->data_end - (long)ctx->data;
	struct repeated *repeated;
	void *data, *data_end;
	__u32 zero = 0;

	repeated = bpf_map_lookup_elem(&skep_repeated, &zero);
	if (!repeated)
		return XDP_ABORTED;
	if (length != REPEATED_BYTES &&
	    bpf_xdp_adjust_head(ctx, length - REPEATED_BYTES))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	if (data + REPEATED_BYTES > data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, repeated->bytes, REPEATED_BYTES);
	if (repeated->flows)
		choose_flow(repeated, data, data_end);
	bpf_tail_call(ctx, &skep_repeat_target, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int skep_nothing(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

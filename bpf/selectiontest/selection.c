// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* Socket-address programs cannot be test-run: this one can, over the same
 * inline selection. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../constants.h"
#include "../structs.h"
#include "../maps.h"
#include "../selection.h"

/* What to select for; replaced by what was selected. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct selection);
	__uint(max_entries, 1);
} skep_test_selection SEC(".maps");

static __always_inline int run(bool local)
{
	struct selection selection, *request;
	struct frontend frontend = {};
	__u32 zero = 0;
	__u16 hint;

	request = bpf_map_lookup_elem(&skep_test_selection, &zero);
	if (!request)
		return 1;
	selection = *request;
	hint = selection.backend; /* in, for this program alone */
	if (find_service_frontend(&selection.asked, false, &frontend,
				  &selection.reason)) {
		if (local)
			select_local(&frontend, &selection, hint);
		else
			select_backend(&frontend, &selection);
	}
	count(selection.reason);
	*request = selection;
	return 0;
}

SEC("tc")
int skep_test_select(struct __sk_buff *skb)
{
	(void)skb;
	return run(false);
}

SEC("tc")
int skep_test_select_local(struct __sk_buff *skb)
{
	(void)skb;
	return run(true);
}

char skep_license[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SKEP_CHECKSUM_H
#define SKEP_CHECKSUM_H

/* Internet checksums, changed by what changed beneath them (RFC 1624). A change
 * is a sum in which every word went from old to new; it fits any checksum that
 * covers those words, and several add up. Words are as they lie in memory, so
 * byte order never matters. */

static __always_inline __u64 change32(__u64 change, __u32 from, __u32 to)
{
	return change + (__u32)~from + to;
}

static __always_inline __u64 change16(__u64 change, __u16 from, __u16 to)
{
	return change + (__u16)~from + to;
}

static __always_inline __u64 change_address(__u64 change,
					    const struct address *from,
					    const struct address *to)
{
	change = change32(change, from->word[3], to->word[3]);
	if (is_mapped(to)) /* and so is from */
		return change;
	change = change32(change, from->word[0], to->word[0]);
	change = change32(change, from->word[1], to->word[1]);
	return change32(change, from->word[2], to->word[2]);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline void apply_change(__sum16 *checksum, __u64 change)
{
	*checksum = ~fold((__u16)~*checksum + change);
}

/* A UDP checksum of 0 says that there is none, and stays so; one that happens
 * to become 0 is written as its equal. */
static __always_inline void apply_udp_change(__sum16 *checksum, __u64 change)
{
	if (!*checksum)
		return;
	apply_change(checksum, change);
	if (!*checksum)
		*checksum = 0xffff;
}

/* The sum of count words from offset, as far as the packet goes. */
static __always_inline __u64 sum_words(void *data, void *data_end, __u32 offset,
				       __u32 count, __u64 sum)
{
	__u32 i;

	for (i = 0; i < count; i++) {
		__u32 *word = packet_at(data, data_end, offset + i * 4, 4);

		if (!word)
			break;
		sum += *word;
	}
	return sum;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Gives a packet the addresses and ports of its flow's other form. Checksums follow by differences, so that
 * super-packets and packets whose checksum is still to be made stay so: bpf_l4_csum_replace knows a checksum that covers
 * the pseudo header only, and leaves ports out of it.
 */
#pragma once
#include "packet.h"

/* A times B modulo the polynomial of CRC32c, bits reflected. */
__noinline __u32 crc_multiply(__u32 a, __u32 b)
{
	__u32 product = 0, bit;
	int i;

	/* Products with a bit, kept from becoming masks or branches: the verifier would walk every combination of them. */
#pragma clang loop unroll(full)
	for (i = 0; i < 32; i++) {
		bit = a >> 31;
		barrier_var(bit);
		product ^= b * bit;
		a <<= 1;
		bit = b & 1;
		barrier_var(bit);
		b = b >> 1 ^ 0x82f63b78 * bit;
	}
	return product;
}

/*
 * By how much the CRC32c of a message of `length` bytes changes with its first four: CRC is linear, so it is their
 * difference moved on by that many bytes.
 */
static __noinline __u32 crc_difference(__u32 difference, __u32 length)
{
	__u32 step = 0x00800000; /* x^8: one byte */
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < 17; i++) {
		if (length >> i & 1)
			difference = crc_multiply(difference, step);
		step = crc_multiply(step, step);
	}
	return difference;
}

static __always_inline int sctp_ports(struct __sk_buff *skb, const struct packet *p, __be32 before, __be32 after)
{
	__u32 checksum, at = p->l4 + 8;

	/* The checksum is at the end of what is checked: all fragments would have to be here. */
	if (p->fragment != FRAGMENT_NONE)
		return DROP_NOT_TRANSLATABLE;
	if (bpf_skb_load_bytes(skb, at, &checksum, sizeof(checksum)))
		return DROP_TRUNCATED;
	/* 0: made later, by the device or on the way out. */
	if (checksum) {
		checksum ^= crc_difference(before ^ after, p->length - (p->l4 - p->l3));
		if (bpf_skb_store_bytes(skb, at, &checksum, sizeof(checksum), BPF_F_RECOMPUTE_CSUM))
			return DROP_REWRITE_FAILED;
	}
	return bpf_skb_store_bytes(skb, p->l4, &after, sizeof(after), BPF_F_RECOMPUTE_CSUM) ? DROP_REWRITE_FAILED : 0;
}

static __always_inline bool is_echo(const struct packet *p)
{
	return p->icmp_kind == ICMP_REQUEST || p->icmp_kind == ICMP_REPLY;
}

static __always_inline __be32 ports_word(__u16 source, __u16 destination)
{
	return bpf_htonl((__u32)source << 16 | destination);
}

/* Writes s->turn's addresses into the IP header at `at`; `sum` is their difference. */
static __always_inline long store_addresses(struct __sk_buff *skb, const struct turn *t, __u32 family, __u32 at,
					    __s64 sum, __u64 flags6)
{
	if (family == 4) {
		__be32 pair[2] = { t->source.w[0], t->destination.w[0] };
		long error = bpf_l3_csum_replace(skb, at + 10, 0, sum, 0);

		return error | bpf_skb_store_bytes(skb, at + 12, pair, sizeof(pair), 0);
	}
	return bpf_skb_store_bytes(skb, at + 8, &t->source, 2 * sizeof(t->source), flags6);
}

/* What the packet's addresses become when it leaves by an entry of this form, whose mate is s->mate. */
static __always_inline void turn_set(struct scratch *s, __u32 form)
{
	bool out = form == FORM_WORKLOAD;

	s->turn.source = out ? s->mate.local : s->mate.remote;
	s->turn.destination = out ? s->mate.remote : s->mate.local;
	s->turn.source_port = out ? s->mate.local_port : s->mate.remote_port;
	s->turn.destination_port = out ? s->mate.remote_port : s->mate.local_port;
}

/* Translates the packet, and s->packet with it. Returns 0 or a drop reason. */
__noinline int translate(struct __sk_buff *skb, __u32 form)
{
	struct scratch *s = scratch_get();

	if (!s)
		return DROP_REWRITE_FAILED;
	struct packet *p = &s->packet;
	struct turn *t = &s->turn;
	__u32 check = 0, mangled = 0;
	bool moved;
	__be32 before, after;
	__s64 sum;
	int reason;

	turn_set(s, form);
	/* Words behind an IPv4 address are 0 and make no difference. */
	sum = bpf_csum_diff((__be32 *)&p->source, 32, (__be32 *)&t->source, 32, 0);
	if (store_addresses(skb, t, p->family, p->l3, sum, BPF_F_RECOMPUTE_CSUM))
		return DROP_REWRITE_FAILED;
	before = ports_word(p->source_port, p->destination_port);
	after = ports_word(t->source_port, t->destination_port);
	moved = !is_echo(p) && before != after;
	p->source = t->source;
	p->destination = t->destination;
	if (is_echo(p)) {
		before = bpf_htons(p->icmp_id);
		after = bpf_htons(s->mate.local_port);
		p->icmp_id = s->mate.local_port;
	} else if (p->icmp_kind == ICMP_NONE) {
		p->source_port = t->source_port;
		p->destination_port = t->destination_port;
	}
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	switch (p->protocol) {
	case IPPROTO_TCP:
		check = p->l4 + 16;
		break;
	case IPPROTO_UDP:
		check = p->l4 + 6;
		mangled = BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_SCTP:
		return moved ? sctp_ports(skb, p, before, after) : 0;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		check = p->l4 + 2;
		if (p->protocol == IPPROTO_ICMPV6 && p->family == 6 &&
		    bpf_l4_csum_replace(skb, check, 0, sum, BPF_F_PSEUDO_HDR))
			return DROP_REWRITE_FAILED;
		if (!is_echo(p) || before == after)
			return 0;
		if (bpf_l4_csum_replace(skb, check, before, after, 2) ||
		    bpf_skb_store_bytes(skb, p->l4 + 4, &after, 2, 0))
			return DROP_REWRITE_FAILED;
		return 0;
	default:
		return 0;
	}
	if (bpf_l4_csum_replace(skb, check, 0, sum, BPF_F_PSEUDO_HDR | mangled))
		return DROP_REWRITE_FAILED;
	reason = 0;
	if (moved && (bpf_l4_csum_replace(skb, check, before, after, 4 | mangled) ||
		      bpf_skb_store_bytes(skb, p->l4, &after, sizeof(after), 0)))
		reason = DROP_REWRITE_FAILED;
	return reason;
}

/*
 * The same for an ICMP error, inside and out: what it quotes is a packet of the flow in the other direction. Checksums of the
 * quoted transport stay (they are often cut off, and nobody checks them); the ICMP checksum covers the quote and
 * follows every change.
 */
__noinline int translate_error(struct __sk_buff *skb, __u32 form)
{
	struct scratch *s = scratch_get();

	if (!s)
		return DROP_REWRITE_FAILED;
	struct packet *p = &s->packet, *q = &s->quoted;
	struct turn *t = &s->turn;
	struct ip source;
	__be32 before, after;
	__s64 sum;
	long error;

	turn_set(s, form);
	/* The quoted packet went the other way. */
	source = t->source;
	t->source = t->destination;
	t->destination = source;
	sum = bpf_csum_diff((__be32 *)&q->source, 32, (__be32 *)&t->source, 32, 0);
	error = store_addresses(skb, t, q->family, q->l3, sum, 0);
	if (q->family == 4)
		sum = 0; /* the quoted header's own checksum makes up for it */
	if (is_echo(q)) {
		before = bpf_htons(q->icmp_id);
		after = bpf_htons(s->mate.local_port);
		if (before != after) {
			error |= bpf_skb_store_bytes(skb, q->l4 + 4, &after, 2, 0);
			sum = bpf_csum_diff(&before, 4, &after, 4, sum);
		}
	} else if (q->protocol == IPPROTO_TCP || q->protocol == IPPROTO_UDP || q->protocol == IPPROTO_SCTP) {
		before = ports_word(q->source_port, q->destination_port);
		after = ports_word(t->destination_port, t->source_port); /* turn_set's, not swapped above */
		if (before != after) {
			error |= bpf_skb_store_bytes(skb, q->l4, &after, sizeof(after), 0);
			sum = bpf_csum_diff(&before, 4, &after, 4, sum);
		}
	}
	/* Without BPF_F_PSEUDO_HDR: quote and checksum cancel out in the sum over the whole packet. */
	error |= bpf_l4_csum_replace(skb, p->l4 + 2, 0, sum, 0);
	t->destination = t->source;
	/* A router on the way speaks for itself; the other end is who the receiver knows it as. */
	t->source = ip_equal(&p->source, &q->destination) ? source : p->source;
	sum = bpf_csum_diff((__be32 *)&p->source, 32, (__be32 *)&t->source, 32, 0);
	error |= store_addresses(skb, t, p->family, p->l3, sum, BPF_F_RECOMPUTE_CSUM);
	if (p->family == 6)
		error |= bpf_l4_csum_replace(skb, p->l4 + 2, 0, sum, BPF_F_PSEUDO_HDR);
	p->source = t->source;
	p->destination = t->destination;
	return error ? DROP_REWRITE_FAILED : 0;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers to struct packet. Every read goes through bpf_skb_load_bytes, which checks bounds and copes with paged packets:
 * hostile input can at worst be refused.
 */
#pragma once
#include "packet.h"

#define MAX_EXTENSIONS 8
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

static __always_inline int parse_icmp(struct packet *p, __u8 type, __u8 code, __be16 id)
{
	p->source_port = 0;
	p->destination_port = (__u16)type << 8 | code;
	p->icmp_id = bpf_ntohs(id);
	if (p->family == 4) {
		switch (type) {
		case 8: p->icmp_kind = ICMP_REQUEST; break;
		case 0: p->icmp_kind = ICMP_REPLY; break;
		case 3: case 4: case 5: case 11: case 12: p->icmp_kind = ICMP_ERROR; break;
		default: p->icmp_kind = ICMP_OTHER;
		}
	} else {
		switch (type) {
		case 128: p->icmp_kind = ICMP_REQUEST; break;
		case 129: p->icmp_kind = ICMP_REPLY; break;
		default: p->icmp_kind = type < 128 ? ICMP_ERROR : ICMP_OTHER;
		}
	}
	return 0;
}

/* `end`: first offset behind the IP packet. A quoted packet is cut short and shows 8 bytes of transport at least. */
static __always_inline int parse_transport(struct __sk_buff *skb, struct packet *p, __u32 end, bool quoted)
{
	__be16 w[4];
	__u32 need = 8;

	if (p->fragment == FRAGMENT_LATER)
		return 0;
	switch (p->protocol) {
	case IPPROTO_TCP:
		need = quoted ? 8 : 20;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		break;
	case IPPROTO_ICMP:
		if (p->family != 4)
			return 0;
		break;
	case IPPROTO_ICMPV6:
		if (p->family != 6)
			return 0;
		break;
	default:
		return 0;
	}
	if (!quoted && p->l4 + need > end)
		return DROP_TRUNCATED;
	if (bpf_skb_load_bytes(skb, p->l4, w, sizeof(w)))
		return DROP_TRUNCATED;
	p->l4_header = 8;
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		return parse_icmp(p, bpf_ntohs(w[0]) >> 8, bpf_ntohs(w[0]) & 0xff, w[2]);
	p->source_port = bpf_ntohs(w[0]);
	p->destination_port = bpf_ntohs(w[1]);
	if (p->protocol == IPPROTO_TCP && !quoted) {
		__be16 more[3];

		if (bpf_skb_load_bytes(skb, p->l4 + 8, more, sizeof(more)))
			return DROP_TRUNCATED;
		p->l4_header = (bpf_ntohs(more[2]) >> 12) * 4;
		if (p->l4_header < 20)
			return DROP_BAD_HEADER;
		p->tcp_flags = bpf_ntohs(more[2]) & 0xff;
		p->sequence = (__u32)bpf_ntohs(w[2]) << 16 | bpf_ntohs(w[3]);
		p->acknowledged = (__u32)bpf_ntohs(more[0]) << 16 | bpf_ntohs(more[1]);
	}
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p, bool quoted)
{
	struct iphdr h;
	__u32 header, total, room = skb->len - p->l3;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)))
		return DROP_TRUNCATED;
	header = h.ihl * 4;
	if (h.version != 4 || header < sizeof(h))
		return DROP_BAD_HEADER;
	total = bpf_ntohs(h.tot_len);
	if (!quoted && skb->gso_size)
		total = room; /* a super-packet may be longer than the field can say */
	if (total < header || (!quoted && total > room))
		return DROP_TRUNCATED;
	ip_from4(&p->source, h.saddr);
	ip_from4(&p->destination, h.daddr);
	p->family = 4;
	p->protocol = h.protocol;
	p->ttl = h.ttl;
	p->length = total;
	p->l4 = p->l3 + header;
	fragment = bpf_ntohs(h.frag_off);
	p->fragment_id = h.id;
	if (fragment & IP_OFFSET)
		p->fragment = FRAGMENT_LATER;
	else if (fragment & IP_MF)
		p->fragment = FRAGMENT_FIRST;
	return parse_transport(skb, p, p->l3 + total, quoted);
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p, bool quoted)
{
	struct ipv6hdr h;
	__u32 total, room = skb->len - p->l3, at;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)))
		return DROP_TRUNCATED;
	if ((bpf_ntohl(h.flow) >> 28) != 6)
		return DROP_BAD_HEADER;
	total = sizeof(h) + bpf_ntohs(h.payload_len);
	if (!quoted && skb->gso_size)
		total = room;
	if (!quoted && total > room)
		return DROP_TRUNCATED;
	__builtin_memcpy(&p->source, h.saddr, 16);
	__builtin_memcpy(&p->destination, h.daddr, 16);
	p->family = 6;
	p->ttl = h.hop_limit;
	p->length = total;
	next = h.nexthdr;
	at = p->l3 + sizeof(h);
	/* Unrolled: a loop whose head is reached by falling through is a back edge that Linux 6.1 refuses. */
#pragma clang loop unroll(full)
	for (i = 0; i <= MAX_EXTENSIONS; i++) {
		__u8 x[8];

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (i == MAX_EXTENSIONS)
			return DROP_EXTENSION_HEADERS;
		if (bpf_skb_load_bytes(skb, at, x, sizeof(x)))
			return DROP_TRUNCATED;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = (__u16)x[2] << 8 | x[3];

			p->fragment_id = (__u32)x[4] << 24 | (__u32)x[5] << 16 | (__u32)x[6] << 8 | x[7];
			if (offset & ~7)
				p->fragment = FRAGMENT_LATER;
			else if (offset & 1)
				p->fragment = FRAGMENT_FIRST;
			at += 8;
		} else if (next == IPPROTO_AH) {
			at += (x[1] + 2) * 4;
		} else {
			at += (x[1] + 1) * 8;
		}
		next = x[0];
		if (p->fragment == FRAGMENT_LATER)
			break; /* what follows is payload */
	}
	p->protocol = next;
	p->l4 = at;
	if (!quoted && at > p->l3 + total)
		return DROP_TRUNCATED;
	return parse_transport(skb, p, p->l3 + total, quoted);
}

/*
 * Reads the IP packet at offset l3. Returns 0 or a drop reason. Not static, like flow_admit and others: the verifier walks
 * a global function once, not for each call and each state before it (204,000 instructions became 39,000, and opening a
 * datapath takes 0.1 s instead of 0.8 s). Such a function has to look whether its pointers are there.
 */
__noinline int parse(struct __sk_buff *skb, struct packet *p, __u32 l3, __u32 family, bool quoted)
{
	if (!p)
		return DROP_BAD_HEADER;
	__builtin_memset(p, 0, sizeof(*p));
	p->l3 = l3;
	if (l3 > skb->len)
		return DROP_TRUNCATED;
	return family == 4 ? parse_ipv4(skb, p, quoted) : parse_ipv6(skb, p, quoted);
}

/* Addresses that no forwarded packet may have. */
__noinline int sanity(const struct packet *p)
{
	if (!p)
		return DROP_BAD_HEADER;
	if (p->family == 4) {
		__u32 source = bpf_ntohl(p->source.w[0]), destination = bpf_ntohl(p->destination.w[0]);

		if (destination >> 28 == 14 || destination == 0xffffffff)
			return DROP_MULTICAST;
		if (source >> 24 == 127 || source >> 24 == 0 || source >> 28 >= 14 || destination >> 24 == 127 ||
		    destination >> 24 == 0 || source == destination)
			return DROP_MARTIAN;
		return 0;
	}
	__u32 source = bpf_ntohl(p->source.w[0]), destination = bpf_ntohl(p->destination.w[0]);
	if (destination >> 24 == 0xff)
		return DROP_MULTICAST;
	if (source >> 24 == 0xff || ip_equal(&p->source, &p->destination) ||
	    !(p->source.w[0] | p->source.w[1] | p->source.w[2] | (p->source.w[3] & bpf_htonl(0xfffffffe))) ||
	    !(p->destination.w[0] | p->destination.w[1] | p->destination.w[2] |
	      (p->destination.w[3] & bpf_htonl(0xfffffffe))))
		return DROP_MARTIAN;
	if (source >> 22 == 0x3fa || destination >> 22 == 0x3fa)
		return DROP_LINK_LOCAL;
	return 0;
}

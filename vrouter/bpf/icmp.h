/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP and ICMPv6 that the gateway sends: echo replies, time exceeded, too big. */
#pragma once
#include "encap.h"
#include "route.h"

#define ICMP4_TIME_EXCEEDED (11 << 8)
#define ICMP4_FRAGMENTATION_NEEDED (3 << 8 | 4)
#define ICMP4_PORT_UNREACHABLE (3 << 8 | 3)
#define ICMP6_PORT_UNREACHABLE (1 << 8 | 4)
#define ICMP6_PACKET_TOO_BIG (2 << 8)
#define ICMP6_TIME_EXCEEDED (3 << 8)

static __always_inline bool is_gateway(const struct vif *vif, const struct packet *p)
{
	if (p->family == 4)
		return vif->gateway4.w[0] && p->destination.w[0] == vif->gateway4.w[0];
	if (!ip_is_zero(&vif->gateway6) && ip_equal(&p->destination, &vif->gateway6))
		return true;
	return p->destination.w[0] == bpf_htonl(0xfe800000) && !p->destination.w[1] && !p->destination.w[2] &&
	       p->destination.w[3] == bpf_htonl(0x5e000100);
}

/* Turns an echo request to the gateway into its reply, in place: the checksum changes by the type alone. */
static __noinline int icmp_echo_reply(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	struct packet *p = &s->packet;
	struct icmphdr icmp;
	__u32 sum;
	long error;

	if (p->icmp_kind != ICMP_REQUEST || p->fragment != FRAGMENT_NONE)
		return DROP_GATEWAY_SERVICE;
	if (bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
		return DROP_TRUNCATED;
	/* RFC 1624: HC' = ~(~HC + ~m + m'); the word is type and code. */
	sum = (__u16)~icmp.checksum;
	if (p->family == 4) {
		sum += (__u16)~bpf_htons(8 << 8 | icmp.code) + bpf_htons(0 << 8 | icmp.code);
		icmp.type = 0;
		error = bpf_skb_store_bytes(skb, p->l3 + 12, &p->destination, 4, 0);
		error |= bpf_skb_store_bytes(skb, p->l3 + 16, &p->source, 4, 0);
	} else {
		sum += (__u16)~bpf_htons(128 << 8 | icmp.code) + bpf_htons(129 << 8 | icmp.code);
		icmp.type = 129;
		error = bpf_skb_store_bytes(skb, p->l3 + 8, &p->destination, 16, 0);
		error |= bpf_skb_store_bytes(skb, p->l3 + 24, &p->source, 16, 0);
	}
	icmp.checksum = fold(sum);
	error |= bpf_skb_store_bytes(skb, p->l4, &icmp, 4, BPF_F_RECOMPUTE_CSUM);
	if (error)
		return DROP_REWRITE_FAILED;
	return deliver(skb, s, vif, bpf_htons(p->family == 4 ? ETH_P_IP : ETH_P_IPV6));
}

/* Whether the packet may be answered by an ICMP error (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). */
static __always_inline bool icmp_may_answer(const struct packet *p)
{
	return p->icmp_kind != ICMP_ERROR && p->fragment != FRAGMENT_LATER;
}

/* To whom the packet came from: the vif, or a client outside. */
static __always_inline int icmp_send(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __be16 proto)
{
	struct next_hop *nh;

	if (!s->outside)
		return deliver(skb, s, vif, proto);
	nh = next_hop_get(next_hop_outside(s->packet.family));
	if (!nh || nh->type != NEXT_HOP_OUTSIDE)
		return DROP_REWRITE_FAILED;
	return uplink_send(skb, s, nh, SENT_OUTSIDE);
}

static __always_inline int icmp_error4(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __u32 quote,
				       __u32 type_code, __u32 mtu)
{
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} h = {};
	struct packet *p = &s->packet;
	__s64 sum;

	h.icmp.type = type_code >> 8;
	h.icmp.code = type_code & 0xff;
	h.icmp.sequence = bpf_htons(mtu);
	__builtin_memcpy(s->answer, &h.icmp, sizeof(h.icmp));
	/* Zeros behind a short quote do not change the sum, so its length can be a constant. */
	sum = bpf_csum_diff(0, 0, (__be32 *)s->answer, sizeof(h.icmp) + ICMP_QUOTE, 0);
	h.icmp.checksum = fold(sum);
	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.tos = 0xc0; /* internetwork control, RFC 1812 section 4.3.2.5 */
	h.ip.tot_len = bpf_htons(sizeof(h) + quote);
	h.ip.ttl = 64;
	h.ip.protocol = IPPROTO_ICMP;
	/* A service that is not there speaks for itself. */
	h.ip.saddr = type_code == ICMP4_PORT_UNREACHABLE || s->outside ? p->destination.w[0] : vif->gateway4.w[0];
	h.ip.daddr = p->source.w[0];
	sum = bpf_csum_diff(0, 0, (__be32 *)&h.ip, sizeof(h.ip), 0);
	h.ip.check = fold(sum);
	if (bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &h, sizeof(h), 0))
		return DROP_REWRITE_FAILED;
	return icmp_send(skb, s, vif, bpf_htons(ETH_P_IP));
}

static __always_inline int icmp_error6(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __u32 quote,
				       __u32 type_code, __u32 mtu)
{
	struct {
		struct ip source;
		struct ip destination;
		__be32 length;
		__be32 next;
	} pseudo;
	struct {
		struct ipv6hdr ip;
		__u8 type;
		__u8 code;
		__sum16 checksum;
		__be32 mtu;
	} h = {};
	struct packet *p = &s->packet;
	__s64 sum;

	pseudo.source = type_code == ICMP6_PORT_UNREACHABLE || s->outside ? p->destination : vif->gateway6;
	if (ip_is_zero(&pseudo.source)) {
		pseudo.source.w[0] = bpf_htonl(0xfe800000);
		pseudo.source.w[3] = bpf_htonl(0x5e000100);
	}
	pseudo.destination = p->source;
	pseudo.length = bpf_htonl(8 + quote);
	pseudo.next = bpf_htonl(IPPROTO_ICMPV6);
	h.type = type_code >> 8;
	h.code = type_code & 0xff;
	h.mtu = bpf_htonl(mtu);
	__builtin_memcpy(s->answer, &h.type, 8);
	sum = bpf_csum_diff(0, 0, (__be32 *)s->answer, 8 + ICMP_QUOTE, 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), sum);
	h.checksum = fold(sum);
	h.ip.flow = bpf_htonl(0x60000000);
	h.ip.payload_len = bpf_htons(8 + quote);
	h.ip.nexthdr = IPPROTO_ICMPV6;
	h.ip.hop_limit = 64;
	__builtin_memcpy(h.ip.saddr, &pseudo.source, 16);
	__builtin_memcpy(h.ip.daddr, &pseudo.destination, 16);
	if (bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &h, sizeof(h), 0))
		return DROP_REWRITE_FAILED;
	return icmp_send(skb, s, vif, bpf_htons(ETH_P_IPV6));
}

/*
 * A token bucket as one time stamp: each answer moves it on by the interval, and it may be ahead of now by the burst. Races
 * between CPUs let one more answer pass at worst.
 */
#define ICMP_INTERVAL (10ULL * 1000 * 1000) /* ns: 100 a second */
#define ICMP_BURST (50 * ICMP_INTERVAL)

static __always_inline bool icmp_allowed(__u32 vif)
{
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &vif);
	__u64 now = bpf_ktime_get_coarse_ns(), until;

	if (!state)
		return false;
	until = state->icmp_until;
	if (until < now)
		until = now;
	if (until - now >= ICMP_BURST)
		return false;
	state->icmp_until = until + ICMP_INTERVAL;
	return true;
}

/*
 * Sends an error about the workload's packet back to it, from the gateway address: the packet itself, cut to a quote,
 * becomes the answer. The caller has counted the drop. Returns 0, or a reason if there can be no answer.
 */
__noinline int icmp_error(struct __sk_buff *skb, const struct vif *vif, __u32 type_code, __u32 mtu)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	struct packet *p = &s->packet;
	__u32 quote = skb->len - sizeof(struct ethhdr);

	if (!icmp_may_answer(p) ||
	    (p->family == 4 && !vif->gateway4.w[0] && type_code != ICMP4_PORT_UNREACHABLE &&
	     !s->outside))
		return DROP_REWRITE_FAILED;
	if (quote > ICMP_QUOTE)
		quote = ICMP_QUOTE;
	quote &= ~3U;
	if (quote < 28)
		return DROP_REWRITE_FAILED;
	if (bpf_skb_change_tail(skb, sizeof(struct ethhdr) + quote, 0))
		return DROP_REWRITE_FAILED;
	__builtin_memset(s->answer, 0, sizeof(s->answer));
	/* Bounds again in a form every verifier follows: 1 to ICMP_QUOTE. */
	quote = (quote - 1) & (ICMP_QUOTE - 1);
	quote += 1;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), s->answer + 8, quote))
		return DROP_REWRITE_FAILED;
	if (p->family == 4)
		return icmp_error4(skb, s, vif, quote, type_code, mtu);
	return icmp_error6(skb, s, vif, quote, type_code, mtu);
}

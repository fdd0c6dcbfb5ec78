/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Neighbour discovery (RFC 4861): solicitations are answered as ARP requests are; the gateway has a link-local address too. */
#pragma once
#include "arp.h"
#include "icmp.h"

enum { ND_ROUTER_SOLICITATION = 133, ND_NEIGHBOUR_SOLICITATION = 135, ND_REDIRECT = 137 };

#define ND_ROUTER 0x80000000U
#define ND_SOLICITED 0x40000000U
#define ND_OVERRIDE 0x20000000U

struct neighbour_advertisement {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct ip target;
	__u8 option; /* target link-layer address */
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[6];
};

/*
 * Makes the frame an advertisement of `target` at `mac`, but for its Ethernet header. Who asks without an address of its own (RFC
 * 4862) is told by way of all nodes.
 */
static __always_inline int nd_advertise(struct __sk_buff *skb, const struct ip *asker, const struct ip *target,
					const __u8 *mac, __u32 flags)
{
	struct neighbour_advertisement na = {};
	struct {
		__be32 length;
		__be32 next;
	} pseudo = { bpf_htonl(32), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	na.ip.flow = bpf_htonl(0x60000000);
	na.ip.payload_len = bpf_htons(32);
	na.ip.nexthdr = IPPROTO_ICMPV6;
	na.ip.hop_limit = 255;
	__builtin_memcpy(na.ip.saddr, target, 16);
	__builtin_memcpy(na.ip.daddr, asker, 16);
	if (ip_is_zero(asker)) {
		na.ip.daddr[0] = bpf_htonl(0xff020000);
		na.ip.daddr[3] = bpf_htonl(1);
		flags &= ~ND_SOLICITED;
	}
	na.type = 136;
	na.flags = bpf_htonl(flags);
	na.target = *target;
	na.option = 2;
	na.option_length = 1;
	__builtin_memcpy(na.mac, mac, 6);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)na.ip.saddr, 32 + 32, sum);
	na.checksum = fold(sum);
	if (bpf_skb_change_tail(skb, sizeof(struct ethhdr) + sizeof(na), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &na, sizeof(na), 0))
		return DROP_REWRITE_FAILED;
	return 0;
}

/* For packets whose transport is ICMPv6 type 133 to 137, which never leave the link. */
static __noinline int nd_answer(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	const __u8 gateway[6] = GATEWAY_MAC;
	struct packet *p = &s->packet;
	struct ip target, asker = p->source;
	int reason;

	if (p->destination_port != ND_NEIGHBOUR_SOLICITATION << 8 || p->ttl != 255)
		return DROP_ND_IGNORED;
	if (p->length < p->l4 - p->l3 + 24 || bpf_skb_load_bytes(skb, p->l4 + 8, &target, sizeof(target)))
		return DROP_TRUNCATED;
	if (ip_is_zero(&asker) || ip_equal(&asker, &target))
		return DROP_ND_IGNORED;
	p->destination = target;
	if (!is_gateway(vif, p) && !proxies(vif, 6, &target))
		return DROP_ND_IGNORED;
	reason = nd_advertise(skb, &asker, &target, gateway, ND_ROUTER | ND_SOLICITED | ND_OVERRIDE);
	if (reason)
		return reason;
	return deliver(skb, s, vif, bpf_htons(ETH_P_IPV6));
}

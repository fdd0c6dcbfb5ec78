/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnels in: is this packet ours, from whom, for which label, and where does the inner packet start. */
#pragma once
#include "encap.h"
#include "route.h"

struct tunnel {
	struct origin from;
	__u32 label;
	__u32 inner; /* offset of the inner IP packet */
	__u32 family; /* of the inner packet */
};

enum { NOT_OURS = -1 };

static __always_inline int mpls_read(struct __sk_buff *skb, struct tunnel *t, __u32 at)
{
	__be32 w[2];
	__u32 entry;

	if (bpf_skb_load_bytes(skb, at, w, sizeof(w)))
		return DROP_TRUNCATED;
	entry = bpf_ntohl(w[0]);
	if (!(entry & 1 << 8))
		return DROP_BAD_TUNNEL_HEADER;
	t->label = entry >> 12;
	t->inner = at + 4;
	t->family = bpf_ntohl(w[1]) >> 28;
	return t->family == 4 || t->family == 6 ? 0 : DROP_BAD_TUNNEL_HEADER;
}

static __always_inline int vxlan_read(struct __sk_buff *skb, struct tunnel *t, __u32 at)
{
	struct {
		__be32 flags;
		__be32 vni;
		struct ethhdr eth;
	} __attribute__((packed)) h;

	if (bpf_skb_load_bytes(skb, at, &h, sizeof(h)))
		return DROP_TRUNCATED;
	if (!(h.flags & bpf_htonl(0x08000000)))
		return DROP_BAD_TUNNEL_HEADER;
	t->label = bpf_ntohl(h.vni) >> 8;
	t->inner = at + sizeof(h);
	t->family = h.eth.h_proto == bpf_htons(ETH_P_IP) ? 4 : h.eth.h_proto == bpf_htons(ETH_P_IPV6) ? 6 : 0;
	return t->family ? 0 : DROP_UNKNOWN_ETHERTYPE;
}

/* 0: a tunnel packet for us; NOT_OURS: the host's; else a drop reason. */
static __noinline int tunnel_parse(struct __sk_buff *skb, struct tunnel *t)
{
	struct address_key source = {}, destination = {};
	__u32 at = sizeof(struct ethhdr), *peer;
	__u16 port = 0;
	__u8 protocol;
	bool cut = false;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr h;

		if (bpf_skb_load_bytes(skb, at, &h, sizeof(h)) || h.version != 4 || h.ihl < 5)
			return NOT_OURS;
		/* Later fragments show no ports; the host's reassembly gets them. */
		if (h.frag_off & bpf_htons(0x1fff))
			return NOT_OURS;
		cut = h.frag_off & bpf_htons(0x2000);
		protocol = h.protocol;
		source.family = destination.family = 4;
		source.address.w[0] = h.saddr;
		destination.address.w[0] = h.daddr;
		at += h.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr h;

		if (bpf_skb_load_bytes(skb, at, &h, sizeof(h)))
			return NOT_OURS;
		protocol = h.nexthdr;
		source.family = destination.family = 6;
		__builtin_memcpy(&source.address, h.saddr, 16);
		__builtin_memcpy(&destination.address, h.daddr, 16);
		at += sizeof(h);
	} else {
		return NOT_OURS;
	}
	if (protocol == IPPROTO_UDP) {
		struct udphdr udp;

		if (bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)))
			return NOT_OURS;
		port = bpf_ntohs(udp.dest);
		if (port != PORT_VXLAN && port != PORT_MPLS_UDP && port != PORT_MPLS_UDP_OLD)
			return NOT_OURS;
		at += sizeof(udp);
	} else if (protocol != IPPROTO_GRE) {
		return NOT_OURS;
	}
	if (!bpf_map_lookup_elem(&tunnel_addresses, &destination))
		return NOT_OURS;
	if (cut)
		return DROP_OUTER_FRAGMENT;
	peer = bpf_map_lookup_elem(&peers, &source);
	if (!peer)
		return DROP_UNKNOWN_PEER;
	t->from.ifindex = 0;
	t->from.family = source.family;
	t->from.remote = source.address;
	t->from.peer = *peer;
	if (protocol == IPPROTO_GRE) {
		__be32 gre;

		if (bpf_skb_load_bytes(skb, at, &gre, sizeof(gre)))
			return DROP_TRUNCATED;
		if (gre != bpf_htonl(ETH_P_MPLS))
			return DROP_BAD_TUNNEL_HEADER;
		return mpls_read(skb, t, at + sizeof(gre));
	}
	return port == PORT_VXLAN ? vxlan_read(skb, t, at) : mpls_read(skb, t, at);
}

/* Takes everything between the outer Ethernet header and the inner IP packet away. */
static __noinline int tunnel_strip(struct __sk_buff *skb, __u32 inner, __u32 family, __u32 outer_family)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	__s32 cut = inner - sizeof(struct ethhdr);

	if (family != outer_family) {
		/* skb->protocol has to follow the change of family. */
		if (cfg.decap_flags) {
			flags |= family == 4 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
		} else {
			/* Before 6.3 only this helper changes it; it also makes room for, or takes, the 20
			 * bytes by which the headers differ. */
			if (bpf_skb_change_proto(skb, bpf_htons(family == 4 ? ETH_P_IP : ETH_P_IPV6), 0))
				return DROP_REWRITE_FAILED;
			cut += family == 4 ? -20 : 20;
		}
	}
	return bpf_skb_adjust_room(skb, -cut, BPF_ADJ_ROOM_MAC, flags) ? DROP_REWRITE_FAILED : 0;
}

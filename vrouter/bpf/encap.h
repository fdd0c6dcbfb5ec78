/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tunnels out: VXLAN, MPLSoUDP and MPLSoGRE over IPv4 or IPv6. bpf_skb_adjust_room is told the inner layout, so that GSO
 * super-packets stay whole; sizes of segments stay as they are (FIXED_GSO), for the size was checked before.
 */
#pragma once
#include "deliver.h"

enum { PORT_VXLAN = 4789, PORT_MPLS_UDP = 6635, PORT_MPLS_UDP_OLD = 51234 };
enum { OUTER_TTL = 64 };

struct vxlan_tail {
	struct udphdr udp;
	__be32 flags;
	__be32 vni;
	struct ethhdr eth;
} __attribute__((packed));

struct mpls_udp_tail {
	struct udphdr udp;
	__be32 label;
};

struct mpls_gre_tail {
	__be32 gre;
	__be32 label;
};

static __always_inline __u32 tail_size(__u32 encapsulation)
{
	switch (encapsulation) {
	case ENCAP_VXLAN:
		return sizeof(struct vxlan_tail);
	case ENCAP_MPLS_UDP:
		return sizeof(struct mpls_udp_tail);
	default:
		return sizeof(struct mpls_gre_tail);
	}
}

static __always_inline __u32 tunnel_overhead(const struct next_hop *nh)
{
	return (nh->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + tail_size(nh->encapsulation);
}

/* One label, bottom of stack. */
static __always_inline __be32 mpls_entry(__u32 label)
{
	return bpf_htonl(label << 12 | 1 << 8 | OUTER_TTL);
}

/*
 * Of a super-packet beyond 64 KiB the fields say 0: so the kernel has it (iph_totlen), segmentation writes the right ones.
 * A length that wraps would be believed: a bridge on the way with br_netfilter cuts the packet to it.
 */
static __always_inline __u16 wire_field(__u32 length)
{
	return length > 0xffff ? 0 : length;
}

static __always_inline long write_tail(struct __sk_buff *skb, const struct next_hop *nh, __u32 at, __u32 length,
				       __u32 entropy, __be16 inner)
{
	struct udphdr udp = { .source = bpf_htons(entropy), .len = bpf_htons(wire_field(length)) };

	if (nh->encapsulation == ENCAP_VXLAN) {
		/* Both ends are routers; receivers do not look at these addresses. */
		struct vxlan_tail t = {
			.udp = udp,
			.flags = bpf_htonl(0x08000000),
			.vni = bpf_htonl(nh->label << 8),
			.eth = { .h_dest = GATEWAY_MAC, .h_source = GATEWAY_MAC, .h_proto = inner },
		};

		t.udp.dest = bpf_htons(PORT_VXLAN);
		return bpf_skb_store_bytes(skb, at, &t, sizeof(t), 0);
	}
	if (nh->encapsulation == ENCAP_MPLS_UDP) {
		struct mpls_udp_tail t = { .udp = udp, .label = mpls_entry(nh->label) };

		t.udp.dest = bpf_htons(PORT_MPLS_UDP);
		return bpf_skb_store_bytes(skb, at, &t, sizeof(t), 0);
	}
	struct mpls_gre_tail t = { .gre = bpf_htonl(ETH_P_MPLS), .label = mpls_entry(nh->label) };

	return bpf_skb_store_bytes(skb, at, &t, sizeof(t), 0);
}

static __always_inline __u64 room_flags(const struct next_hop *nh)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	flags |= nh->family == 4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	switch (nh->encapsulation) {
	case ENCAP_VXLAN:
		/* The 8 bytes of VXLAN count as room, not as inner layer 2. */
		return flags | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
		       BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethhdr));
	case ENCAP_MPLS_UDP:
		return flags | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(4);
	default:
		return flags | BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_ENCAP_L2(4);
	}
}

/* Out by an uplink, in the packet's own words: source, destination and all are there. */
static __always_inline int uplink_send(struct __sk_buff *skb, struct scratch *s, const struct next_hop *nh, __u32 kind)
{
	note(skb, kind, nh->ifindex);
	/* The kernel resolves the neighbour (and, without a gateway, the route): it queues while ARP is under way. */
	if (nh->gateway_family) {
		struct bpf_redir_neigh via = {};

		if (nh->gateway_family == 4) {
			via.nh_family = AF_INET;
			via.ipv4_nh = nh->gateway.w[0];
		} else {
			via.nh_family = AF_INET6;
			__builtin_memcpy(via.ipv6_nh, &nh->gateway, 16);
		}
		s->action = bpf_redirect_neigh(nh->ifindex, &via, sizeof(via), 0);
	} else {
		s->action = bpf_redirect_neigh(nh->ifindex, 0, 0, 0);
	}
	return 0;
}

static __noinline int tunnel_send(struct __sk_buff *skb, struct scratch *s, const struct next_hop *nh, __u32 entropy)
{
	__be16 inner = bpf_htons(s->packet.family == 4 ? ETH_P_IP : ETH_P_IPV6);
	__u32 length, at = sizeof(struct ethhdr);
	__u8 protocol = nh->encapsulation == ENCAP_MPLS_GRE ? IPPROTO_GRE : IPPROTO_UDP;
	struct ethhdr eth = { .h_dest = GATEWAY_MAC, .h_source = GATEWAY_MAC };
	long error;

	error = bpf_skb_adjust_room(skb, tunnel_overhead(nh), BPF_ADJ_ROOM_MAC, room_flags(nh));
	if (error)
		return DROP_REWRITE_FAILED;
	length = skb->len - sizeof(struct ethhdr);
	if (nh->family == 4) {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(wire_field(length)),
			/* Never fragmented on the way: the inner sender is told its MTU instead. */
			.frag_off = bpf_htons(0x4000),
			.ttl = OUTER_TTL,
			.protocol = protocol,
			.saddr = nh->local.w[0],
			.daddr = nh->remote.w[0],
		};

		ip.check = fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
		error = bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0);
		at += sizeof(ip);
		length -= sizeof(ip);
		eth.h_proto = bpf_htons(ETH_P_IP);
	} else {
		struct ipv6hdr ip = {
			.flow = bpf_htonl(0x60000000),
			.payload_len = bpf_htons(wire_field(length - sizeof(ip))),
			.nexthdr = protocol,
			.hop_limit = OUTER_TTL,
		};

		__builtin_memcpy(ip.saddr, &nh->local, 16);
		__builtin_memcpy(ip.daddr, &nh->remote, 16);
		error = bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0);
		at += sizeof(ip);
		length -= sizeof(ip);
		eth.h_proto = bpf_htons(ETH_P_IPV6);
	}
	error |= write_tail(skb, nh, at, length, entropy, inner);
	error |= bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
	if (error)
		return DROP_REWRITE_FAILED;
	return uplink_send(skb, s, nh, SENT_TUNNEL);
}

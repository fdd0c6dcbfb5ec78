/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses in the underlay: those of workloads in provider networks, floating ones of public networks, and of services there. Each is
 * a host route in VRF 0, where nothing else is. What comes for a workload's by an uplink without a tunnel is the workload's,
 * and the uplink's neighbours are told the node's MAC for it. Nothing of another network's can be reached so.
 */
#pragma once
#include "forward.h"

enum { FOR_NATIVE = -7 };

static __always_inline struct route *native_route(__u32 family, const struct ip *address)
{
	struct host_key key = { .vrf = 0, .family = family, .address = *address };

	return bpf_map_lookup_elem(&host_routes, &key);
}

/* Whether s->packet is for a workload; s->target and s->from say for which. A service's address has no next hop. */
static __always_inline bool native_target(struct scratch *s)
{
	struct route *route = native_route(s->packet.family, &s->packet.destination);
	struct next_hop *nh = route ? next_hop_get(route->next_hop) : 0;

	if (!nh || nh->type != NEXT_HOP_LOCAL)
		return false;
	s->target = nh->ifindex;
	s->from.context = nh->context;
	return true;
}

/* Back by where it came from, with an Ethernet header of our own. */
static __always_inline int native_reply(struct __sk_buff *skb, struct scratch *s, const struct node *n, const __u8 *to,
					__be16 proto)
{
	struct ethhdr eth = { .h_proto = proto };

	__builtin_memcpy(eth.h_dest, to, 6);
	__builtin_memcpy(eth.h_source, n->uplink_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return DROP_REWRITE_FAILED;
	note(skb, SENT_OUTSIDE, skb->ifindex);
	s->action = bpf_redirect(skb->ifindex, 0);
	return 0;
}

/* Returns 0 with s->action set, NOT_OURS or a drop reason. */
__noinline int native_arp(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	struct node *n = node_get();
	struct ip target;
	struct arp arp;
	__u8 asker[4];

	if (!s || !n || skb->ifindex != n->uplink || skb->vlan_present ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &arp, sizeof(arp)))
		return NOT_OURS;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_length != 6 ||
	    arp.protocol_length != 4 || arp.operation != bpf_htons(1))
		return NOT_OURS;
	ip_from4(&target, 0);
	__builtin_memcpy(&target.w[0], arp.target_ip, 4);
	/* Who says that the address is its own does not ask. */
	if (!__builtin_memcmp(arp.sender_ip, arp.target_ip, 4) || !native_route(4, &target))
		return NOT_OURS;
	__builtin_memcpy(asker, arp.sender_ip, 4);
	arp.operation = bpf_htons(2);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, 6);
	__builtin_memcpy(arp.target_ip, asker, 4);
	__builtin_memcpy(arp.sender_mac, n->uplink_mac, 6);
	__builtin_memcpy(arp.sender_ip, &target.w[0], 4);
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &arp, sizeof(arp), 0))
		return DROP_REWRITE_FAILED;
	return native_reply(skb, s, n, arp.target_mac, bpf_htons(ETH_P_ARP));
}

static __always_inline bool is_solicitation(const struct packet *p)
{
	return p->family == 6 && p->icmp_kind == ICMP_OTHER && p->destination_port == ND_NEIGHBOUR_SOLICITATION << 8;
}

/* The same for IPv6; s->packet is parsed. */
__noinline int native_nd(struct __sk_buff *skb)
{
	const __u8 all_nodes[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	struct scratch *s = scratch_get();
	struct node *n = node_get();
	struct ip target, asker;
	__u8 to[6];
	int reason;

	if (!s || !n)
		return NOT_OURS;
	struct packet *p = &s->packet;

	asker = p->source;
	if (skb->ifindex != n->uplink || skb->vlan_present || p->ttl != 255 || p->length < p->l4 - p->l3 + 24 ||
	    bpf_skb_load_bytes(skb, p->l4 + 8, &target, sizeof(target)) || bpf_skb_load_bytes(skb, 6, to, sizeof(to)))
		return NOT_OURS;
	if (!native_route(6, &target))
		return NOT_OURS;
	if (ip_is_zero(&asker))
		__builtin_memcpy(to, all_nodes, sizeof(to));
	reason = nd_advertise(skb, &asker, &target, n->uplink_mac, ND_SOLICITED | ND_OVERRIDE);
	if (reason)
		return reason;
	return native_reply(skb, s, n, to, bpf_htons(ETH_P_IPV6));
}

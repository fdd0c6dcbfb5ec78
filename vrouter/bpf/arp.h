/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP: every address the workload may reach is at the gateway's MAC, because every network is routed. Questions about
 * the asker's own address (duplicate address detection, announcements) get no answer.
 */
#pragma once
#include "deliver.h"
#include "route.h"

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
} __attribute__((packed));

/* Whether the gateway answers for an address: it is the gateway's, or it is routed and not to the asker. */
static __always_inline bool proxies(const struct vif *vif, __u32 family, const struct ip *target)
{
	struct origin asker = { .ifindex = vif->ifindex };
	struct route *route;
	struct next_hop *nh;

	/* The node's own stack asks here for what it answers, and that may be of any VRF that asked it. */
	if (vif->flags & VIF_HOST)
		return true;
	route = route_find(vif->vrf, family, target);
	if (!route || next_hop_from(route->next_hop, &asker))
		return false;
	nh = next_hop_get(route->next_hop);
	return nh && nh->type != NEXT_HOP_DISCARD;
}

static __noinline int arp_answer(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	const __u8 gateway[6] = GATEWAY_MAC;
	struct ip target, sender;
	struct arp arp;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &arp, sizeof(arp)))
		return DROP_TRUNCATED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_length != 6 ||
	    arp.protocol_length != 4)
		return DROP_BAD_HEADER;
	if (arp.operation != bpf_htons(1))
		return DROP_ARP_IGNORED;
	ip_from4(&target, 0);
	ip_from4(&sender, 0);
	__builtin_memcpy(&target.w[0], arp.target_ip, 4);
	__builtin_memcpy(&sender.w[0], arp.sender_ip, 4);
	if (!sender.w[0] || sender.w[0] == target.w[0])
		return DROP_ARP_IGNORED;
	if (!(vif->flags & VIF_POLICY_DISABLED) && !mac_equal(arp.sender_mac, vif->mac))
		return DROP_SOURCE_MAC;
	if (target.w[0] != vif->gateway4.w[0] && !proxies(vif, 4, &target))
		return DROP_ARP_IGNORED;
	arp.operation = bpf_htons(2);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, 6);
	__builtin_memcpy(arp.target_ip, &sender.w[0], 4);
	__builtin_memcpy(arp.sender_mac, gateway, 6);
	__builtin_memcpy(arp.sender_ip, &target.w[0], 4);
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &arp, sizeof(arp), 0))
		return DROP_REWRITE_FAILED;
	return deliver(skb, s, vif, bpf_htons(ETH_P_ARP));
}

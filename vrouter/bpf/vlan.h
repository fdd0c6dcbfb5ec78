/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * VLAN sub-interfaces: workloads inside a workload, which share its device and are told apart by their 802.1Q tag. A tag is
 * taken off before anything else looks at the frame and put on again as the last thing; in between a sub-interface is a vif like any other.
 * The kernel keeps the tag of a received frame beside it (skb->vlan_tci); only a second one is in the frame.
 */
#pragma once
#include "packet.h"

enum { ETH_P_8021Q = 0x8100, ETH_P_8021AD = 0x88a8, VLAN_VID = 0x0fff };

static __always_inline bool vlan_type(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/*
 * Takes the tag off and says whose frame it is: `ifindex` becomes the sub-interface's number, and stays with the device itself for a
 * tag that says nothing but a priority (IEEE 802.1Q-2018 section 6.9: VID 0).
 */
static __noinline int vlan_enter(struct __sk_buff *skb, __u32 *ifindex)
{
	struct vlan_key key = { .device = *ifindex };
	struct {
		__be16 type;
		__be16 tci;
	} tag;
	__u32 *vif;

	if (skb->vlan_present) {
		tag.type = skb->vlan_proto;
		tag.tci = bpf_htons(skb->vlan_tci);
	} else if (bpf_skb_load_bytes(skb, 12, &tag, sizeof(tag))) {
		return DROP_TRUNCATED;
	}
	/* Service tags are a provider's, between bridges. */
	if (tag.type != bpf_htons(ETH_P_8021Q))
		return DROP_VLAN_TAGGED;
	key.vlan = bpf_ntohs(tag.tci) & VLAN_VID;
	if (bpf_skb_vlan_pop(skb))
		return DROP_REWRITE_FAILED;
	if (skb->vlan_present || vlan_type(skb->protocol))
		return DROP_DOUBLE_TAGGED;
	if (!key.vlan)
		return 0;
	vif = bpf_map_lookup_elem(&vlans, &key);
	if (!vif)
		return DROP_VLAN_TAGGED;
	*ifindex = *vif;
	return 0;
}

/* Out to the device with the tag, which the kernel or the device writes into the frame, of super-packets into every segment. */
static __noinline int vlan_deliver(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vif->vlan))
		return DROP_REWRITE_FAILED;
	skb->cb[3] = vif->vlan;
	/* Not to the veth's other end itself: what arrives there by that way is taken for untagged. */
	s->action = bpf_redirect(vif->device, 0);
	return 0;
}

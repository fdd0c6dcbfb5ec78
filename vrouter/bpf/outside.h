/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What comes by an uplink to the node's own addresses without a tunnel: answers to workloads that went out by them. All
 * else is the host's, untouched.
 */
#pragma once
#include "forward.h"

/* The vif whose flow the packet of s->key belongs to. */
static __always_inline struct vif *outside_owner(struct scratch *s, struct origin *from)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key);
	__u32 ifindex;

	if (!f || f->form != FORM_FABRIC)
		return 0;
	ifindex = f->ifindex;
	from->context = f->context;
	return bpf_map_lookup_elem(&vifs, &ifindex);
}

/* Returns 0 with s->action set, NOT_OURS, or a drop reason. */
__noinline int outside_packet(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	struct node *n = node_get();

	if (!s || !n || !(n->families | n->services))
		return NOT_OURS;
	struct packet *p = &s->packet, *quoted = &s->quoted;
	struct origin from = { .peer = PEER_OUTSIDE, .flags = ORIGIN_OUTSIDE };
	struct vif *vif;
	__u32 family;
	int reason;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return NOT_OURS;
	family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6;
	s->vif = NO_VIF;
	s->direction = INGRESS;
	if (parse(skb, p, sizeof(struct ethhdr), family, false))
		return NOT_OURS;
	if (p->fragment == FRAGMENT_LATER && fragment_resolve(s, INGRESS))
		return NOT_OURS;
	if (p->icmp_kind == ICMP_ERROR) {
		if (p->fragment != FRAGMENT_NONE || parse(skb, quoted, p->l4 + 8, family, true) ||
		    quoted->fragment == FRAGMENT_LATER || quoted->icmp_kind == ICMP_ERROR)
			return NOT_OURS;
		flow_key_set(&s->key, NO_VIF, quoted, EGRESS);
	} else {
		flow_key_set(&s->key, NO_VIF, p, INGRESS);
	}
	vif = outside_owner(s, &from);
	if (!vif)
		return NOT_OURS;
	if (p->fragment == FRAGMENT_FIRST)
		fragment_resolve(s, INGRESS);
	s->vif = vif->id;
	if (p->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	reason = workload_enter(skb, s, vif, &from);
	if (reason)
		return reason;
	if (ttl_decrement(skb, p))
		return DROP_REWRITE_FAILED;
	return deliver(skb, s, vif, bpf_htons(family == 4 ? ETH_P_IP : ETH_P_IPV6));
}

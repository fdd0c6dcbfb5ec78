/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What comes by an uplink without a tunnel. To the node's own addresses: answers to workloads that went out by them, and clients of
 * services there. To addresses in the underlay that workloads have: theirs. All else is the host's, untouched.
 */
#pragma once
#include "native.h"

enum {
	FOR_SERVICE = -6, /* outside_service is to look, */
	FOR_MEMBER = -8, /* outside_member to deliver to the vif of s->target, */
	FOR_HOST = -9, /* outside_host to send on in the node's own name */
};

/* The vif whose flow the packet of s->key belongs to. */
static __always_inline struct vif *outside_owner(struct scratch *s, struct origin *from)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key);
	__u32 ifindex;

	if (!f || f->form != FORM_FABRIC)
		return 0;
	ifindex = f->ifindex;
	from->context = f->arrival;
	return bpf_map_lookup_elem(&vifs, &ifindex);
}

static __always_inline int outside_deliver(struct __sk_buff *skb, struct scratch *s, const struct vif *vif,
					   const struct origin *from)
{
	struct packet *p = &s->packet;
	int reason;

	s->vif = vif->id;
	if (p->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	reason = workload_enter(skb, s, vif, from);
	if (reason)
		return reason;
	if (ttl_decrement(skb, p))
		return DROP_REWRITE_FAILED;
	return hand_over(skb, s, vif);
}

/*
 * The first packet of a client to a service whose members see it, and all packets to one whose members see the node. Says who is
 * to have it, NOT_OURS or a drop reason.
 */
__noinline int outside_service(void)
{
	struct scratch *s = scratch_get();
	struct node *n = node_get();
	struct service *service;

	if (!s || !n)
		return NOT_OURS;
	struct packet *p = &s->packet;
	struct origin *from = &s->from;
	__u32 ifindex;
	int reason;

	service = service_outside(s);
	if (!service)
		return NOT_OURS;
	from->ifindex = from->context = 0;
	from->peer = PEER_OUTSIDE;
	from->flags = ORIGIN_OUTSIDE | ORIGIN_SERVICE;
	if (!source_allowed(s, service))
		return DROP_SERVICE_SOURCE;
	if (p->fragment == FRAGMENT_FIRST)
		fragment_resolve(s, INGRESS);
	if (service->flags & SERVICE_KEEP_SOURCE) {
		struct route *route;
		struct next_hop *nh;

		if (sanity(p))
			return DROP_MARTIAN;
		flow_key_set(&s->key, NO_VIF, p, EGRESS);
		reason = service_pick(s, service, flow_hash(p));
		if (reason)
			return reason;
		route = route_find(service->vrf, p->family, &s->pick.fresh.member.address);
		nh = route ? next_hop_get(route->next_hop) : 0;
		if (!nh || nh->type != NEXT_HOP_LOCAL)
			return DROP_NO_MEMBERS;
		ifindex = nh->ifindex;
		from->context = nh->context;
		if (!bpf_map_lookup_elem(&vifs, &ifindex))
			return DROP_NO_MEMBERS;
		s->target = ifindex;
		return FOR_MEMBER;
	}
	s->target = n->host;
	flow_key_set(&s->key, NO_VIF, p, EGRESS);
	if (!bpf_map_lookup_elem(&flows, &s->key) && !sanity(p)) {
		const struct ip *self = own_address(p->family);

		/* A member that is the node's own stack must not see itself as its client. */
		reason = service_pick(s, service, flow_hash(p));
		if (!reason && self && ip_equal(self, &s->pick.fresh.member.address))
			return FOR_MEMBER;
	}
	return FOR_HOST;
}

/* To the workload, or the node's own stack, that outside_service has found. */
__noinline int outside_member(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();

	if (!s)
		return NOT_OURS;
	__u32 ifindex = s->target;
	struct vif *vif = bpf_map_lookup_elem(&vifs, &ifindex);

	return vif ? outside_deliver(skb, s, vif, &s->from) : DROP_NO_INTERFACE;
}

/* To a member that sees the node as its client, as the node's own stack would send it. */
__noinline int outside_host(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();

	if (!s)
		return NOT_OURS;
	struct packet *p = &s->packet;
	struct origin *from = &s->from;
	struct path path = {};
	__u32 ifindex = s->target;
	struct vif *vif = bpf_map_lookup_elem(&vifs, &ifindex);
	int reason;

	if (!vif)
		return DROP_NO_INTERFACE;
	s->vif = vif->id;
	s->outside = 1;
	s->direction = EGRESS;
	if (sanity(p))
		return DROP_MARTIAN;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, s, vif);
	from->ifindex = ifindex;
	reason = flow_admit(vif, from, &path);
	if (reason == DROP_NO_MEMBERS)
		return refuse(skb, s, vif, reason);
	if (reason)
		return reason;
	return send_on(skb, s, vif, &path);
}

/* To a workload in the underlay. Who sends is judged by the route to it, as everywhere. */
__noinline int native_deliver(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();

	if (!s)
		return NOT_OURS;
	struct origin *from = &s->from;
	__u32 ifindex = s->target;
	struct vif *vif = bpf_map_lookup_elem(&vifs, &ifindex);

	if (!vif)
		return DROP_NO_INTERFACE;
	s->vif = vif->id;
	from->ifindex = 0;
	from->peer = PEER_OUTSIDE;
	from->flags = ORIGIN_NATIVE;
	if (sanity(&s->packet))
		return DROP_MARTIAN;
	return outside_deliver(skb, s, vif, from);
}

/*
 * Returns 0 with s->action set, NOT_OURS, FOR_SERVICE or FOR_NATIVE if outside_service or native_deliver is to look, or a
 * drop reason.
 */
__noinline int outside_packet(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	struct node *n = node_get();

	if (!s || !n || !(n->families | n->services | n->natives))
		return NOT_OURS;
	struct packet *p = &s->packet, *quoted = &s->quoted;
	struct origin *from = &s->from;
	struct vif *vif;
	__u32 family;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return n->natives ? native_arp(skb) : NOT_OURS;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return NOT_OURS;
	family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6;
	s->vif = NO_VIF;
	s->outside = s->own = s->lent = 0;
	s->direction = INGRESS;
	if (parse(skb, p, sizeof(struct ethhdr), family, false))
		return NOT_OURS;
	if (n->natives) {
		if (native_target(s))
			return FOR_NATIVE;
		if (is_solicitation(p))
			return native_nd(skb);
	}
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
	from->ifindex = 0;
	from->peer = PEER_OUTSIDE;
	from->flags = ORIGIN_OUTSIDE;
	vif = outside_owner(s, from);
	if (!vif)
		return n->services && p->icmp_kind == ICMP_NONE ? FOR_SERVICE : NOT_OURS;
	if (p->fragment == FRAGMENT_FIRST)
		fragment_resolve(s, INGRESS);
	return outside_deliver(skb, s, vif, from);
}

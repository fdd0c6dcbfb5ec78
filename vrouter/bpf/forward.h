/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two walks of a packet: from a workload, and into one. */
#pragma once
#include "drop.h"
#include "parse.h"
#include "frag.h"
#include "admit.h"
#include "translate.h"
#include "icmp.h"
#include "arp.h"
#include "nd.h"
#include "encap.h"
#include "decap.h"

enum { SIZE_BY_FRAGMENTS = 0xffff };

/* Length of the IP packet as it will be on the wire: of a super-packet, of its segments. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = skb->gso_size;

	if (!size || size == SIZE_BY_FRAGMENTS)
		return p->length;
	return p->l4 - p->l3 + p->l4_header + size;
}

/*
 * The packet does not fit. IPv4 without DF is refused like the rest: tc cannot fragment, the outer packet must not be
 * (spec section 12.10), and every stack of this century heeds the message.
 */
static __always_inline int too_big(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __u32 mtu)
{
	drop(skb, s, DROP_TOO_BIG);
	s->action = TC_ACT_SHOT;
	if (!icmp_allowed(vif->id)) {
		drop(skb, s, DROP_ICMP_ERROR_LIMIT);
		return 0;
	}
	icmp_error(skb, vif, s->packet.family == 4 ? ICMP4_FRAGMENTATION_NEEDED : ICMP6_PACKET_TOO_BIG, mtu);
	return 0;
}

static __always_inline int ttl_exceeded(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	drop(skb, s, DROP_TTL_EXCEEDED);
	s->action = TC_ACT_SHOT;
	if (!icmp_allowed(vif->id)) {
		drop(skb, s, DROP_ICMP_ERROR_LIMIT);
		return 0;
	}
	icmp_error(skb, vif, s->packet.family == 4 ? ICMP4_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED, 0);
	return 0;
}

/* No such service, or none of its members is there: the client is to know at once. */
static __always_inline int refuse(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __u32 reason)
{
	drop(skb, s, reason);
	s->action = TC_ACT_SHOT;
	if (!icmp_allowed(vif->id)) {
		drop(skb, s, DROP_ICMP_ERROR_LIMIT);
		return 0;
	}
	icmp_error(skb, vif, s->packet.family == 4 ? ICMP4_PORT_UNREACHABLE : ICMP6_PORT_UNREACHABLE, 0);
	return 0;
}

static __always_inline long ttl_decrement(struct __sk_buff *skb, const struct packet *p)
{
	if (p->family == 4) {
		/* Bytes 8 to 11: TTL, protocol, checksum. RFC 1624 for a change of 0x0100 in the first word. */
		struct {
			__u8 ttl;
			__u8 protocol;
			__sum16 check;
		} h;
		__u32 sum;

		if (bpf_skb_load_bytes(skb, p->l3 + 8, &h, sizeof(h)))
			return -1;
		sum = (__u32)h.check + bpf_htons(0x0100);
		h.check = sum + (sum >= 0xffff);
		h.ttl--;
		return bpf_skb_store_bytes(skb, p->l3 + 8, &h, sizeof(h), 0);
	}
	__u8 limit = p->ttl - 1;

	return bpf_skb_store_bytes(skb, p->l3 + 7, &limit, 1, BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int turn(struct __sk_buff *skb, const struct scratch *s, __u32 form)
{
	if (!form)
		return 0;
	return s->packet.icmp_kind == ICMP_ERROR ? translate_error(skb, form) : translate(skb, form);
}

/*
 * Port security off: only connections that are translated, or belong to another VRF, have flows. `from` is NULL for
 * packets from the workload.
 */
static __always_inline bool flow_wanted(struct scratch *s, const struct vif *vif, const struct origin *from)
{
	const struct packet *p = &s->packet;
	struct vif_state *state;
	struct route *route;
	struct next_hop *nh;

	if (!(vif->flags & VIF_POLICY_DISABLED) || (from && (from->context || from->flags & ORIGIN_OUTSIDE)))
		return true;
	/* Most have none at all, and this is the cheaper look. */
	state = bpf_map_lookup_elem(&vif_states, &s->vif);
	if (state && state->flows) {
		flow_key_set(&s->key, vif->id, p, from ? INGRESS : EGRESS);
		if (bpf_map_lookup_elem(&flows, &s->key))
			return true;
	}
	if (from)
		return false;
	if (vif->floating[0])
		return true;
	if (s->lent || destination_owner(s))
		return true;
	route = route_find(vif->vrf, p->family, &p->destination);
	nh = route ? next_hop_get(route->next_hop) : 0;
	return nh && (nh->type == NEXT_HOP_SERVICE || nh->type == NEXT_HOP_OUTSIDE);
}

/* Into the vif that has judged the packet; or, if it stands in for a client outside, on to that. */
static __always_inline int hand_over(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	__u32 family = s->packet.family;
	struct next_hop *nh;

	if (!s->onward)
		return deliver(skb, s, vif, bpf_htons(family == 4 ? ETH_P_IP : ETH_P_IPV6));
	nh = next_hop_get(next_hop_outside(family));
	if (!nh || nh->type != NEXT_HOP_OUTSIDE)
		return DROP_DISCARD_ROUTE;
	return uplink_send(skb, s, nh, SENT_OUTSIDE);
}

/* Judges a packet that enters `vif` from elsewhere, and counts it. s->packet is parsed and sane. */
static __noinline int workload_enter(struct __sk_buff *skb, struct scratch *s, const struct vif *vif,
				     const struct origin *from)
{
	struct packet *p = &s->packet;
	bool secure = !(vif->flags & VIF_POLICY_DISABLED);
	struct path path = {};
	int reason;

	s->vif = vif->id;
	s->direction = INGRESS;
	if (vif->flags & VIF_ADMIN_DOWN)
		return DROP_ADMIN_DOWN;
	if (p->fragment != FRAGMENT_NONE) {
		reason = fragment_resolve(s, INGRESS);
		if (reason && secure)
			return reason;
	}
	if (p->icmp_kind == ICMP_ERROR) {
		reason = flow_admit_error(skb, vif, from, &path);
		if (reason == DROP_ICMP_ERROR_WITHOUT_FLOW && !secure)
			reason = 0;
	} else {
		reason = flow_wanted(s, vif, from) ? flow_admit(vif, from, &path) : 0;
	}
	if (!reason)
		reason = turn(skb, s, path.form);
	if (reason)
		return reason;
	s->onward = path.form == FORM_FABRIC && s->mate.vif == NO_VIF;
	count_in(vif->id, p->length);
	return 0;
}

/* Port security off: no flow, so every packet is looked up. */
static __always_inline int path_without_flow(const struct vif *vif, const struct packet *p, struct path *path)
{
	struct route *route = route_find(vif->vrf, p->family, &p->destination);
	__u32 hash;

	if (!route)
		return DROP_NO_ROUTE;
	hash = flow_hash(p);
	path->next_hop = next_hop_leaf(route->next_hop, 0, hash);
	path->entropy = entropy_port(hash);
	return path->next_hop ? 0 : DROP_DISCARD_ROUTE;
}

static __always_inline int send_local(struct __sk_buff *skb, struct scratch *s, const struct vif *vif,
				      const struct next_hop *nh, __u32 form)
{
	struct origin *from = &s->from;
	struct packet *p = &s->packet;
	__u32 ifindex = nh->ifindex;
	struct vif *to;
	int reason;

	if (ifindex == vif->ifindex)
		return DROP_MARTIAN;
	to = bpf_map_lookup_elem(&vifs, &ifindex);
	if (!to)
		return DROP_DISCARD_ROUTE;
	if (to->mtu && wire_length(skb, p) > to->mtu && !skb->gso_size)
		return too_big(skb, s, vif, to->mtu);
	reason = turn(skb, s, form);
	from->ifindex = vif->ifindex;
	from->peer = PEER_LOCAL | vif->ifindex;
	from->context = nh->context;
	from->flags = vif->flags & VIF_HOST && !s->outside ? ORIGIN_HOST : 0;
	if (!reason)
		reason = workload_enter(skb, s, to, from);
	if (reason)
		return reason;
	count_out(vif->id, p->length);
	if (ttl_decrement(skb, p))
		return DROP_REWRITE_FAILED;
	return hand_over(skb, s, to);
}

/* To a member that is the client itself. */
static __always_inline int send_back(struct __sk_buff *skb, struct scratch *s, const struct vif *vif)
{
	struct packet *p = &s->packet;
	int reason = turn(skb, s, FORM_LOOP);

	if (reason)
		return reason;
	count_out(vif->id, p->length);
	count_in(vif->id, p->length);
	if (ttl_decrement(skb, p))
		return DROP_REWRITE_FAILED;
	return deliver(skb, s, vif, bpf_htons(p->family == 4 ? ETH_P_IP : ETH_P_IPV6));
}

static __always_inline int send_on(struct __sk_buff *skb, struct scratch *s, const struct vif *vif,
				   const struct path *path)
{
	struct next_hop *nh = next_hop_get(path->next_hop);
	struct packet *p = &s->packet;

	__u32 overhead = 0;
	int reason;

	if (path->form == FORM_LOOP)
		return send_back(skb, s, vif);
	if (!nh)
		return DROP_DISCARD_ROUTE;
	if (nh->type == NEXT_HOP_LOCAL)
		return send_local(skb, s, vif, nh, path->form);
	if (nh->type == NEXT_HOP_TUNNEL)
		overhead = tunnel_overhead(nh);
	else if (nh->type != NEXT_HOP_OUTSIDE && nh->type != NEXT_HOP_NATIVE)
		return DROP_DISCARD_ROUTE;
	if (wire_length(skb, p) + overhead > nh->mtu)
		return too_big(skb, s, vif, nh->mtu - overhead);
	reason = turn(skb, s, path->form);
	if (reason)
		return reason;
	if (ttl_decrement(skb, p))
		return DROP_REWRITE_FAILED;
	count_out(vif->id, p->length);
	if (nh->type != NEXT_HOP_TUNNEL)
		return uplink_send(skb, s, nh, SENT_OUTSIDE);
	return tunnel_send(skb, s, nh, path->entropy);
}

/* From a workload. Returns 0 with s->action set, or a drop reason. */
static __always_inline int workload_packet(struct __sk_buff *skb, struct scratch *s)
{
	const __u8 gateway[6] = GATEWAY_MAC;
	struct packet *p = &s->packet;
	__u32 ifindex = skb->ifindex;
	struct path path = {};
	struct ethhdr eth;
	struct vif *vif;
	bool secure;
	int reason;

	s->vif = 0;
	s->outside = s->own = s->lent = 0;
	s->direction = EGRESS;
	p->family = 0;
	if (skb->vlan_present || vlan_type(skb->protocol)) {
		reason = vlan_enter(skb, &ifindex);
		if (reason) {
			/* Counted at the device's own vif. */
			vif = bpf_map_lookup_elem(&vifs, &ifindex);
			s->vif = vif ? vif->id : 0;
			return reason;
		}
	}
	vif = bpf_map_lookup_elem(&vifs, &ifindex);
	if (!vif)
		return DROP_NO_INTERFACE;
	s->vif = vif->id;
	secure = !(vif->flags & VIF_POLICY_DISABLED);
	if (vif->flags & VIF_ADMIN_DOWN)
		return DROP_ADMIN_DOWN;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return DROP_TRUNCATED;
	/* Taken from `lo` (loopback.h): the stack's own word, whatever it says. */
	s->own = vif->flags & VIF_HOST && mac_equal(eth.h_source, gateway);
	if (secure && !s->own && !mac_equal(eth.h_source, vif->mac))
		return DROP_SOURCE_MAC;
	if (eth.h_proto == bpf_htons(ETH_P_ARP))
		return arp_answer(skb, s, vif);
	if (eth.h_proto != bpf_htons(ETH_P_IP) && eth.h_proto != bpf_htons(ETH_P_IPV6))
		return DROP_UNKNOWN_ETHERTYPE;
	reason = parse(skb, p, sizeof(eth), eth.h_proto == bpf_htons(ETH_P_IP) ? 4 : 6, false);
	if (reason)
		return reason;
	if (p->icmp_kind == ICMP_OTHER && p->family == 6 && p->destination_port >> 8 >= ND_ROUTER_SOLICITATION &&
	    p->destination_port >> 8 <= ND_REDIRECT)
		return nd_answer(skb, s, vif);
	if (eth.h_dest[0] & 1)
		return DROP_MULTICAST;
	if (!mac_equal(eth.h_dest, gateway))
		return DROP_DESTINATION_MAC;
	if (is_gateway(vif, p))
		return icmp_echo_reply(skb, s, vif);
	reason = s->own ? 0 : sanity(p);
	if (reason)
		return reason;
	s->lent = s->own || (vif->flags & VIF_HOST && source_unknown(s));
	if (p->ttl <= 1)
		return ttl_exceeded(skb, s, vif);
	if (p->fragment != FRAGMENT_NONE) {
		reason = fragment_resolve(s, EGRESS);
		if (reason)
			return reason;
	}
	s->from.ifindex = ifindex;
	s->from.context = s->from.flags = 0;
	if (p->icmp_kind == ICMP_ERROR) {
		reason = flow_admit_error(skb, vif, &s->from, &path);
		if (reason == DROP_ICMP_ERROR_WITHOUT_FLOW && !secure)
			reason = path_without_flow(vif, p, &path);
	} else if (!secure && !flow_wanted(s, vif, 0)) {
		reason = path_without_flow(vif, p, &path);
	} else {
		reason = flow_admit(vif, &s->from, &path);
	}
	if (reason == DROP_SERVICE_PORT || reason == DROP_NO_MEMBERS)
		return refuse(skb, s, vif, reason);
	if (reason)
		return reason;
	return send_on(skb, s, vif, &path);
}

/* From the fabric. Returns 0 with s->action set, NOT_OURS, or a drop reason. */
static __always_inline int fabric_packet(struct __sk_buff *skb, struct scratch *s)
{
	struct packet *p = &s->packet;
	struct tunnel t = {};
	struct label *label;
	struct vif *vif;
	int reason;

	s->vif = 0;
	s->outside = s->own = s->lent = 0;
	s->direction = INGRESS;
	reason = tunnel_parse(skb, &t);
	if (reason)
		return reason;
	label = bpf_map_lookup_elem(&labels, &t.label);
	if (!label)
		return DROP_UNKNOWN_LABEL;
	t.from.context = label->context;
	vif = bpf_map_lookup_elem(&vifs, &label->ifindex);
	if (!vif)
		return DROP_UNKNOWN_LABEL;
	s->vif = vif->id;
	reason = parse(skb, p, t.inner, t.family, false);
	if (reason)
		return reason;
	reason = sanity(p);
	if (reason)
		return reason;
	reason = workload_enter(skb, s, vif, &t.from);
	if (reason)
		return reason;
	reason = tunnel_strip(skb, t.inner, t.family, t.from.family);
	if (reason)
		return reason;
	if (s->onward) {
		/* The strip has moved the packet, and nobody else takes the hop off. */
		p->l3 = sizeof(struct ethhdr);
		if (p->ttl <= 1)
			return DROP_TTL_EXCEEDED;
		if (ttl_decrement(skb, p))
			return DROP_REWRITE_FAILED;
	}
	return hand_over(skb, s, vif);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which addresses a new flow leaves with: a service's member, a floating address, the node's own address. The functions of the headers
 * below fill s->flow (form, VRF, context, service, mate) for the packet of s->key; flow_resolve then judges the
 * translated form, and both entries go in together. Here: whether a translation is still right.
 */
#pragma once
#include "floating.h"
#include "service.h"
#include "pair.h"

/* Whether s->flow, the entry of s->key, is still translated as it would be today. */
__noinline int translation_holds(const struct vif *vif)
{
	struct scratch *s = scratch_get();

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	const struct flow *f = &s->flow;
	const struct flow_key *inside = f->form == FORM_FABRIC ? &f->mate : &s->key;
	const struct flow_key *outside = f->form == FORM_FABRIC ? &s->key : &f->mate;
	__u32 id = f->context;

	if (f->service) {
		bool loop = f->form == FORM_LOOP;
		/* What is connected stays, as long as there is a way to it: a member that is not ready just gets no new ones. */
		bool stays = p->protocol == IPPROTO_TCP && !tcp_opens(p);
		struct member_key key = { .service = f->service, .family = p->family };
		bool ask_route = inside->vif != NO_VIF && !(f->flags & (FLOW_FROM_OUTSIDE | FLOW_TO_NODE_PORT));
		struct next_hop *nh;
		struct route *route;

		if (f->flags & FLOW_FROM_OUTSIDE) {
			key.address = inside->local;
			key.port = inside->local_port;
		} else if (loop) {
			/* Either entry may be the one that the server's packets find; both ports are tried. */
			key.address = inside->local;
			key.port = inside->local_port;
			if (!bpf_map_lookup_elem(&member_set, &key)) {
				key.address = outside->local;
				key.port = outside->local_port;
			}
			ask_route = false;
		} else {
			key.address = outside->remote;
			key.port = outside->remote_port;
		}
		if (!stays && !bpf_map_lookup_elem(&member_set, &key))
			return DROP_TRANSLATION_GONE;
		if (ask_route) {
			route = route_find(vif->vrf, p->family, &inside->remote);
			nh = route ? next_hop_get(route->next_hop) : 0;
			if (!nh || nh->type != NEXT_HOP_SERVICE)
				return DROP_TRANSLATION_GONE;
		}
	} else if (id) {
		struct context *c = bpf_map_lookup_elem(&contexts, &id);

		if (!c || c->family != p->family || !ip_equal(&c->floating, &outside->local) ||
		    !ip_equal(&c->fixed, &inside->local))
			return DROP_TRANSLATION_GONE;
	}
	/* Of those who meet themselves, either entry may be asked. */
	if ((outside->vif == NO_VIF || f->flags & FLOW_OWN_ADDRESS) && f->form != FORM_LOOP &&
	    !(f->flags & FLOW_FROM_OUTSIDE)) {
		struct node *n = node_get();

		if (!n || !ip_equal(p->family == 4 ? &n->address4 : &n->address6, &outside->local))
			return DROP_TRANSLATION_GONE;
	}
	return 0;
}

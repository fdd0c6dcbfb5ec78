/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Floating addresses: into a workload by one of its contexts, and out of it by the best of them. */
#pragma once
#include "flow.h"

/* The other end is routed in this VRF. Its generation counts from before any look at its tables. */
static __always_inline void flow_moves_to(struct flow *f, const struct vif *vif, __u32 vrf)
{
	f->vrf = vrf;
	f->generation = generation_of(vif->vrf);
	if (vrf != vif->vrf)
		f->generation += generation_of(vrf);
}

/* The port that stands for one of a floating IP's; 0: none does. */
static __always_inline __u32 port_mapped(__u32 context, const struct packet *p, __u16 port, __u8 towards)
{
	struct port_mapping_key key = { .context = context, .port = port, .protocol = p->protocol, .towards = towards };
	__u32 *mapped;

	if (!has_ports(p))
		return 0;
	mapped = bpf_map_lookup_elem(&port_mappings, &key);
	return mapped ? *mapped : 0;
}

/* Into a workload by one of its contexts. */
__noinline int context_enter(const struct vif *vif, const struct origin *from)
{
	struct scratch *s = scratch_get();

	if (!s || !vif || !from)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	__u32 id = from->context, port;
	struct context *c = bpf_map_lookup_elem(&contexts, &id);

	if (!c)
		return DROP_UNKNOWN_CONTEXT;
	f->context = id;
	flow_moves_to(f, vif, c->vrf);
	if (c->family != p->family || !ip_equal(&s->key.local, &c->floating))
		return 0;
	if (!(c->flags & CONTEXT_INGRESS))
		return DROP_FLOATING_DIRECTION;
	f->form = FORM_FABRIC;
	f->mate = s->key;
	f->mate.local = c->fixed;
	if (c->flags & CONTEXT_MAPPED) {
		port = port_mapped(id, p, s->key.local_port, TO_FIXED);
		if (!port)
			return DROP_PORT_NOT_MAPPED;
		f->mate.local_port = port;
		f->open_destination = port;
	}
	return 0;
}

/* Out of a workload that has floating addresses: by the one whose VRF knows best, if that is better than its own. */
__noinline int floating_leave(const struct vif *vif)
{
	struct scratch *s = scratch_get();

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct route *route = route_find(vif->vrf, p->family, &s->key.remote);
	struct next_hop *nh = route ? next_hop_get(route->next_hop) : 0;
	/* Any of its own addresses is better than the node's. */
	__s32 best = nh && nh->type != NEXT_HOP_OUTSIDE ? (__s32)route->length : -1;
	__u32 i, id, port;
	struct context *c;

#pragma clang loop unroll(full)
	for (i = 0; i < MAX_FLOATING; i++) {
		id = vif->floating[i];
		if (!id)
			break;
		c = bpf_map_lookup_elem(&contexts, &id);
		if (!c || c->family != p->family || !(c->flags & CONTEXT_EGRESS) ||
		    !ip_equal(&c->fixed, &s->key.local))
			continue;
		port = s->key.local_port;
		if (c->flags & CONTEXT_MAPPED) {
			port = port_mapped(id, p, port, TO_FLOATING);
			if (!port)
				continue;
		}
		route = route_find(c->vrf, p->family, &s->key.remote);
		if (!route || (__s32)route->length <= best)
			continue;
		best = route->length;
		f->context = id;
		f->form = FORM_WORKLOAD;
		f->mate = s->key;
		f->mate.local = c->floating;
		f->mate.local_port = port;
		flow_moves_to(f, vif, c->vrf);
	}
	return 0;
}

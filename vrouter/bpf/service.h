/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: which one a packet goes to, and which of its members becomes the flow's other end. */
#pragma once
#include "floating.h"
#include "own.h"

/*
 * Jump consistent hashing (Lamping and Veach 2014), in integers: one more member takes its share from all others and moves
 * nobody else. The number of rounds grows with the logarithm of `count`; the bound is out of reach.
 */
static __always_inline __u32 jump(__u64 key, __u32 count)
{
	__u64 bucket = 0, next = 0;
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < 32; i++) {
		if (next < count) {
			bucket = next;
			key = key * 2862933555777941757ULL + 1;
			next = (bucket + 1) * (1ULL << 31) / ((key >> 33) + 1);
		}
	}
	return bucket;
}

enum { MEMBER_TRIES = 4 };

/* Whether the client of the packet may use the service. */
static __always_inline bool source_allowed(struct scratch *s, const struct service *service)
{
	struct service_source_key *key = &s->pick.source;

	key->bits = 64 + 128;
	key->service = service->id;
	key->family = s->packet.family;
	key->address = s->packet.source;
	return !(service->flags & SERVICE_SOURCES) || bpf_map_lookup_elem(&service_sources, key);
}

/*
 * Picks a member for the client s->key.local and makes it s->flow's other end. A member that would give the workload two flows
 * that look the same is passed over; if all would, or it is the one that the client is to keep, the client gets another port there.
 */
static __always_inline int service_pick(struct scratch *s, const struct service *service, __u32 hash)
{
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct pick *pick = &s->pick;
	struct member *chosen = &pick->fresh.member, *member;
	__u32 count = service->count, index;
	const struct ip *self = &s->key.local;
	bool kept = false;
	int i;

	if (s->lent) {
		self = own_address(p->family);
		if (!self)
			return DROP_DISCARD_ROUTE;
	}
	f->service = service->id;
	f->mate = s->key;
	if (!count)
		return DROP_NO_MEMBERS;
	index = jump((__u64)hash << 32 | service->id, count);
	pick->slot.service = service->id;
	chosen->port = 0;
	if (service->affinity) {
		struct affinity *known;

		pick->client.service = service->id;
		pick->client.family = p->family;
		pick->client.client = s->key.local;
		known = bpf_map_lookup_elem(&affinities, &pick->client);
		if (known && bpf_ktime_get_coarse_ns() - known->seen < service->affinity) {
			__u32 *flags;

			*chosen = known->member;
			pick->known.service = service->id;
			pick->known.address = chosen->address;
			pick->known.port = chosen->port;
			pick->known.family = p->family;
			pick->known.pad = 0;
			flags = bpf_map_lookup_elem(&member_set, &pick->known);
			kept = flags && *flags & MEMBER_ELIGIBLE;
			if (!kept)
				chosen->port = 0;
		}
	}
#pragma clang loop unroll(full)
	for (i = 0; i <= MEMBER_TRIES; i++) {
		if (i == MEMBER_TRIES) {
			/* Who meets itself has no port to give. */
			if (f->form != FORM_WORKLOAD)
				return DROP_TRANSLATION_COLLISION;
			s->crowded = 1;
			break;
		}
		if (i || !chosen->port) {
			pick->slot.index = index;
			if (index < FIRST_MEMBERS) {
				*chosen = service->first[index];
			} else {
				member = bpf_map_lookup_elem(&members, &pick->slot);
				chosen->port = 0;
				if (member)
					*chosen = *member;
			}
			index = index + 1 < count ? index + 1 : 0;
			if (!chosen->port)
				continue;
		}
		f->form = FORM_WORKLOAD;
		f->mate.local = *self;
		f->mate.local_port = s->key.local_port;
		f->mate.remote = chosen->address;
		f->mate.remote_port = chosen->port;
		if (ip_equal(&chosen->address, self) && s->key.vif != NO_VIF) {
			/* Its own client: both ends see the service's address. */
			f->form = FORM_LOOP;
			f->mate.local_port = chosen->port;
			f->mate.remote = s->key.remote;
			f->mate.remote_port = s->key.local_port;
			/* That is the stack's own here, and its answers would go past us. */
			if (s->own) {
				if (p->family != 4)
					return DROP_NOT_TRANSLATABLE;
				ip_from4(&f->mate.remote, bpf_htonl(HOST_GATEWAY4));
			}
		}
		if (mate_free())
			break;
		/* Its own member, by another port. */
		if (!i && kept && f->form == FORM_WORKLOAD) {
			s->crowded = 1;
			break;
		}
	}
	f->open_destination = chosen->port;
	if (service->affinity) {
		pick->fresh.seen = bpf_ktime_get_coarse_ns();
		pick->fresh.pad = 0;
		bpf_map_update_elem(&affinities, &pick->client, &pick->fresh, BPF_ANY);
	}
	return 0;
}

/*
 * To a service of the node itself. Addresses of workloads say nothing there: those of one network are another's, too. The metadata
 * address is the node's own word about who asks. (Where the member is another machine, the node's address replaces it: outside_leave.)
 */
static __always_inline int link_local_enter(struct scratch *s, const struct service *service, const struct vif *vif,
					    __u32 hash)
{
	int reason;

	if (s->packet.family != 4 || !vif->metadata)
		return DROP_SERVICE_PORT;
	reason = service_pick(s, service, hash);
	if (reason)
		return reason;
	if (s->flow.form != FORM_WORKLOAD)
		return DROP_TRANSLATION_COLLISION;
	s->flow.mate.local.w[0] = vif->metadata;
	s->flow.flags |= FLOW_LINK_LOCAL;
	return 0;
}

/* Out of a workload to a service of the VRF s->via. */
__noinline int service_enter(const struct vif *vif, __u32 hash)
{
	struct scratch *s = scratch_get();

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	struct service_key *key = &s->pick.key;
	struct service *service;

	key->vrf = s->via;
	key->address = s->key.remote;
	key->port = s->key.remote_port;
	key->family = s->key.family;
	key->protocol = s->key.protocol;
	service = has_ports(&s->packet) ? bpf_map_lookup_elem(&services, key) : 0;
	if (!service)
		return DROP_SERVICE_PORT;
	if (!(vif->flags & VIF_HOST) && !source_allowed(s, service))
		return DROP_SERVICE_SOURCE;
	flow_moves_to(&s->flow, vif, service->vrf);
	if (service->flags & SERVICE_OPEN)
		s->flow.flags |= FLOW_OPEN;
	if (service->flags & SERVICE_LINK_LOCAL)
		return link_local_enter(s, service, vif, hash);
	return service_pick(s, service, hash);
}

/* The service of a pseudo VRF to which the packet goes by its very destination, else by all nodes' addresses. */
static __always_inline struct service *service_by(struct scratch *s, __u32 vrf, bool any)
{
	struct service_key *key = &s->pick.key;
	const struct packet *p = &s->packet;

	key->vrf = vrf;
	key->address = p->destination;
	if (any)
		__builtin_memset(&key->address, 0, sizeof(key->address));
	key->port = p->destination_port;
	key->family = p->family;
	key->protocol = p->protocol;
	return bpf_map_lookup_elem(&services, key);
}

/* The service at the uplink to which the packet of s->key, as its client sees it, goes. */
static __always_inline struct service *service_outside(struct scratch *s)
{
	struct service *service;

	if (!has_ports(&s->packet))
		return 0;
	service = service_by(s, 0, false);
	if (service)
		return service;
	service = service_by(s, 0, true);
	/* Seldom got so far, so the second table costs the host's own packets nothing. */
	return service && destination_owner(s) == ADDRESS_OWN ? service : 0;
}

/*
 * Out of a workload to a service that is meant for clients outside, by a node's address or another that it has a route to: it
 * need not leave to come back in. What the node's own stack sends to itself goes to a service or nowhere.
 */
__noinline int node_port_enter(const struct vif *vif, __u32 hash)
{
	struct scratch *s = scratch_get();
	struct service *service = 0;
	struct next_hop *nh;
	struct route *route;
	__u32 owner;

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	if (!has_ports(&s->packet))
		return s->own ? DROP_SERVICE_PORT : 0;
	owner = s->own ? ADDRESS_OWN : destination_owner(s);
	if (owner) {
		service = service_by(s, SERVICES_INSIDE, false);
		if (!service) {
			service = service_by(s, SERVICES_INSIDE, true);
			/* The other node's stack has the last word, and refuses what nobody there is for. */
			if (service && owner == ADDRESS_OTHER && service->flags & SERVICE_BY_NODE)
				service = 0;
		}
	}
	if (s->own) {
		if (!service)
			return DROP_SERVICE_PORT;
	} else {
		if (!service)
			service = service_by(s, 0, false);
		if (!service)
			return 0;
		route = route_find(vif->vrf, s->packet.family, &s->key.remote);
		nh = route ? next_hop_get(route->next_hop) : 0;
		/* Those whose VRF has the service go there by its route, as to any. */
		if (!nh || (!owner && nh->type == NEXT_HOP_SERVICE))
			return 0;
		if (!(vif->flags & VIF_HOST) && !source_allowed(s, service))
			return DROP_SERVICE_SOURCE;
	}
	flow_moves_to(&s->flow, vif, service->vrf);
	s->flow.flags |= FLOW_TO_NODE_PORT;
	return service_pick(s, service, hash);
}

/*
 * In from a client outside. With its own address to a member of this node, whom outside.h has picked; else to any
 * member, as if the host's vif had sent it, from the node's address.
 */
__noinline int outside_enter(const struct vif *vif, const struct origin *from, __u32 hash)
{
	struct scratch *s = scratch_get();

	if (!s || !vif || !from)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct service *service;
	struct node *n = node_get();
	int reason;

	service = from->flags & ORIGIN_SERVICE ? service_outside(s) : 0;
	if (!service || !n)
		return DROP_TRANSLATION_GONE;
	flow_moves_to(f, vif, service->vrf);
	if (s->direction == EGRESS) {
		if (!(n->families & (p->family == 4 ? NODE_IPV4 : NODE_IPV6)))
			return DROP_DISCARD_ROUTE;
		reason = service_pick(s, service, hash);
		if (reason)
			return reason;
		f->mate.vif = vif->id;
		f->mate.local = p->family == 4 ? n->address4 : n->address6;
		return 0;
	}
	f->service = service->id;
	f->context = from->context;
	f->flags = FLOW_FROM_OUTSIDE;
	f->form = FORM_FABRIC;
	f->mate = s->key;
	f->mate.vif = vif->id;
	f->mate.local = s->pick.fresh.member.address;
	f->mate.local_port = s->pick.fresh.member.port;
	f->open_destination = f->mate.local_port;
	/* The stack would answer the client past us. */
	if (vif->flags & VIF_HOST) {
		if (p->family != 4)
			return DROP_NOT_TRANSLATABLE;
		ip_from4(&f->mate.remote, bpf_htonl(HOST_GATEWAY4));
	}
	/* Makes room if the client has used its port there before, by whatever way. */
	mate_free();
	return 0;
}

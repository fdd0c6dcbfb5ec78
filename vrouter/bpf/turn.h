/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which addresses a new flow leaves with: a service's member, a floating address, the node's own address. These functions
 * fill s->flow (form, VRF, context, service, mate) for the packet of s->key; flow_resolve then judges the
 * translated form, and both entries go in together.
 */
#pragma once
#include "flow.h"

static __always_inline bool has_ports(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP;
}

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

/* Next hop of the host's routes to the fabric (169.254.1.1): nobody's address, and known on the host's interface alone. */
#define HOST_GATEWAY4 0xa9fe0101

/* The address that the fabric knows the node's own stack by. */
static __always_inline const struct ip *own_address(__u32 family)
{
	struct node *n = node_get();

	if (!n || !(n->families & (family == 4 ? NODE_IPV4 : NODE_IPV6)))
		return 0;
	return family == 4 ? &n->address4 : &n->address6;
}

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
 * that look the same is passed over; if all would, the client gets another port there.
 */
static __always_inline int service_pick(struct scratch *s, const struct service *service, __u32 hash)
{
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct pick *pick = &s->pick;
	struct member *chosen = &pick->fresh.member, *member;
	__u32 count = service->count, index;
	const struct ip *self = &s->key.local;
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
			if (!flags || !(*flags & MEMBER_ELIGIBLE))
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

/* Out of the fabric, from the node's own address; flow_insert_pair finds a port. */
__noinline int outside_leave(void)
{
	struct scratch *s = scratch_get();
	struct node *n = node_get();

	if (!s || !n)
		return DROP_DISCARD_ROUTE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;

	if (!(n->families & (p->family == 4 ? NODE_IPV4 : NODE_IPV6)) || f->form == FORM_LOOP || s->direction != EGRESS)
		return DROP_DISCARD_ROUTE;
	if (!f->form) {
		f->form = FORM_WORKLOAD;
		f->mate = s->key;
	}
	f->mate.vif = NO_VIF;
	f->mate.local = p->family == 4 ? n->address4 : n->address6;
	return 0;
}

/* Whose an address is: 0 if no node's. */
static __always_inline __u32 address_owner(struct scratch *s, const struct ip *address)
{
	struct address_key *at = &s->pick.at;
	__u32 *owner;

	at->family = s->packet.family;
	at->address = *address;
	owner = bpf_map_lookup_elem(&node_addresses, at);
	return owner ? *owner : 0;
}

static __always_inline __u32 destination_owner(struct scratch *s)
{
	return address_owner(s, &s->packet.destination);
}

/*
 * Whether the node's own stack sends from an address of its own that the fabric does not know. Masquerading does, kube-proxy's,
 * too: it takes the node's first address.
 */
static __always_inline bool source_unknown(struct scratch *s)
{
	const struct ip *self = own_address(s->packet.family);

	return self && !ip_equal(self, &s->packet.source) && address_owner(s, &s->packet.source) == ADDRESS_OWN;
}

/* From such an address to what is no service: with the known one, and a port that flow_insert_pair finds. */
__noinline int known_leave(void)
{
	struct scratch *s = scratch_get();

	if (!s)
		return DROP_DISCARD_ROUTE;
	const struct ip *self = own_address(s->packet.family);
	struct flow *f = &s->flow;

	if (!self)
		return DROP_DISCARD_ROUTE;
	f->form = FORM_WORKLOAD;
	f->mate = s->key;
	f->mate.local = *self;
	return 0;
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
	return 0;
}

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

enum { PORT_TRIES = 32 };

/* Ports of the node for this packet's protocol. */
static __always_inline void node_ports(const struct packet *p, struct port_pool *pool)
{
	struct node *n = node_get();

	if (!n)
		return;
	switch (p->protocol) {
	case IPPROTO_TCP:
		*pool = n->tcp;
		break;
	case IPPROTO_UDP:
		*pool = n->udp;
		break;
	case IPPROTO_SCTP:
		*pool = n->sctp;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		pool->range[0] = n->icmp;
		break;
	}
}

static __always_inline __u32 range_size(const struct port_range *range)
{
	return range->first && range->last >= range->first ? range->last - range->first + 1 : 0;
}

static __always_inline __u32 pool_size(const struct port_pool *pool)
{
	__u32 size = 0;

	for (int i = 0; i < PORT_RANGES; i++)
		size += range_size(&pool->range[i]);
	return size;
}

static __always_inline __u16 pool_port(const struct port_pool *pool, __u32 at)
{
	for (int i = 0; i < PORT_RANGES; i++) {
		__u32 size = range_size(&pool->range[i]);

		if (at < size)
			return pool->range[i].first + at;
		at -= size;
	}
	return 0;
}

/* One port; 1 ends the search. */
static long try_port(__u32 round, void *none)
{
	struct scratch *s = scratch_get();

	(void)round;
	(void)none;
	if (!s)
		return 1;
	struct port_search *search = &s->search;
	__u16 port = pool_port(&search->pool, search->at);

	if (search->remote)
		s->mate.remote_port = port;
	else
		s->mate.local_port = port;
	search->error = bpf_map_update_elem(&flows, &s->mate, &s->flow, BPF_NOEXIST);
	if (search->size <= PORT_TRIES) {
		/* All of few are tried. */
		search->at = search->at + 1 < search->size ? search->at + 1 : 0;
	} else {
		/* Of many any, as those beside a taken one are rather taken, too. */
		search->seed = search->seed * 1664525 + 1013904223;
		search->at = (search->seed >> 8) % search->size;
	}
	return search->error != EXISTS;
}

/*
 * Enters the mate, for whose local port any one of the node's will do: tries some, beginning with one chosen by hash. The
 * insertion itself reserves the port, so two CPUs never get the same.
 */
static __always_inline long insert_with_port(struct scratch *s, __u32 hash, bool remote)
{
	const struct packet *p = &s->packet;
	struct port_search *search = &s->search;

	__builtin_memset(search, 0, sizeof(*search));
	search->error = EXISTS;
	search->remote = remote;
	search->seed = hash;
	/* The node's address has ports for this; a client's own address all of them. */
	if (remote || s->crowded) {
		search->pool.range[0].first = 1024;
		search->pool.range[0].last = 65535;
	} else {
		node_ports(p, &search->pool);
	}

	/* A protocol without ports: one flow for each pair of addresses. */
	if (!has_ports(p) && p->icmp_kind == ICMP_NONE)
		return bpf_map_update_elem(&flows, &s->mate, &s->flow, BPF_NOEXIST);
	search->size = pool_size(&search->pool);
	if (!search->size)
		return EXISTS;
	search->at = hash % search->size;
	bpf_loop(PORT_TRIES, try_port, 0, 0);
	return search->error;
}

/* Enters s->flow under s->key and under its mate. The mate goes first: until the other is there nothing refers to it. */
__noinline int flow_insert_pair(const struct vif *vif, __u32 hash)
{
	struct scratch *s = scratch_get();

	if (!s || !vif)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow, *other;
	__u32 d = s->direction & 1, form = f->form, owner = vif->id;
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &owner);
	bool made = true;
	/* The node's address in place of the workload's, of a client's outside, or of another one of the node's. */
	bool borrows = form == FORM_WORKLOAD && (f->mate.vif == NO_VIF || s->key.vif == NO_VIF ||
						 (f->flags & FLOW_OWN_ADDRESS &&
						  !ip_equal(&s->key.local, &f->mate.local)));
	/* Nobody's address in place of a client's outside, towards the node's own stack. */
	bool stands_in = form == FORM_FABRIC && s->key.vif == NO_VIF && !ip_equal(&s->key.remote, &f->mate.remote);
	long error;
	int reason;

	if (!state)
		return DROP_NO_INTERFACE;
	if (borrows)
		s->crowded = 0;
	borrows |= form == FORM_WORKLOAD && s->crowded;
	s->mate = f->mate;
	f->mate = s->key;
	if (form != FORM_LOOP)
		f->form = form == FORM_WORKLOAD ? FORM_FABRIC : FORM_WORKLOAD;
	error = borrows || stands_in ? insert_with_port(s, hash, stands_in) :
				       bpf_map_update_elem(&flows, &s->mate, f, BPF_NOEXIST);
	if (error == EXISTS && !borrows && !stands_in) {
		/* Good if it is this very flow's, which another CPU enters at the same time. */
		other = bpf_map_lookup_elem(&flows, &s->mate);
		if (other && other->form == f->form && key_equal(&other->mate, &s->key))
			made = false;
		else
			return DROP_TRANSLATION_COLLISION;
	} else if (error) {
		return error == EXISTS ? DROP_SNAT_EXHAUSTED : DROP_FLOW_TABLE_FULL;
	}
	f->mate = s->mate;
	f->form = form;
	f->packets[d] = 1;
	f->bytes[d] = p->length;
	f->tcp = tcp_advance(0, p, d);
	tcp_acknowledges(f, p, d);
	reason = flow_insert(s, vif);
	if (!reason) {
		if (made)
			__sync_fetch_and_add(&state->flows, 1);
		return 0;
	}
	if (reason == FLOW_EXISTS) {
		other = bpf_map_lookup_elem(&flows, &s->key);
		if (other && other->form == form) {
			/* The other CPU's translation counts. */
			f->mate = other->mate;
			f->next_hop = other->next_hop;
			if (made && key_equal(&other->mate, &s->mate)) {
				__sync_fetch_and_add(&state->flows, 1);
				return 0;
			}
		} else {
			reason = DROP_TRANSLATION_COLLISION;
		}
	}
	if (made)
		bpf_map_delete_elem(&flows, &s->mate);
	return reason == FLOW_EXISTS ? 0 : reason;
}

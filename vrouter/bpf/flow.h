/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows: one entry per connection and vif, for both directions. The first packet is judged and routed here, in the
 * kernel; later ones find verdict, next hop and entropy in one lookup. An entry is looked through again when
 * the vif's policy or the VRF's routes have changed since, or when its packets come from elsewhere.
 */
#pragma once
#include "route.h"
#include "policy.h"

#define TCP_FLAG_FIN 0x01
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

static __always_inline __u32 mix(__u32 h, __u32 w)
{
	h = (h ^ w) * 0x9e3779b1;
	return h ^ h >> 15;
}

/* The same for all packets of a flow and direction, fragments included. */
__noinline __u32 flow_hash(const struct packet *p)
{
	if (!p)
		return 0;
	__u32 h = (__u32)p->protocol << 8 | p->family;

	h = mix(h, p->source.w[0]);
	h = mix(h, p->destination.w[0]);
	if (p->family == 6) {
		h = mix(mix(mix(h, p->source.w[1]), p->source.w[2]), p->source.w[3]);
		h = mix(mix(mix(h, p->destination.w[1]), p->destination.w[2]), p->destination.w[3]);
	}
	if (p->icmp_kind == ICMP_REQUEST || p->icmp_kind == ICMP_REPLY)
		h = mix(h, p->icmp_id);
	else
		h = mix(h, (__u32)p->source_port << 16 | p->destination_port);
	/* Products carry upwards only: spread high bits down too, members are chosen by the low ones. */
	h = (h ^ h >> 16) * 0x85ebca6b;
	h = (h ^ h >> 13) * 0xc2b2ae35;
	return h ^ h >> 16;
}

/* 49152-65535 (RFC 7510 section 3, RFC 7348 section 5). */
static __always_inline __u16 entropy_port(__u32 hash)
{
	return 49152 + (hash >> 18);
}

/* `direction`: of this packet. ICMP echo keeps its asker apart, so that answering opens no way to be asked. */
static __always_inline void flow_key_set(struct flow_key *k, __u32 vif, const struct packet *p, __u32 direction)
{
	bool out = direction == EGRESS;

	k->vif = vif;
	k->family = p->family;
	k->protocol = p->protocol;
	k->pad[0] = k->pad[1] = 0;
	k->local = out ? p->source : p->destination;
	k->remote = out ? p->destination : p->source;
	if (p->icmp_kind == ICMP_REQUEST || p->icmp_kind == ICMP_REPLY) {
		bool local_asks = (p->icmp_kind == ICMP_REQUEST) == out;

		k->local_port = p->icmp_id;
		k->remote_port = p->family == 4 ? (local_asks ? 8 : 0) : (local_asks ? 128 : 129);
	} else if (p->icmp_kind != ICMP_NONE) {
		k->local_port = 0;
		k->remote_port = p->destination_port;
	} else {
		k->local_port = out ? p->source_port : p->destination_port;
		k->remote_port = out ? p->destination_port : p->source_port;
	}
}

static __always_inline bool tcp_opens(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) == TCP_FLAG_SYN;
}

static __always_inline bool tcp_closed(__u8 state)
{
	return state & TCP_RESET || (state & (TCP_FIN_OUT | TCP_FIN_IN)) == (TCP_FIN_OUT | TCP_FIN_IN);
}

static __always_inline __u8 tcp_advance(__u8 state, const struct packet *p, __u32 direction)
{
	__u8 flags = p->tcp_flags;

	if (p->protocol != IPPROTO_TCP || p->fragment == FRAGMENT_LATER)
		return state;
	if (flags & TCP_FLAG_RST)
		state |= TCP_RESET;
	if (flags & TCP_FLAG_FIN)
		state |= direction == EGRESS ? TCP_FIN_OUT : TCP_FIN_IN;
	if (flags & TCP_FLAG_SYN)
		state |= TCP_SYN_SEEN;
	else if (flags & TCP_FLAG_ACK)
		state |= TCP_ESTABLISHED;
	return state;
}

static __always_inline void tcp_acknowledges(struct flow *f, const struct packet *p, __u32 direction)
{
	if (p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_FLAG_ACK)
		f->acked[direction & 1] = p->acknowledged;
}

/* Not reasons to drop: what has to be done first. */
enum { FLOW_TO_SERVICE = -2, FLOW_TO_OUTSIDE = -3, FLOW_REMOVED = -4, FLOW_EXISTS = -5 };

static __always_inline bool has_ports(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP;
}

/* Stands for the policy of a vif without port security. */
#define POLICY_NONE 0xffffffffU

static __always_inline __u32 policy_of(const struct vif *vif, __u32 context, __u32 family)
{
	struct context *c;

	if (vif->flags & VIF_POLICY_DISABLED)
		return POLICY_NONE;
	if (!context)
		return family == 4 ? vif->policy4 : vif->policy6;
	c = bpf_map_lookup_elem(&contexts, &context);
	if (!c)
		return 0;
	return family == 4 ? c->policy4 : c->policy6;
}

/*
 * Looks everything up that s->flow remembers: checks both ends' addresses against the routes, finds next hop and
 * identity, and judges. The caller has set direction, opening ports, VRF, context and form. Returns 0, a drop reason, or
 * what has to be done first.
 */
__noinline int flow_resolve(const struct vif *vif, const struct origin *from, __u32 policy, __u32 hash)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct origin here = { .ifindex = vif->ifindex };
	bool out = s->direction == EGRESS;
	/* One flow under the addresses the workload knows and under those the other end knows. */
	const struct flow_key *inside = f->form == FORM_FABRIC ? &f->mate : &s->key;
	const struct flow_key *outside = f->form == FORM_WORKLOAD ? &f->mate : &s->key;
	struct route *local, *remote;
	struct next_hop *nh;
	struct question q;
	__u32 leaf;
	int reason;

	/* The client of a flow that the node's own address stands in for is anyone. */
	if (!s->sender_known && policy != POLICY_NONE && inside->vif != NO_VIF && !(f->flags & FLOW_OWN_ADDRESS)) {
		local = route_find(f->form ? vif->vrf : f->vrf, p->family, &inside->local);
		if (!local || !next_hop_from(local->next_hop, &here))
			return out ? DROP_SOURCE_ADDRESS : DROP_NOT_THIS_PORT;
		/* The same is asked again once a service has picked a member. */
		s->sender_known = out;
	}
	f->policy = policy;
	if (f->form == FORM_LOOP)
		return 0; /* nobody is kept from itself */
	remote = route_find(f->vrf, p->family, &outside->remote);
	if (f->flags & FLOW_FROM_OUTSIDE) {
		leaf = next_hop_outside(p->family);
		f->identity = remote ? remote->identity : 0;
	} else {
		if (!remote)
			return out ? DROP_NO_ROUTE : DROP_SOURCE_ADDRESS;
		f->identity = remote->identity;
		/* Answers go back to the member they came from. */
		leaf = out ? next_hop_leaf(remote->next_hop, f->next_hop, hash) : next_hop_from(remote->next_hop, from);
		if (!leaf && policy == POLICY_NONE)
			leaf = next_hop_leaf(remote->next_hop, f->next_hop, hash);
		if (!leaf && !out)
			return DROP_SOURCE_ADDRESS;
	}
	nh = next_hop_get(leaf);
	if (!leaf || !nh)
		return DROP_DISCARD_ROUTE;
	if (nh->type == NEXT_HOP_SERVICE) {
		s->via = nh->vrf;
		return f->form ? DROP_DISCARD_ROUTE : FLOW_TO_SERVICE;
	}
	if (nh->type == NEXT_HOP_OUTSIDE) {
		if (outside->vif != NO_VIF)
			return FLOW_TO_OUTSIDE;
	} else if (outside->vif == NO_VIF) {
		return DROP_TRANSLATION_GONE;
	}
	f->next_hop = leaf;
	if (!out)
		f->peer = from->peer;
	f->rule = 0;
	if (policy == POLICY_NONE || f->flags & (FLOW_LINK_LOCAL | FLOW_OPEN) || (f->flags & FLOW_FROM_HOST && (f->direction & ~FLOW_OF_REMOTE) == INGRESS))
		return 0;
	q.policy = policy;
	q.identity = f->identity;
	q.direction = f->direction & ~FLOW_OF_REMOTE;
	q.protocol = p->protocol;
	q.source_port = f->open_source;
	q.destination_port = f->open_destination;
	reason = policy_judge(&q, &f->rule);
	s->rule = f->rule;
	return reason;
}

/*
 * How many flows each remote has opened to a vif, in constant space: a count-min sketch. An address has a cell in each of two
 * rows; the smaller one is never less than its flows, and more only if other addresses share both (1 in 16,384 does).
 */
struct remote_cells {
	__u32 *first;
	__u32 *second;
};

static __always_inline struct remote_cells remote_cells(struct vif_state *state, const struct ip *remote)
{
	__u32 h = mix(mix(mix(mix(state->seed, remote->w[0]), remote->w[1]), remote->w[2]), remote->w[3]);
	struct remote_cells cells;

	h = (h ^ h >> 16) * 0x85ebca6b;
	h ^= h >> 13;
	cells.first = &state->remote_flows[h & (REMOTE_CELLS - 1)];
	cells.second = &state->remote_flows[REMOTE_CELLS + (h >> 16 & (REMOTE_CELLS - 1))];
	return cells;
}

static __always_inline void remote_leave(struct remote_cells cells)
{
	__sync_fetch_and_sub(cells.first, 1);
	__sync_fetch_and_sub(cells.second, 1);
}

/*
 * A remote may have as many flows as the vif has room left. So one alone gets half of the quota, n greedy ones an n+1st
 * part each, and as much stays free for those who come later, and for the workload itself. A fixed share would
 * be too little for one busy client and too much for a few greedy ones.
 */
static __always_inline bool remote_enter(struct remote_cells cells, __u32 room)
{
	__s32 first = __sync_fetch_and_add(cells.first, 1), second = __sync_fetch_and_add(cells.second, 1);
	__s32 least = first < second ? first : second;

	if (least < 0 || (__u32)least < room)
		return true;
	remote_leave(cells);
	return false;
}

enum { EXISTS = -17 }; /* EEXIST */

/*
 * Enters s->flow under s->key, within the vif's quota and its remote's share of it. Returns 0, a drop reason, or
 * FLOW_EXISTS if another CPU entered the flow meanwhile.
 */
static __always_inline int flow_insert(struct scratch *s, const struct vif *vif)
{
	__u32 owner = vif->id;
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &owner);
	bool by_remote = s->flow.direction == INGRESS;
	struct remote_cells cells;
	__u32 used;
	long error;

	if (!state)
		return DROP_NO_INTERFACE;
	used = __sync_fetch_and_add(&state->flows, 1);
	if (used >= vif->flow_quota) {
		__sync_fetch_and_sub(&state->flows, 1);
		return DROP_FLOW_QUOTA;
	}
	if (by_remote) {
		cells = remote_cells(state, &s->key.remote);
		if (!remote_enter(cells, vif->flow_quota - used)) {
			__sync_fetch_and_sub(&state->flows, 1);
			return DROP_REMOTE_SHARE;
		}
		s->flow.direction |= FLOW_OF_REMOTE;
	}
	error = bpf_map_update_elem(&flows, &s->key, &s->flow, BPF_NOEXIST);
	if (error) {
		__sync_fetch_and_sub(&state->flows, 1);
		if (by_remote)
			remote_leave(cells);
		return error == EXISTS ? FLOW_EXISTS : DROP_FLOW_TABLE_FULL;
	}
	return 0;
}

/* Takes one entry out and gives its room in the quota back; 1 if it was there. */
static __always_inline __u32 flow_forget_one(const struct flow_key *key, const struct ip *remote, __u32 owner,
					     bool of_remote)
{
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &owner);

	if (bpf_map_delete_elem(&flows, key))
		return 0;
	if (state) {
		__sync_fetch_and_sub(&state->flows, 1);
		if (of_remote)
			remote_leave(remote_cells(state, remote));
	}
	return 1;
}

static __always_inline bool flow_closed(const struct flow *f)
{
	__u8 tcp = f->tcp;
	struct flow *mate;

	if (f->form) {
		mate = bpf_map_lookup_elem(&flows, &f->mate);
		if (mate)
			tcp |= mate->tcp;
	}
	return tcp_closed(tcp);
}

/* Whose quota an entry counts in: the node's own address has none. */
static __always_inline __u32 flow_owner(const struct flow_key *key, const struct flow *f)
{
	return key->vif == NO_VIF ? f->mate.vif : key->vif;
}

/*
 * Whether s->flow.mate is free for a new connection. One that has ended makes room: clients use their ports again, and those of two
 * services are the same ones for a member of both.
 */
static __noinline bool mate_free(void)
{
	struct scratch *s = scratch_get();

	if (!s)
		return false;
	/* On the stack there is no room for another key; whoever is asked here sets s->mate later. */
	struct flow_key *key = &s->flow.mate, *other = &s->mate;
	struct flow *taken = bpf_map_lookup_elem(&flows, key), *mate;
	__u32 owner;
	bool of_remote;

	if (!taken)
		return true;
	if (!tcp_opens(&s->packet) || !flow_closed(taken))
		return false;
	owner = flow_owner(key, taken);
	of_remote = taken->direction & FLOW_OF_REMOTE;
	*other = taken->mate;
	mate = taken->form ? bpf_map_lookup_elem(&flows, other) : 0;
	flow_forget_one(key, &key->remote, owner, of_remote);
	if (mate) {
		of_remote = mate->direction & FLOW_OF_REMOTE;
		flow_forget_one(other, &other->remote, owner, of_remote);
	}
	return true;
}

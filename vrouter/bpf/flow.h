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

/*
 * Looks everything up that a flow remembers: checks both ends' addresses against the routes, finds next hop and
 * identity, and judges. `old` is the entry that is out of date, or NULL. Fills s->flow.
 */
__noinline int flow_resolve(const struct vif *vif, const struct origin *from, const struct flow *old, __u32 policy)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	struct origin here = { .ifindex = vif->ifindex };
	bool out = s->direction == EGRESS;
	struct route *local, *remote;
	struct question q;
	__u32 hash = flow_hash(p), leaf;
	int reason;

	local = route_find(vif->vrf, p->family, out ? &p->source : &p->destination);
	if (!local || !next_hop_from(local->next_hop, &here))
		return out ? DROP_SOURCE_ADDRESS : DROP_NOT_THIS_PORT;
	remote = route_find(vif->vrf, p->family, out ? &p->destination : &p->source);
	if (!remote)
		return out ? DROP_NO_ROUTE : DROP_SOURCE_ADDRESS;
	if (out) {
		leaf = next_hop_leaf(remote->next_hop, old ? old->next_hop : 0, hash);
		if (!leaf)
			return DROP_DISCARD_ROUTE;
	} else {
		/* Answers go back to the member it came from. */
		leaf = next_hop_from(remote->next_hop, from);
		if (!leaf)
			return DROP_SOURCE_ADDRESS;
	}
	if (old) {
		*f = *old;
	} else {
		__builtin_memset(f, 0, sizeof(*f));
		f->direction = s->direction;
		f->open_source = p->source_port;
		f->open_destination = p->destination_port;
		f->entropy = entropy_port(hash);
	}
	f->identity = remote->identity;
	f->next_hop = leaf;
	if (!out)
		f->peer = from->peer;
	f->policy = policy;
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

/* Enters s->flow under s->key, within the vif's quota and its remote's share of it. */
static __always_inline int flow_insert(struct scratch *s, const struct vif *vif)
{
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &s->key.vif);
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
		/* Another CPU entered the same flow meanwhile: good too. */
		return error == -17 /* EEXIST */ ? 0 : DROP_FLOW_TABLE_FULL;
	}
	return 0;
}

struct path {
	__u32 next_hop;
	__u32 entropy;
};

/* Judges the packet in s->packet, which moves in s->direction of this vif. Returns 0 or a drop reason. */
__noinline int flow_admit(const struct vif *vif, const struct origin *from, struct path *path)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from || !path)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	__u32 policy = p->family == 4 ? vif->policy4 : vif->policy6, generation, d = s->direction & 1;
	struct flow *f;
	int reason;

	if (!policy)
		return DROP_NO_POLICY;
	flow_key_set(&s->key, vif->id, p, d);
	/* Read before the routes: a change in between makes the entry stale, never wrongly fresh. */
	generation = generation_of(vif->vrf);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f) {
		reason = flow_resolve(vif, from, 0, policy);
		if (reason)
			return reason;
		s->flow.generation = generation;
		s->flow.last_seen = bpf_ktime_get_coarse_ns();
		s->flow.packets[d] = 1;
		s->flow.bytes[d] = p->length;
		s->flow.tcp = tcp_advance(0, p, d);
		path->next_hop = s->flow.next_hop;
		path->entropy = s->flow.entropy;
		return flow_insert(s, vif);
	}
	if (tcp_opens(p) && tcp_closed(f->tcp)) {
		/* The ports are used again: a new connection in the old one's place. */
		reason = flow_resolve(vif, from, 0, policy);
		if (reason)
			return reason;
		f->direction = s->flow.direction | (f->direction & FLOW_OF_REMOTE);
		f->open_source = s->flow.open_source;
		f->open_destination = s->flow.open_destination;
		f->tcp = 0;
		f->identity = s->flow.identity;
		f->rule = s->flow.rule;
		f->next_hop = s->flow.next_hop;
		f->peer = s->flow.peer;
		f->generation = generation;
		f->policy = policy;
	} else if (f->policy != policy || f->generation != generation || (d == INGRESS && f->peer != from->peer)) {
		/*
		 * Refused flows stay, out of date, until they age: were they forgotten, the other direction's
		 * next packet could open the connection anew.
		 */
		reason = flow_resolve(vif, from, f, policy);
		if (reason)
			return reason;
		f->identity = s->flow.identity;
		f->rule = s->flow.rule;
		f->next_hop = s->flow.next_hop;
		f->peer = s->flow.peer;
		f->generation = generation;
		f->policy = policy;
	}
	f->last_seen = bpf_ktime_get_coarse_ns();
	__sync_fetch_and_add(&f->packets[d], 1);
	__sync_fetch_and_add(&f->bytes[d], p->length);
	f->tcp = tcp_advance(f->tcp, p, d);
	path->next_hop = f->next_hop;
	path->entropy = f->entropy;
	return 0;
}

/* An ICMP error passes with the flow of the packet it quotes, in either direction; nothing else lets it in. */
__noinline int flow_admit_error(struct __sk_buff *skb, const struct vif *vif, struct path *path)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !path)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct packet *quoted = &s->quoted;
	bool out = s->direction == EGRESS;
	struct flow *f;

	if (!(p->family == 4 ? vif->policy4 : vif->policy6))
		return DROP_NO_POLICY;
	if (p->fragment != FRAGMENT_NONE || parse(skb, quoted, p->l4 + 8, p->family, true))
		return DROP_BAD_HEADER;
	/* A later fragment shows no ports; an error about an error is not answered. */
	if (quoted->family != p->family || quoted->fragment == FRAGMENT_LATER || quoted->icmp_kind == ICMP_ERROR)
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	/* It goes to the sender of the quoted packet; one from the workload is about a packet that came to it. */
	if (!ip_equal(&p->destination, &quoted->source) || (out && !ip_equal(&p->source, &quoted->destination)))
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	flow_key_set(&s->key, vif->id, quoted, out ? INGRESS : EGRESS);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	/* A flow that a new policy may have cut is judged by its own packets first. */
	if (f->policy != (p->family == 4 ? vif->policy4 : vif->policy6))
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	path->next_hop = f->next_hop;
	path->entropy = f->entropy;
	return 0;
}

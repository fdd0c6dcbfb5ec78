/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet may pass: it finds its flow, or opens one, which may be translated (turn.h). An entry is looked through
 * again when the vif's policy or the VRFs' routes have changed since, or when its packets come from elsewhere.
 */
#pragma once
#include "turn.h"

struct path {
	__u32 next_hop;
	__u32 entropy;
	__u32 form; /* and s->mate the addresses to leave with */
};

/* Takes out the entry of s->key, of which s->flow is a copy, and its mate. */
static __noinline void flow_forget(struct scratch *s)
{
	struct flow *f = &s->flow, *mate;
	__u32 owner = flow_owner(&s->key, f);
	bool of_remote = f->direction & FLOW_OF_REMOTE;
	struct ip remote = s->key.remote;

	flow_forget_one(&s->key, &remote, owner, of_remote);
	if (!f->form)
		return;
	mate = bpf_map_lookup_elem(&flows, &f->mate);
	if (!mate)
		return;
	of_remote = mate->direction & FLOW_OF_REMOTE;
	remote = f->mate.remote;
	flow_forget_one(&f->mate, &remote, owner, of_remote);
}

/*
 * A reset ends its flow at once if its receiver will believe it: it is of what that acknowledged last (RFC 9293 section 3.10.7.4; RFC 5961
 * section 3). So nobody who guesses ends another's connection, and ports that are used again find no remains of their last
 * connection, which cost more than the new one. After any other reset the flow ages, as it does while somebody looks at what has ended.
 */
__noinline int flow_reset(void)
{
	struct scratch *s = scratch_get();

	if (!s)
		return 0;
	__u32 d = s->direction & 1, acked, zero = 0, *keeps = bpf_map_lookup_elem(&keeps_ended, &zero);
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key), *back = f;

	if (!f || !keeps || *keeps)
		return 0;
	if (f->form) {
		back = bpf_map_lookup_elem(&flows, &f->mate);
		if (!back)
			return 0;
	}
	acked = back->acked[f->form == FORM_LOOP ? d : !d];
	if (s->packet.sequence != acked)
		return 0;
	s->flow = *f;
	flow_forget(s);
	return 0;
}

/* VRF of a context of the vif, or its own; 0 if there is no such context. */
static __always_inline __u32 arrival_vrf(const struct vif *vif, __u32 context)
{
	struct context *c;

	if (!context)
		return vif->vrf;
	c = bpf_map_lookup_elem(&contexts, &context);
	return c ? c->vrf : 0;
}

/*
 * An entry exists but is not simply right: everything about it is looked at again. Returns 0 if it may be used, a
 * drop reason, or FLOW_REMOVED if a new flow is to take its place.
 */
__noinline int flow_again(const struct vif *vif, const struct origin *from)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	__u32 d = s->direction & 1, policy, generation, context, arrival, vrf;
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key), *mate;
	bool opens = tcp_opens(p), aside = false;
	int reason = 0;

	if (!f)
		return FLOW_REMOVED;
	s->flow = *f;
	if (opens && flow_closed(f)) {
		/* The ports are used again: a new connection in the old one's place. */
		flow_forget(s);
		return FLOW_REMOVED;
	}
	/* Another connection has these addresses after its translation. */
	if (f->form && (f->form == FORM_FABRIC) != (d == INGRESS))
		return DROP_TRANSLATION_COLLISION;
	context = f->context;
	/* Its own VRF is the one that the vif has now: networks of living ports may change. */
	if (!f->form && !context)
		s->flow.vrf = vif->vrf;
	if (d == INGRESS && (from->context || context)) {
		arrival = arrival_vrf(vif, from->context);
		if (!arrival)
			return DROP_UNKNOWN_CONTEXT;
		if (!f->form && (f->direction & ~FLOW_OF_REMOTE) == INGRESS) {
			/* The remote end opened it; where it comes from now counts, and the policy there. */
			context = from->context;
			s->flow.context = context;
			s->flow.vrf = arrival;
		} else if (f->form && !f->service) {
			if (from->context != context)
				return DROP_SOURCE_ADDRESS;
		} else if (from->context && arrival != f->vrf) {
			/* An answer may come by any of the workload's VRFs that knows the other end: only that is asked. */
			if (f->form)
				return DROP_SOURCE_ADDRESS;
			s->flow.vrf = arrival;
			aside = true;
		}
	}
	policy = policy_of(vif, context, p->family);
	if (!policy)
		return DROP_NO_POLICY;
	/* Read before the routes: a change in between makes the entry stale, never wrongly fresh. */
	generation = generation_of(vif->vrf);
	s->sender_known = 0;
	vrf = aside ? f->vrf : s->flow.vrf;
	if (vrf != vif->vrf)
		generation += generation_of(vrf);
	/* Who opens is not to meet a member that takes no new connections, though the old one went on there. */
	if (f->policy == policy && f->generation == generation && vrf == f->vrf && !(opens && f->form) &&
	    (d == EGRESS || (f->peer == from->peer && f->arrival == from->context)))
		return 0;
	if (f->form)
		reason = translation_holds(vif);
	if (!reason)
		reason = flow_resolve(vif, from, policy, flow_hash(p));
	if (reason < 0 || reason == DROP_TRANSLATION_GONE) {
		/* TCP has to begin anew; anything else may go on in another way. */
		if ((p->protocol != IPPROTO_TCP || opens) && (f->direction & ~FLOW_OF_REMOTE) == d) {
			flow_forget(s);
			return FLOW_REMOVED;
		}
		return DROP_TRANSLATION_GONE;
	}
	/*
	 * Refused flows stay, out of date, until they age: were they forgotten, the other direction's
	 * next packet could open the connection anew.
	 */
	if (reason)
		return reason;
	f->peer = s->flow.peer;
	f->generation = generation;
	f->policy = policy;
	f->rule = s->flow.rule;
	if (d == INGRESS)
		f->arrival = from->context;
	if (aside)
		return 0;
	f->vrf = s->flow.vrf;
	f->context = context;
	f->identity = s->flow.identity;
	f->next_hop = s->flow.next_hop;
	if (f->form && d == INGRESS) {
		mate = bpf_map_lookup_elem(&flows, &f->mate);
		if (mate)
			mate->next_hop = f->next_hop;
	}
	return 0;
}

static __always_inline int leave(const struct vif *vif, __u32 hash)
{
	struct node *n = node_get();
	int reason;

	if (n && n->services) {
		struct scratch *s = scratch_get();

		reason = node_port_enter(vif, hash);
		if (reason || (s && s->flow.form))
			return reason;
	}
	return vif->floating[0] ? floating_leave(vif) : 0;
}

/* A flow of its own for the packet in s->packet, under s->key. */
__noinline int flow_open(const struct vif *vif, const struct origin *from, struct path *path)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from || !path)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct flow *f = &s->flow;
	__u32 d = s->direction & 1, policy, hash = flow_hash(p);
	int reason = 0;

	__builtin_memset(f, 0, sizeof(*f));
	s->crowded = s->sender_known = 0;
	f->direction = d;
	f->open_source = p->source_port;
	f->open_destination = p->destination_port;
	f->entropy = entropy_port(hash);
	f->ifindex = vif->ifindex;
	if (d == EGRESS && s->lent)
		f->flags = FLOW_OWN_ADDRESS;
	f->vrf = vif->vrf;
	f->generation = generation_of(vif->vrf);
	if (from->flags & ORIGIN_OUTSIDE)
		reason = outside_enter(vif, from, hash);
	else if (d == EGRESS)
		reason = leave(vif, hash);
	else if (from->context)
		reason = context_enter(vif, from);
	if (reason)
		return reason;
	if (d == INGRESS)
		f->arrival = from->context;
	if (d == INGRESS && from->flags & ORIGIN_HOST)
		f->flags |= FLOW_FROM_HOST;
	policy = policy_of(vif, f->context, p->family);
	if (!policy)
		return DROP_NO_POLICY;
	reason = flow_resolve(vif, from, policy, hash);
	if (reason == FLOW_TO_SERVICE) {
		reason = service_enter(vif, hash);
		if (!reason)
			reason = flow_resolve(vif, from, policy, hash);
	}
	if (reason == FLOW_TO_OUTSIDE) {
		reason = outside_leave();
		if (!reason)
			reason = flow_resolve(vif, from, policy, hash);
	}
	if (!reason && f->flags & FLOW_OWN_ADDRESS && !f->form)
		reason = known_leave();
	if (reason)
		return reason < 0 ? DROP_DISCARD_ROUTE : reason;
	f->last_seen = bpf_ktime_get_coarse_ns();
	f->opened = f->last_seen >> 20;
	if (f->form) {
		reason = flow_insert_pair(vif, hash);
	} else {
		f->packets[d] = 1;
		f->bytes[d] = p->length;
		f->tcp = tcp_advance(0, p, d);
		tcp_acknowledges(f, p, d);
		reason = flow_insert(s, vif);
	}
	if (reason > 0)
		return reason;
	path->next_hop = f->next_hop;
	path->entropy = f->entropy;
	path->form = f->form;
	if (f->form)
		s->mate = f->mate;
	return 0;
}

/* Judges the packet in s->packet, which moves in s->direction of this vif. Returns 0 or a drop reason. */
__noinline int flow_admit(const struct vif *vif, const struct origin *from, struct path *path)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from || !path)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	__u32 policy, generation, d = s->direction & 1;
	struct flow *f;
	int reason;

	flow_key_set(&s->key, from->flags & ORIGIN_OUTSIDE ? NO_VIF : vif->id, p, d);
	generation = generation_of(vif->vrf);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return flow_open(vif, from, path);
	policy = policy_of(vif, f->context, p->family);
	if (f->vrf != vif->vrf)
		generation += generation_of(f->vrf);
	if (f->policy != policy || f->generation != generation || tcp_opens(p) ||
	    (f->form && (f->form == FORM_FABRIC) != (d == INGRESS)) ||
	    (d == INGRESS && (f->peer != from->peer || f->arrival != from->context))) {
		reason = flow_again(vif, from);
		if (reason == FLOW_REMOVED)
			return flow_open(vif, from, path);
		if (reason)
			return reason;
	}
	f->last_seen = bpf_ktime_get_coarse_ns();
	__sync_fetch_and_add(&f->packets[d], 1);
	__sync_fetch_and_add(&f->bytes[d], p->length);
	f->tcp = tcp_advance(f->tcp, p, d);
	tcp_acknowledges(f, p, d);
	path->next_hop = f->next_hop;
	path->entropy = f->entropy;
	path->form = f->form;
	if (f->form)
		s->mate = f->mate;
	/* Last: then the entry may be another's. */
	return p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_FLAG_RST ? flow_reset() : 0;
}

/* An ICMP error passes with the flow of the packet it quotes, in either direction; nothing else lets it in. */
__noinline int flow_admit_error(struct __sk_buff *skb, const struct vif *vif, const struct origin *from,
				struct path *path)
{
	/* Taken anew: Linux 6.1 looks no map up by a key that came in through an argument. */
	struct scratch *s = scratch_get();

	if (!s || !vif || !from || !path)
		return DROP_NO_INTERFACE;
	const struct packet *p = &s->packet;
	struct packet *quoted = &s->quoted;
	bool out = s->direction == EGRESS;
	struct flow *f;
	__u32 policy;

	if (p->fragment != FRAGMENT_NONE || parse(skb, quoted, p->l4 + 8, p->family, true))
		return DROP_BAD_HEADER;
	/* A later fragment shows no ports; an error about an error is not answered. */
	if (quoted->family != p->family || quoted->fragment == FRAGMENT_LATER || quoted->icmp_kind == ICMP_ERROR)
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	/* It goes to the sender of the quoted packet; one from the workload is about a packet that came to it. */
	if (!ip_equal(&p->destination, &quoted->source) || (out && !ip_equal(&p->source, &quoted->destination)))
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	flow_key_set(&s->key, from->flags & ORIGIN_OUTSIDE ? NO_VIF : vif->id, quoted, out ? INGRESS : EGRESS);
	f = bpf_map_lookup_elem(&flows, &s->key);
	if (!f)
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	policy = policy_of(vif, f->context, p->family);
	if (!policy)
		return DROP_NO_POLICY;
	/* A flow that a new policy may have cut is judged by its own packets first. */
	if (f->policy != policy || (f->form && (f->form == FORM_FABRIC) == out))
		return DROP_ICMP_ERROR_WITHOUT_FLOW;
	path->next_hop = f->next_hop;
	path->entropy = f->entropy;
	path->form = f->form;
	if (f->form)
		s->mate = f->mate;
	return 0;
}

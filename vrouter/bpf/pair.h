/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Both entries of a translated flow: in together, the borrowed port found by entering the one that has it. */
#pragma once
#include "own.h"

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

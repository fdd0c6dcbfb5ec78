/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's own addresses: what its stack is known by, what workloads leave the fabric with, and whose an address is. */
#pragma once
#include "flow.h"

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

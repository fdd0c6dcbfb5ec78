/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Routes: exact match first, then the longest prefix. And next hops: which leaf, and does a packet come from there. */
#pragma once
#include "packet.h"

static __noinline struct route *route_find(__u32 vrf, __u32 family, const struct ip *address)
{
	struct prefix_key key = {
		.bits = 64 + 128,
		.host = { .vrf = vrf, .family = family, .address = *address },
	};
	struct route *route = bpf_map_lookup_elem(&host_routes, &key.host);

	return route ? route : bpf_map_lookup_elem(&prefix_routes, &key);
}

static __always_inline struct node *node_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

static __always_inline __u32 generation_of(__u32 vrf)
{
	__u32 *generation = bpf_map_lookup_elem(&generations, &vrf);

	return generation ? *generation : 0;
}

static __always_inline struct next_hop *next_hop_get(__u32 id)
{
	return bpf_map_lookup_elem(&next_hops, &id);
}

/* By what a client outside is answered. */
static __always_inline __u32 next_hop_outside(__u32 family)
{
	struct node *n = node_get();

	if (!n)
		return 0;
	return family == 4 ? n->next_hop4 : n->next_hop6;
}

/* The leaf a flow takes: its present one while that is a member, else one by hash. */
__noinline __u32 next_hop_leaf(__u32 id, __u32 present, __u32 hash)
{
	struct next_hop *nh = next_hop_get(id), *first;
	__u32 count, pick, i;

	if (!nh)
		return 0;
	if (nh->type != NEXT_HOP_COMPOSITE)
		return id;
	count = nh->count;
	if (!count || count > MAX_MEMBERS)
		return 0;
	for (i = 0; i < MAX_MEMBERS; i++)
		if (i < count && nh->members[i] == present)
			return present;
	/* Past the fabric before all others: those are ways by which it may come in. */
	first = next_hop_get(nh->members[0]);
	if (first && first->type == NEXT_HOP_OUTSIDE)
		return nh->members[0];
	pick = hash % count;
	barrier_var(pick); /* or the compiler proves the mask away, and the verifier does not follow it */
	return nh->members[pick & (MAX_MEMBERS - 1)];
}

static __always_inline bool leaf_is(const struct next_hop *nh, const struct origin *from)
{
	if (from->flags & ORIGIN_OUTSIDE)
		return nh->type == NEXT_HOP_OUTSIDE;
	if (from->flags & ORIGIN_NATIVE)
		return nh->type == NEXT_HOP_NATIVE;
	if (from->ifindex)
		return nh->type == NEXT_HOP_LOCAL && nh->ifindex == from->ifindex;
	return nh->type == NEXT_HOP_TUNNEL && nh->family == from->family && ip_equal(&nh->remote, &from->remote);
}

/* Reverse path: the leaf behind `id` that is this origin; 0 if there is none. */
__noinline __u32 next_hop_from(__u32 id, const struct origin *from)
{
	if (!from)
		return 0;
	struct next_hop *nh = next_hop_get(id);
	__u32 i;

	if (!nh)
		return 0;
	if (nh->type != NEXT_HOP_COMPOSITE)
		return leaf_is(nh, from) ? id : 0;
	for (i = 0; i < MAX_MEMBERS; i++) {
		struct next_hop *leaf;

		if (i >= nh->count)
			break;
		leaf = next_hop_get(nh->members[i]);
		if (leaf && leaf_is(leaf, from))
			return nh->members[i];
	}
	return 0;
}

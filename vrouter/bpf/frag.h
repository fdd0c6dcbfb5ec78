/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments: the first one's ports are kept so that later ones are judged, and hashed, as part of the same flow. */
#pragma once
#include "packet.h"

static __noinline int fragment_resolve(struct scratch *s, __u32 direction)
{
	struct packet *p = &s->packet;
	struct fragment_key key = {
		.vif = s->vif,
		.source = p->source,
		.destination = p->destination,
		.id = p->fragment_id,
		.family = p->family,
		.protocol = p->protocol,
		.direction = direction,
	};
	__u64 now = bpf_ktime_get_coarse_ns();
	struct fragment *known;

	if (p->fragment == FRAGMENT_FIRST) {
		struct fragment fresh = {
			.seen = now,
			.source = p->source_port,
			.destination = p->destination_port,
			.icmp_id = p->icmp_id,
			.icmp_kind = p->icmp_kind,
		};

		/* A full LRU makes room by itself; without an entry later fragments drop with their reason. */
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || now - known->seen > cfg.fragment_life)
		return DROP_FRAGMENT_WITHOUT_FIRST;
	p->source_port = known->source;
	p->destination_port = known->destination;
	p->icmp_id = known->icmp_id;
	p->icmp_kind = known->icmp_kind;
	return 0;
}

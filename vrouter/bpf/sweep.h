/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ageing, started by user space about once a second: in the kernel, because only here a flow and its vif's count can go
 * together without losing a packet's increment in between.
 */
#pragma once
#include "admit.h"

static long sweep_one(struct bpf_map *map, struct flow_key *key, struct flow *f, struct sweep *sweep)
{
	__u64 life, seen = f->last_seen;
	__u8 tcp = f->tcp;
	bool of_remote = f->direction & FLOW_OF_REMOTE, mate_of_remote = false;
	__u32 vif = flow_owner(key, f);
	struct ip remote = key->remote;
	struct flow_key other;
	struct flow *mate = 0;

	(void)map;
	if (f->form) {
		/* Both forms end together: the mate's packets and flags count too. */
		other = f->mate;
		mate = bpf_map_lookup_elem(&flows, &other);
		if (mate) {
			tcp |= mate->tcp;
			if (mate->last_seen > seen)
				seen = mate->last_seen;
			mate_of_remote = mate->direction & FLOW_OF_REMOTE;
		}
	}
	life = tcp_closed(tcp) ? sweep->closed : sweep->idle;
	/* A packet may have come since `now` was read. */
	if (sweep->vif ? sweep->vif != vif : (seen >= sweep->now || sweep->now - seen < life)) {
		sweep->live++;
		return 0;
	}
	/* All was read before the deletion: from then on key and flow may be another's. */
	sweep->removed += flow_forget_one(key, &remote, vif, of_remote);
	if (mate)
		sweep->removed += flow_forget_one(&other, &other.remote, vif, mate_of_remote);
	return 0;
}

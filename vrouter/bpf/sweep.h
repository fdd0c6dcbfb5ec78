/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ageing, started by user space about once a second: in the kernel, because only here a flow and its vif's count can go
 * together without losing a packet's increment in between.
 */
#pragma once
#include "flow.h"

static long sweep_one(struct bpf_map *map, struct flow_key *key, struct flow *f, struct sweep *sweep)
{
	struct vif_state *state;
	__u64 life = tcp_closed(f->tcp) ? sweep->closed : sweep->idle;
	__u64 seen = f->last_seen;
	bool of_remote = f->direction & FLOW_OF_REMOTE;
	struct remote_cells cells;
	__u32 vif = key->vif;

	/* A packet may have come since `now` was read. */
	if (sweep->vif ? sweep->vif != vif : (seen >= sweep->now || sweep->now - seen < life)) {
		sweep->live++;
		return 0;
	}
	state = bpf_map_lookup_elem(&vif_states, &vif);
	/* Before the deletion: from then on key and flow may be another's. */
	if (state)
		cells = remote_cells(state, &key->remote);
	if (bpf_map_delete_elem(map, key))
		return 0;
	sweep->removed++;
	if (state) {
		__sync_fetch_and_sub(&state->flows, 1);
		if (of_remote)
			remote_leave(cells);
	}
	return 0;
}

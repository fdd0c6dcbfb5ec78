/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tables. All but the scratch space are pinned and outlive every program that uses them. */
#pragma once
#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define TABLE(name, kind, entries, k, v, ...)         \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_##kind);    \
		__uint(max_entries, entries);         \
		__type(key, k);                       \
		__type(value, v);                     \
		__VA_ARGS__                           \
	} name SEC(".maps")

#define NO_PREALLOC __uint(map_flags, BPF_F_NO_PREALLOC);

/* Sizes marked (set) are replaced at load time by the configuration. */
TABLE(meta, ARRAY, 1, __u32, struct meta, );
TABLE(vifs, HASH, 4096 /* set */, __u32, struct vif, );
TABLE(vlans, HASH, 4096 /* set */, struct vlan_key, __u32, NO_PREALLOC);
TABLE(vif_states, HASH, 4096 /* set */, __u32, struct vif_state, );
TABLE(vif_stats, PERCPU_HASH, 4096 /* set */, __u32, struct vif_counters, );
TABLE(vif_drops, PERCPU_HASH, 65536, struct vif_drop_key, __u64, NO_PREALLOC);
TABLE(drops, PERCPU_ARRAY, 128, __u32, __u64, );
TABLE(generations, ARRAY, 65536, __u32, __u32, );
TABLE(host_routes, HASH, 1024 /* set */, struct host_key, struct route, NO_PREALLOC);
TABLE(prefix_routes, LPM_TRIE, 1024 /* set */, struct prefix_key, struct route, NO_PREALLOC);
TABLE(next_hops, ARRAY, 1024 /* set */, __u32, struct next_hop, );
TABLE(labels, HASH, 65536, __u32, struct label, NO_PREALLOC);
TABLE(contexts, HASH, 1024 /* set */, __u32, struct context, NO_PREALLOC);
TABLE(port_mappings, HASH, 65536, struct port_mapping_key, __u32, NO_PREALLOC);
TABLE(services, HASH, 1024 /* set */, struct service_key, struct service, NO_PREALLOC);
TABLE(members, HASH, 1024 /* set */, struct member_slot, struct member, NO_PREALLOC);
TABLE(member_set, HASH, 1024 /* set */, struct member_key, __u32, NO_PREALLOC);
TABLE(affinities, LRU_HASH, 8192 /* set */, struct affinity_key, struct affinity, );
TABLE(service_sources, LPM_TRIE, 65536, struct service_source_key, __u32, NO_PREALLOC);
TABLE(node, ARRAY, 1, __u32, struct node, );
TABLE(node_addresses, HASH, 65536, struct address_key, __u32, NO_PREALLOC);
TABLE(peers, HASH, 65536, struct address_key, __u32, NO_PREALLOC);
TABLE(tunnel_addresses, HASH, 64, struct address_key, __u32, );
TABLE(policies, LPM_TRIE, 1024 /* set */, struct policy_key, struct policy_value, NO_PREALLOC);
TABLE(policy_sources, LPM_TRIE, 65536, struct source_key, struct policy_value, NO_PREALLOC);
TABLE(flows, HASH, 1024 /* set */, struct flow_key, struct flow, );
TABLE(keeps_ended, ARRAY, 1, __u32, __u32, ); /* 1: somebody looks at connections that have ended */
TABLE(ages, HASH, 1024, struct age_key, __u64, NO_PREALLOC); /* ns; 0: for ever */
TABLE(fragments, LRU_HASH, 8192 /* set */, struct fragment_key, struct fragment, );

TABLE(bench, ARRAY, 1, __u32, struct bench, ); /* not pinned */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144 /* set */);
} events SEC(".maps");

const volatile struct settings cfg = {
	.decap_flags = 0,
	.event_interval = 10 * 1000 * 1000,
	.fragment_life = 5ULL * 1000 * 1000 * 1000,
};

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ageing, started by user space about once a second: in the kernel, because only here a flow and its vif's count can go
 * together without losing a packet's increment in between.
 */
#pragma once
#include "admit.h"

/*
 * What is no connection has no beginning and end to go by. Linux' own: 30 s, until packets of both directions have been seen and the
 * last came 2 s or more after the first (nf_conntrack_proto_udp.c). A name that is looked up is such an exchange.
 */
enum { LASTING = 1907 /* 2 s, in units of 2^20 ns */ };

static __always_inline bool brief(const struct flow_key *key, const struct flow *f, const struct flow *mate, __u64 seen)
{
	bool out = f->packets[EGRESS], in = f->packets[INGRESS];

	if (key->protocol == IPPROTO_TCP || key->protocol == IPPROTO_SCTP)
		return false;
	if (mate) {
		in |= f->form == FORM_LOOP ? mate->packets[EGRESS] : mate->packets[INGRESS];
		out |= mate->packets[EGRESS];
	}
	return !out || !in || (__u32)(seen >> 20) - f->opened < LASTING;
}

/* The age of its own that a connection's protocol and port have: the opener's port, else the other, else the protocol. */
static __always_inline __u64 *listed_age(const struct flow_key *key, __u32 direction)
{
	struct age_key at = { .protocol = key->protocol };
	bool out = (direction & ~FLOW_OF_REMOTE) == EGRESS, ports;
	__u64 *age = 0;

	ports = key->protocol == IPPROTO_TCP || key->protocol == IPPROTO_UDP || key->protocol == IPPROTO_SCTP;
	if (ports) {
		at.port = out ? key->local_port : key->remote_port;
		age = bpf_map_lookup_elem(&ages, &at);
		if (!age) {
			at.port = out ? key->remote_port : key->local_port;
			age = bpf_map_lookup_elem(&ages, &at);
		}
		at.port = 0;
	}
	return age ? age : bpf_map_lookup_elem(&ages, &at);
}

static long sweep_one(struct bpf_map *map, struct flow_key *key, struct flow *f, struct sweep *sweep)
{
	__u64 life, seen = f->last_seen;
	__u8 tcp = f->tcp;
	bool of_remote = f->direction & FLOW_OF_REMOTE, mate_of_remote = false;
	__u32 vif = flow_owner(key, f);
	struct ip remote = key->remote;
	struct flow_key other;
	struct flow *mate = 0;
	__u64 *age;

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
	life = brief(key, f, mate, seen) ? sweep->brief : sweep->idle;
	if (sweep->ages && !sweep->vif) {
		/* Both forms have to agree: the workload's goes, in which a service has its own port. */
		age = listed_age(f->form == FORM_FABRIC ? &f->mate : key, f->direction);
		if (age)
			life = *age ? *age : ~0ULL;
	}
	if (tcp_closed(tcp) && life > sweep->closed)
		life = sweep->closed;
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

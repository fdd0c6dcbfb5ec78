/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Dropping: nothing disappears uncounted. Reasons are counted per node and per vif; events are rate limited per vif. */
#pragma once
#include "packet.h"

static __always_inline void drop_event(struct scratch *s, __u32 reason)
{
	struct vif_state *state = bpf_map_lookup_elem(&vif_states, &s->vif);
	__u64 now = bpf_ktime_get_coarse_ns(), *last;
	const struct packet *p = &s->packet;
	struct event *e;

	if (!state)
		return;
	/* Apart, so that noise of one kind never hides the other kinds. */
	if (reason == DROP_POLICY_DENY)
		last = &state->denied_event;
	else if (reason == DROP_FLOW_QUOTA || reason == DROP_FLOW_TABLE_FULL || reason == DROP_REMOTE_SHARE ||
		 reason == DROP_SNAT_EXHAUSTED)
		last = &state->resource_event;
	else
		last = &state->spoof_event;
	if (now - *last < cfg.event_interval)
		return;
	*last = now;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return;
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->reason = reason;
	e->vif = s->vif;
	e->rule = reason == DROP_POLICY_DENY ? s->rule : 0;
	e->direction = s->direction;
	e->family = p->family;
	e->protocol = p->protocol;
	if (s->direction == EGRESS) {
		e->local = p->source;
		e->remote = p->destination;
		e->local_port = p->source_port;
		e->remote_port = p->destination_port;
	} else {
		e->local = p->destination;
		e->remote = p->source;
		e->local_port = p->destination_port;
		e->remote_port = p->source_port;
	}
	bpf_ringbuf_submit(e, 0);
}

static __noinline int drop(struct __sk_buff *skb, struct scratch *s, __u32 reason)
{
	struct vif_drop_key key = { .vif = s->vif, .reason = reason };
	__u64 one = 1, *count;

	count = bpf_map_lookup_elem(&drops, &reason);
	if (count)
		*count += 1;
	skb->cb[2] = reason; /* for tests and traces */
	if (key.vif) {
		count = bpf_map_lookup_elem(&vif_drops, &key);
		if (count)
			*count += 1;
		else
			bpf_map_update_elem(&vif_drops, &key, &one, BPF_NOEXIST);
		if (reason == DROP_POLICY_DENY || reason == DROP_FLOW_QUOTA || reason == DROP_FLOW_TABLE_FULL ||
		    reason == DROP_REMOTE_SHARE || reason == DROP_SNAT_EXHAUSTED || reason == DROP_SOURCE_ADDRESS || reason == DROP_SOURCE_MAC)
			drop_event(s, reason);
	}
	return TC_ACT_SHOT;
}

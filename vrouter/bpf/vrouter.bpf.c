/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The hooks: wiring only. What happens to packets is in forward.h. */
#include "outside.h"
#include "loopback.h"
#include "sweep.h"

/* Makes the layout of ring buffer records part of the BTF. */
struct event *event_layout;

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* tc ingress of a workload's host end. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	int reason;

	if (!s)
		return TC_ACT_SHOT;
	reason = workload_packet(skb, s);
	return reason ? drop(skb, s, reason) : (int)s->action;
}

/* tc ingress of an uplink. */
SEC("tc")
int from_fabric(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	int reason;

	if (!s)
		return TC_ACT_SHOT;
	reason = fabric_packet(skb, s);
	if (reason == NOT_OURS)
		reason = outside_packet(skb);
	/* From here, not from there: a chain of calls has 512 bytes of stack. */
	if (reason == FOR_NATIVE)
		reason = native_deliver(skb);
	if (reason == FOR_SERVICE)
		reason = outside_service();
	if (reason == FOR_MEMBER)
		reason = outside_member(skb);
	if (reason == FOR_HOST)
		reason = outside_host(skb);
	if (reason == NOT_OURS)
		return TC_ACT_OK;
	return reason ? drop(skb, s, reason) : (int)s->action;
}

/* tc egress of the node's `lo`. */
SEC("tc")
int from_loopback(struct __sk_buff *skb)
{
	return loopback_packet(skb);
}

SEC("syscall")
int sweep_flows(struct sweep *sweep)
{
	struct sweep own = *sweep; /* callbacks may not be handed the context */

	bpf_for_each_map_elem(&flows, sweep_one, &own, 0);
	sweep->live = own.live;
	sweep->removed = own.removed;
	return 0;
}

/*
 * For measuring only, loaded only when asked for: gives the packet a UDP source port and an address never seen before
 * and sends it down the walk of from_workload. The frame is written anew each time, so that one BPF_PROG_TEST_RUN can repeat it.
 */
SEC("tc")
int bench_workload(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	__u32 zero = 0, n, ports;
	struct bench *b = bpf_map_lookup_elem(&bench, &zero);
	int reason;

	if (!s || !b)
		return TC_ACT_SHOT;
	n = b->count++;
	if (b->spread && b->count >= b->spread)
		b->count = 0;
	/* Source port from the low half, destination port from the high one. */
	ports = bpf_htonl(n << 16 | n >> 16);
	if (bpf_skb_store_bytes(skb, 0, b->frame, sizeof(b->frame), 0) ||
	    bpf_skb_store_bytes(skb, 34, &ports, sizeof(ports), 0))
		return TC_ACT_SHOT;
	reason = workload_packet(skb, s);
	return reason ? drop(skb, s, reason) : (int)s->action;
}

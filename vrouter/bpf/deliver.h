/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Handing a packet, whose Ethernet payload is the finished IP packet, to a workload. */
#pragma once
#include "vlan.h"

#define GATEWAY_MAC { 0x00, 0x00, 0x5e, 0x00, 0x01, 0x00 }

enum sent { SENT_WORKLOAD = 1, SENT_TUNNEL = 2, SENT_OUTSIDE = 3 };

/* Destination, as tests and traces read it back; the kernel does not keep cb beyond this hook. */
static __always_inline void note(struct __sk_buff *skb, __u32 kind, __u32 ifindex)
{
	skb->cb[0] = kind;
	skb->cb[1] = ifindex;
}

static __always_inline void count_out(__u32 vif, __u32 bytes)
{
	struct vif_counters *c = bpf_map_lookup_elem(&vif_stats, &vif);

	if (c) {
		c->packets_out += 1;
		c->bytes_out += bytes;
	}
}

static __always_inline void count_in(__u32 vif, __u32 bytes)
{
	struct vif_counters *c = bpf_map_lookup_elem(&vif_stats, &vif);

	if (c) {
		c->packets_in += 1;
		c->bytes_in += bytes;
	}
}

/* Writes the frame's header as the workload expects it and sends it there. */
static __always_inline int deliver(struct __sk_buff *skb, struct scratch *s, const struct vif *vif, __be16 proto)
{
	struct ethhdr eth = { .h_source = GATEWAY_MAC, .h_proto = proto };

	__builtin_memcpy(eth.h_dest, vif->mac, 6);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return DROP_REWRITE_FAILED;
	note(skb, SENT_WORKLOAD, vif->ifindex);
	/* The frame was addressed to the gateway's MAC, which is not the device's: the stack had marked it as foreign. */
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	if (vif->flags & VIF_VLAN)
		return vlan_deliver(skb, s, vif);
	s->action = vif->flags & VIF_PEER ? bpf_redirect_peer(vif->ifindex, 0) : bpf_redirect(vif->ifindex, 0);
	return 0;
}

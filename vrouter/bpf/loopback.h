/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the node's own stack sends to addresses of its own stays on `lo`. What of it goes to a service is handed to the
 * program of the host's interface, as if it had been sent there; all else is the stack's, untouched.
 */
#pragma once
#include "forward.h"

static __always_inline int loopback_packet(struct __sk_buff *skb)
{
	struct ethhdr eth = { .h_source = GATEWAY_MAC, .h_dest = GATEWAY_MAC, .h_proto = skb->protocol };
	struct scratch *s = scratch_get();
	struct node *n = node_get();

	if (!s || !n || !n->services || !n->host)
		return TC_ACT_OK;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_OK;
	s->vif = NO_VIF;
	s->direction = EGRESS;
	if (parse(skb, &s->packet, sizeof(eth), skb->protocol == bpf_htons(ETH_P_IP) ? 4 : 6, false))
		return TC_ACT_OK;
	if (s->packet.fragment != FRAGMENT_NONE && fragment_resolve(s, EGRESS))
		return TC_ACT_OK;
	if (!has_ports(&s->packet) ||
	    (!service_by(s, SERVICES_INSIDE, false) && !service_by(s, SERVICES_INSIDE, true)))
		return TC_ACT_OK;
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return TC_ACT_OK;
	note(skb, SENT_WORKLOAD, n->host);
	return bpf_redirect(n->host, BPF_F_INGRESS);
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policy: one longest prefix match, two if no rule names the remote end's identity. */
#pragma once
#include "packet.h"

struct question {
	__u32 policy;
	__u32 identity;
	__u8 direction;
	__u8 protocol;
	__u16 source_port;
	__u16 destination_port;
};

/* Returns 0 or a drop reason; *rule says who decided. */
__noinline int policy_judge(const struct question *q, __u32 *rule)
{
	if (!q || !rule)
		return DROP_POLICY_INCOMPLETE;
	struct policy_key key = {
		.bits = 96,
		.policy = q->policy,
		.identity = q->identity,
		.direction = q->direction,
		.protocol = q->protocol,
		.port = bpf_htons(q->destination_port),
	};
	struct policy_value *v = bpf_map_lookup_elem(&policies, &key);

	if (!v && key.identity) {
		key.identity = 0;
		v = bpf_map_lookup_elem(&policies, &key);
	}
	if (v && v->action == POLICY_BY_SOURCE) {
		struct source_key source = {
			.bits = 80,
			.policy = q->policy,
			.table = v->table,
			.port = bpf_htons(q->source_port),
		};

		v = bpf_map_lookup_elem(&policy_sources, &source);
	}
	if (!v)
		return DROP_POLICY_INCOMPLETE;
	*rule = v->rule;
	return v->action == POLICY_PASS ? 0 : DROP_POLICY_DENY;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs know of one packet, and the per-CPU space they work in (a stack has 512 bytes). */
#pragma once
#include "maps.h"
#include "drop_reasons.h"

enum fragment_kind { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };
enum icmp_kind { ICMP_NONE, ICMP_REQUEST, ICMP_REPLY, ICMP_ERROR, ICMP_OTHER };

struct packet {
	struct ip source;
	struct ip destination;
	__u32 l3; /* offsets into the frame */
	__u32 l4;
	__u32 length; /* of the IP packet */
	__u32 l4_header; /* bytes of the transport header, for the size of GSO segments */
	__u32 fragment_id;
	__u32 sequence; /* of TCP */
	__u32 acknowledged;
	__u16 source_port; /* as policy sees them: ICMP has its type and code as destination */
	__u16 destination_port;
	__u16 icmp_id;
	__u8 family;
	__u8 protocol;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 fragment;
	__u8 icmp_kind;
};

#define ICMP_QUOTE 128

/* What addresses become. */
struct turn {
	struct ip source;
	struct ip destination;
	__u16 source_port;
	__u16 destination_port;
};

enum origin_flags {
	ORIGIN_HOST = 1, /* the vif is the node's own stack */
	ORIGIN_OUTSIDE = 2, /* no vif and no tunnel: to the node's own address on the uplink */
	ORIGIN_SERVICE = 4, /* and there to a service: it may open a connection */
	ORIGIN_NATIVE = 8, /* no vif and no tunnel: to the address of a workload in the underlay */
};

/* Where a packet came from: a vif, or the outer source of a tunnel. */
struct origin {
	__u32 ifindex; /* of the vif; 0: a tunnel */
	__u32 family;
	__u32 peer; /* as flows remember it */
	__u32 context; /* of the vif it is for; 0: its own VRF */
	__u32 flags; /* enum origin_flags */
	struct ip remote;
};

/* Picking a member. */
struct pick {
	struct service_key key;
	struct member_slot slot;
	struct affinity_key client;
	struct affinity fresh;
	struct member_key known;
	struct service_source_key source;
	struct address_key at;
};

/* For a free port (pair.h). Here, as a chain of calls has 512 bytes of stack. */
struct port_search {
	__u32 remote; /* the other end's port, not ours */
	__u32 size;
	__u32 at;
	__u32 seed;
	struct port_pool pool;
	__s32 error;
};

struct scratch {
	struct packet packet;
	struct packet quoted; /* the packet an ICMP error is about */
	struct flow_key key;
	struct flow_key mate; /* of the entry by which a translated packet leaves */
	struct flow flow;
	struct turn turn;
	struct pick pick;
	struct port_search search;
	struct origin from; /* of the packet at the vif it is at by now */
	__u32 via; /* VRF of the services a route leads to */
	__u32 action; /* what the hook returns */
	__u32 rule; /* who refused, for the event */
	__u32 vif; /* whose packet it is by now */
	__u32 direction;
	__u32 outside; /* a client outside sent it, who gets the answers */
	__u32 target; /* host end of the workload in the underlay that it is for */
	__u32 own; /* the node's own stack sent it to an address of its own */
	__u32 lent; /* that, or from an own address that the fabric does not know: the known one stands in */
	__u32 sender_known; /* that the workload may send from its address */
	__u32 crowded; /* all members have a connection that would look the same: another port is to be found */
	__u32 onward; /* translated into an answer to one: not for the vif it came to */
	/* An answer under construction; pseudo header, ICMP header and quote for ICMPv6. */
	__u8 answer[40 + 8 + ICMP_QUOTE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch_space SEC(".maps");

static __always_inline struct scratch *scratch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_space, &zero);
}

static __always_inline bool ip_equal(const struct ip *a, const struct ip *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline bool key_equal(const struct flow_key *a, const struct flow_key *b)
{
	return a->vif == b->vif && ip_equal(&a->local, &b->local) && ip_equal(&a->remote, &b->remote) &&
	       a->local_port == b->local_port && a->remote_port == b->remote_port;
}

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

static __always_inline bool ip_is_zero(const struct ip *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

static __always_inline void ip_from4(struct ip *a, __be32 v4)
{
	a->w[0] = v4;
	a->w[1] = a->w[2] = a->w[3] = 0;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

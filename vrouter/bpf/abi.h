/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables shared with user space. Rust types are generated from these by way of BTF. Whoever changes a
 * layout or a meaning raises ABI_VERSION: an agent refuses tables of another version.
 *
 * Addresses are in network order; ports, labels and numbers in host order unless the type says big endian.
 */
#pragma once
#include "vmlinux.h"

#define ABI_VERSION 3
#define MAX_MEMBERS 16
#define REMOTE_CELLS 128 /* a power of two */

/* An address of either family; IPv4 is in w[0], the rest is 0. */
struct ip {
	__u32 w[4];
};

enum vif_flags {
	VIF_ADMIN_DOWN = 1,
	VIF_POLICY_DISABLED = 2,
	VIF_PEER = 4, /* veth: deliver into the other end's namespace */
};

struct vif {
	__u32 ifindex;
	__u32 id;
	__u32 vrf;
	__u32 flags;
	__u32 policy4; /* 0: none in force, drop */
	__u32 policy6;
	__u32 flow_quota;
	__u32 mtu;
	__u32 label;
	struct ip gateway4;
	struct ip gateway6;
	__u8 mac[6];
	__u8 pad[2];
};

/* What programs change about a vif, apart so that a new record never overwrites it. */
struct vif_state {
	__u64 denied_event;   /* time of the last event about policy, */
	__u64 resource_event; /* about quota and a full table, */
	__u64 spoof_event;    /* and about forged sources */
	__u64 icmp_until;     /* up to this time its share of ICMP errors is used */
	__u32 flows;
	__u32 seed; /* of the cells, random: nobody can choose addresses that share them with a victim's */
	__u32 remote_flows[2 * REMOTE_CELLS]; /* flows by the remote that opened them, two rows (flow.h) */
};

struct vif_counters {
	__u64 packets_out;
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
};

struct vif_drop_key {
	__u32 vif;
	__u32 reason;
};

/* prefix_key without its first word is a host_key. */
struct host_key {
	__u32 vrf;
	__u32 family;
	struct ip address;
};

struct prefix_key {
	__u32 bits; /* 64 + prefix length */
	struct host_key host;
};

struct route {
	__u32 next_hop;
	__u32 identity;
};

enum next_hop_type {
	NEXT_HOP_DISCARD = 0,
	NEXT_HOP_LOCAL = 1,
	NEXT_HOP_TUNNEL = 2,
	NEXT_HOP_COMPOSITE = 3,
};

enum encapsulation {
	ENCAP_VXLAN = 1,
	ENCAP_MPLS_UDP = 2,
	ENCAP_MPLS_GRE = 3,
};

struct next_hop {
	__u32 type;
	__u32 encapsulation;
	__u32 ifindex; /* local: the vif; tunnel: the uplink */
	__u32 label;
	__u32 mtu;
	__u32 family; /* of the tunnel's addresses */
	__u32 gateway_family; /* 0: ask the kernel's routing table */
	__u32 count;
	struct ip remote;
	struct ip local;
	struct ip gateway;
	__u32 members[MAX_MEMBERS];
};

struct address_key {
	__u32 family;
	struct ip address;
};

struct flow_key {
	__u32 vif;
	struct ip local;
	struct ip remote;
	__u16 local_port;
	__u16 remote_port;
	__u8 family;
	__u8 protocol;
	__u8 pad[2];
};

enum direction {
	EGRESS = 0, /* from the workload */
	INGRESS = 1,
};

enum tcp_state {
	TCP_SYN_SEEN = 1,
	TCP_ESTABLISHED = 2,
	TCP_FIN_OUT = 4,
	TCP_FIN_IN = 8,
	TCP_RESET = 16,
};

struct flow {
	__u64 last_seen; /* coarse monotonic clock, ns */
	__u64 packets[2]; /* by direction of the packet */
	__u64 bytes[2];
	__u32 policy;
	__u32 identity;
	__u32 rule;
	__u32 next_hop;
	__u32 generation; /* of the VRF's routes when last looked up */
	__u32 peer; /* where packets to the workload come from: peer number, or PEER_LOCAL | ifindex */
	__u16 open_source; /* ports of the opening packet, as policy sees them */
	__u16 open_destination;
	__u16 entropy; /* outer UDP source port */
	__u8 direction; /* of the opening packet, with FLOW_OF_REMOTE */
	__u8 tcp;
};
#define PEER_LOCAL 0x80000000U
/* Counted as its remote's; set when the flow is entered and never changed, whoever opens it anew. */
#define FLOW_OF_REMOTE 2

/* Longest prefix match; lengths used: 72 (identity), 80 (protocol), 80 + n (n bits of the port). */
struct policy_key {
	__u32 bits;
	__u32 policy;
	__u32 identity;
	__u8 direction;
	__u8 protocol;
	__be16 port;
};

enum policy_action {
	POLICY_PASS = 1,
	POLICY_DROP = 2,
	POLICY_BY_SOURCE = 3,
};

struct policy_value {
	__u32 action;
	__u32 rule;
	__u32 table; /* for POLICY_BY_SOURCE */
};

struct source_key {
	__u32 bits; /* 64 + n bits of the port */
	__u32 policy;
	__u32 table;
	__be16 port;
	__u8 pad[2];
};

struct fragment_key {
	__u32 vif;
	struct ip source;
	struct ip destination;
	__u32 id;
	__u8 family;
	__u8 protocol;
	__u8 direction;
	__u8 pad;
};

struct fragment {
	__u64 seen;
	__u16 source;
	__u16 destination;
	__u16 icmp_id;
	__u8 icmp_kind;
	__u8 pad;
};

struct event {
	__u64 time;
	__u32 reason;
	__u32 vif;
	__u32 rule;
	struct ip local;
	struct ip remote;
	__u16 local_port;
	__u16 remote_port;
	__u8 family;
	__u8 protocol;
	__u8 direction;
	__u8 pad[5];
};

struct meta {
	__u32 version;
};

/* Set when the programs are loaded. */
struct settings {
	__u32 decap_flags; /* the kernel knows BPF_F_ADJ_ROOM_DECAP_L3_* (6.3) */
	__u32 pad;
	__u64 event_interval; /* ns between two events of one kind and vif */
	__u64 fragment_life; /* ns */
};

/* State of the measuring program. */
struct bench {
	__u8 frame[64];
	__u32 count;
	__u32 spread; /* packets before the sequence of ports starts again; 0: 2^32 */
};

/* Argument of the sweep program. */
struct sweep {
	__u64 now;
	__u64 idle;
	__u64 closed;
	__u32 vif; /* 0: all by age; else every flow of this one */
	__u32 pad;
	__u64 live;
	__u64 removed;
};

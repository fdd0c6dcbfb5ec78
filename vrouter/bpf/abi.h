/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables shared with user space. Rust types are generated from these by way of BTF. Whoever changes a
 * layout or a meaning raises ABI_VERSION: an agent refuses tables of another version.
 *
 * Addresses are in network order; ports, labels and numbers in host order unless the type says big endian.
 */
#pragma once
#include "vmlinux.h"

#define ABI_VERSION 7
#define MAX_MEMBERS 16
#define FIRST_MEMBERS 4
#define MAX_FLOATING 8
#define REMOTE_CELLS 128 /* a power of two */

/* An address of either family; IPv4 is in w[0], the rest is 0. */
struct ip {
	__u32 w[4];
};

enum vif_flags {
	VIF_ADMIN_DOWN = 1,
	VIF_POLICY_DISABLED = 2,
	VIF_PEER = 4, /* veth: deliver into the other end's namespace */
	VIF_HOST = 8, /* the node's own stack: what it opens to workloads of this node passes their policy */
	VIF_VLAN = 16, /* a VLAN of another vif's device */
};

struct vif {
	__u32 ifindex; /* of its device; with VIF_VLAN a number of its own, SUB_INTERFACE and beyond */
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
	__u16 vlan; /* VIF_VLAN: the tag, */
	__u32 device; /* and on whose device */
	__be32 metadata; /* IPv4 address by which the node's own services know it; 0: it reaches none */
	__u32 floating[MAX_FLOATING]; /* contexts whose floating address it may open connections from; 0 ends the list */
};

/*
 * Where the kernel's numbers of devices end for us. A VLAN sub-interface has no device: it has a number from here on in its
 * place wherever a vif is named by one, so that nothing but the two ends of the walk knows of tags.
 */
#define SUB_INTERFACE 0x40000000U

/* The sub-interface that tagged frames of a device belong to. */
struct vlan_key {
	__u32 device;
	__u32 vlan; /* 1 to 4094 */
};

enum context_flags {
	CONTEXT_INGRESS = 1, /* the remote end may open connections to the floating address */
	CONTEXT_EGRESS = 2,
	CONTEXT_MAPPED = 4, /* only the ports in port_mappings */
};

/* Another VRF in which a vif is reached, by a label of its own. */
struct context {
	__u32 vrf;
	__u32 policy4; /* 0: none in force, drop */
	__u32 policy6;
	__u32 flags;
	__u32 family; /* of the floating address; 0: there is none */
	struct ip floating;
	struct ip fixed;
};

struct label {
	__u32 ifindex;
	__u32 context; /* 0: the vif's own VRF */
};

enum { TO_FIXED = 0, TO_FLOATING = 1 };

struct port_mapping_key {
	__u32 context;
	__u16 port;
	__u8 protocol;
	__u8 towards;
};

/*
 * Services. Those that clients outside reach at the uplink are in VRF 0; those that workloads and the node's own stack reach
 * by an address of a node are in SERVICES_INSIDE. In both, the address 0 stands for all addresses of nodes.
 */
#define SERVICES_INSIDE 0xffffffffU

struct service_key {
	__u32 vrf;
	struct ip address;
	__u16 port;
	__u8 family;
	__u8 protocol;
};

enum service_flags {
	SERVICE_KEEP_SOURCE = 1, /* from outside: members of this node only, which see the client's address */
	SERVICE_SOURCES = 2,     /* only clients in service_sources */
	SERVICE_BY_NODE = 4,     /* at all addresses of nodes: not at those of other nodes */
	SERVICE_LINK_LOCAL = 16, /* of the node itself, by which clients are known by their metadata address */
	SERVICE_OPEN = 64,       /* what workloads ask it passes their policy: the node's own DNS */
};

struct member {
	struct ip address;
	__u16 port;
	__u8 pad[2];
};

struct service {
	__u64 affinity; /* ns; 0: none */
	__u32 id;
	__u32 vrf; /* where members are routed */
	__u32 count; /* members that take new connections, at indexes 0 to count - 1 */
	__u32 slots; /* indexes ever used */
	__u32 flags;
	__u32 pad;
	/*
	 * Those at the first indexes, which are in their slots as well: a look into a table whose lines no cache holds any more costs
	 * 100 ns, and most services have few members.
	 */
	struct member first[FIRST_MEMBERS];
};

struct member_slot {
	__u32 service;
	__u32 index;
};

enum member_flags {
	MEMBER_ELIGIBLE = 1, /* takes new connections */
	MEMBER_DRAINING = 2,
};

/* Every member there is, draining ones too, with its flags. */
struct member_key {
	__u32 service;
	struct ip address;
	__u16 port;
	__u8 family;
	__u8 pad;
};

struct affinity_key {
	__u32 service;
	__u32 family;
	struct ip client;
};

struct affinity {
	__u64 seen;
	struct member member;
	__u32 pad;
};

struct service_source_key {
	__u32 bits; /* 64 + prefix length */
	__u32 service;
	__u32 family;
	struct ip address;
};

struct port_range {
	__u16 first; /* 0: none */
	__u16 last;
};

#define PORT_RANGES 4

/* Ports that the node lends, in ranges that do not overlap. */
struct port_pool {
	struct port_range range[PORT_RANGES];
};

enum node_families {
	NODE_IPV4 = 1,
	NODE_IPV6 = 2,
};

/* The node's own addresses, for what workloads send outside and what comes from there. */
struct node {
	__u32 families; /* that it lends an address of; 0: the uplink's packets are the host's */
	__u32 host; /* ifindex of the host's vif; 0: none */
	__u32 next_hop4; /* by which answers to clients outside leave */
	__u32 next_hop6;
	struct ip address4;
	struct ip address6;
	struct port_pool tcp;
	struct port_pool udp;
	struct port_pool sctp;
	struct port_range icmp;
	__u32 services; /* how many are in VRF 0 and in SERVICES_INSIDE */
	__u32 natives; /* addresses in the underlay that workloads and services here have: host routes in VRF 0 */
	__u32 uplink; /* where its neighbours ask for those, */
	__u8 uplink_mac[6]; /* and what they are told */
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
	__u32 length; /* of its prefix */
};

enum next_hop_type {
	NEXT_HOP_DISCARD = 0,
	NEXT_HOP_LOCAL = 1,
	NEXT_HOP_TUNNEL = 2,
	NEXT_HOP_COMPOSITE = 3,
	NEXT_HOP_SERVICE = 4, /* the address belongs to services of `vrf` */
	NEXT_HOP_OUTSIDE = 5, /* by the uplink, from the node's own address */
	NEXT_HOP_NATIVE = 6, /* by the uplink as it is: both ends have addresses of the underlay */
};

enum encapsulation {
	ENCAP_VXLAN = 1,
	ENCAP_MPLS_UDP = 2,
	ENCAP_MPLS_GRE = 3,
};

struct next_hop {
	__u32 type;
	__u32 encapsulation;
	__u32 ifindex; /* local: the vif; tunnel, outside, native: the uplink */
	__u32 label;
	__u32 context; /* local: of the vif */
	__u32 vrf; /* service: where its table and its members' routes are */
	__u32 mtu;
	__u32 family; /* of the tunnel's addresses */
	__u32 gateway_family; /* 0: ask the kernel's routing table */
	__u32 count;
	struct ip remote; /* native: the node that has the address, if one has */
	struct ip local;
	struct ip gateway;
	__u32 members[MAX_MEMBERS];
};

struct address_key {
	__u32 family;
	struct ip address;
};

/* Whose a node's address is. */
enum node_address_owner {
	ADDRESS_OWN = 1,
	ADDRESS_OTHER = 2,
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

/*
 * A flow whose addresses are translated has two entries, one for each form of them. A packet finds the entry of the
 * form it has and leaves with the addresses of the mate.
 */
enum form {
	FORM_PLAIN = 0,
	FORM_WORKLOAD = 1, /* as the workload sees it; packets from it match */
	FORM_FABRIC = 2, /* as the other end sees it; packets to the workload match */
	FORM_LOOP = 3, /* both ends are this workload: packets from it match and come back to it */
};

enum flow_flags {
	FLOW_FROM_HOST = 1, /* the node's own stack opened it */
	FLOW_FROM_OUTSIDE = 2, /* a client outside the fabric opened it, to a member of this node */
	FLOW_OPEN = 64,     /* a workload opened it to a service with SERVICE_OPEN */
	FLOW_TO_NODE_PORT = 4, /* a workload opened it to a service that is meant for clients outside */
	FLOW_OWN_ADDRESS = 32, /* the node's own stack opened it to an own address, or from one the fabric does not know */
	FLOW_LINK_LOCAL = 128, /* a workload opened it to a link-local service: no policy is asked */
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
	__u32 vrf; /* where the other end is routed */
	__u32 context; /* of the vif; 0: its own */
	__u32 service; /* which picked the other end; 0: none */
	__u32 ifindex; /* of the vif, for translated flows: the mate may be nobody's */
	__u32 arrival; /* context by whose label packets to the workload come */
	__u8 form;
	__u8 flags;
	__u8 pad[2];
	struct flow_key mate;
	__u32 opened; /* in units of 2^20 ns, of which 32 bits are 52 days */
	__u32 acked[2]; /* TCP, by direction of the packet: what its sender acknowledged last */
};
#define PEER_LOCAL 0x80000000U
#define PEER_OUTSIDE 0x7fffffffU
/* In the key of entries that belong to the node's address at the uplink. */
#define NO_VIF 0
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

/* Connections by protocol and port that age otherwise. */
struct age_key {
	__u16 port; /* 0: all of the protocol */
	__u8 protocol;
	__u8 pad;
};

/* Argument of the sweep program. */
struct sweep {
	__u64 now;
	__u64 idle;
	__u64 brief; /* the same of what is no connection yet: an exchange without TCP or SCTP */
	__u64 closed;
	__u32 vif; /* 0: all by age; else every flow of this one */
	__u32 ages; /* entries of the table of ages */
	__u64 live;
	__u64 removed;
};

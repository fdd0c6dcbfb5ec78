//! VLAN sub-interfaces: the tag decides whose frame it is, nothing leaks between those that share a device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::*;
use skein_datapath::{DropReason as R, *};
use std::net::Ipv4Addr;

const OTHER_VRF: u32 = 2;
const RED_TAG: u16 = 100;
const BLUE_TAG: u16 = 4094;
const RED_ID: u32 = 21;
const BLUE_ID: u32 = 22;
const RED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 21);
/// As Alice's: in its own VRF it is another address.
const BLUE: Ipv4Addr = ALICE;
const RED_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const BLUE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const RED_LABEL: u32 = 121;

fn child(bed: &Bed, id: u32) -> Vif {
    let red = id == RED_ID;
    Vif {
        ifindex: sub_interface(id),
        id,
        vrf: if red { VRF } else { OTHER_VRF },
        mac: if red { RED_MAC } else { BLUE_MAC },
        vlan: Some(Vlan { device: bed.alice, tag: if red { RED_TAG } else { BLUE_TAG } }),
        delivery: Delivery::VethPeer,
        ..bed.vif(bed.alice)
    }
}

/// Alice's machine holds two more workloads: one in her network, one in another that has the same addresses.
fn nested() -> Bed {
    let mut bed = Bed::new();
    for (id, vrf, address, identity) in [(RED_ID, VRF, RED, 1021), (BLUE_ID, OTHER_VRF, BLUE, 2002)]
    {
        let vif = child(&bed, id);
        let hop = NextHop::Local { ifindex: vif.ifindex, context: 0 };
        bed.datapath.set_vif(&vif).expect("vif");
        bed.datapath.set_next_hop(id, &hop).expect("next hop");
        let prefix = format!("{address}/32").parse().expect("prefix");
        let route = RouteChange::Set(Route { vrf, prefix, next_hop: id, identity });
        bed.datapath.change_routes(&[route]).expect("route");
    }
    bed.datapath.set_label(RED_LABEL, sub_interface(RED_ID), 0).expect("label");
    bed
}

fn tagged(tag: u16, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let tag = [0x8100_u16.to_be_bytes(), tag.to_be_bytes()].concat();
    frame.splice(12..12, tag);
    frame
}

fn from(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    ethernet(mac, GATEWAY_MAC, 0x0800, packet)
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Vec<u8> {
    ip4(source, destination).with(17, &udp(port, 53, b"hello"))
}

#[test]
fn the_tag_says_whose_frame_it_is_and_comes_back() {
    let bed = nested();
    let out = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &packet(RED, BOB, 7))));
    assert_eq!((out.outcome, out.tag), (bed.delivered(bed.bob), 0));
    assert_eq!(out.frame[..14], ethernet(GATEWAY_MAC, BOB_MAC, 0x0800, &[])[..]);
    // The answer.
    let answer =
        ethernet(BOB_MAC, GATEWAY_MAC, 0x0800, &ip4(BOB, RED).with(17, &udp(53, 7, b"hello")));
    let back = bed.run(Hook::Workload, bed.bob, &answer);
    assert_eq!((back.outcome, back.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
    // The tag is beside the frame: what is in it is a plain one for the workload.
    assert_eq!(back.frame[..14], ethernet(GATEWAY_MAC, RED_MAC, 0x0800, &[])[..]);
    let counters = bed.datapath.vif_counters(RED_ID).unwrap();
    assert_eq!((counters.packets_out, counters.packets_in, counters.flows), (1, 1, 1));
    assert_eq!(bed.datapath.vif_counters(ALICE_ID).unwrap(), VifCounters::default());
    // Whoever is asked, the record says where it is.
    assert!(
        bed.datapath
            .vifs()
            .unwrap()
            .contains(&Vif { delivery: Delivery::Transmit, ..child(&bed, RED_ID) })
    );
}

#[test]
fn a_priority_tag_is_no_tag() {
    let bed = nested();
    for priority in [0, 0x2000, 0xf000] {
        let ran = bed.alice(&tagged(priority, &from_alice(&packet(ALICE, BOB, 7))));
        assert_eq!((ran.outcome, ran.tag), (bed.delivered(bed.bob), 0));
    }
    // Priority and drop bits do not change whose tag it is.
    let ran = bed.alice(&tagged(0xf000 | RED_TAG, &from(RED_MAC, &packet(RED, BOB, 7))));
    assert_eq!(ran.outcome, bed.delivered(bed.bob));
}

#[test]
fn tags_of_nobody_drop_and_are_counted_at_the_device() {
    let bed = nested();
    let red = from(RED_MAC, &packet(RED, BOB, 7));
    let alice = from_alice(&packet(ALICE, BOB, 7));
    let mut service = tagged(RED_TAG, &red);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let mut inner_service = tagged(RED_TAG, &red);
    inner_service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let inner_service = tagged(RED_TAG, &inner_service);
    let cases = [
        (tagged(101, &red), R::VlanTagged),
        (tagged(4095, &red), R::VlanTagged),
        (service, R::VlanTagged),
        (tagged(RED_TAG, &tagged(RED_TAG, &red)), R::DoubleTagged),
        (tagged(0, &tagged(RED_TAG, &red)), R::DoubleTagged),
        (tagged(RED_TAG, &tagged(0, &red)), R::DoubleTagged),
        (tagged(RED_TAG, &tagged(BLUE_TAG, &alice)), R::DoubleTagged),
        (inner_service, R::DoubleTagged),
    ];
    for (number, (frame, reason)) in cases.iter().enumerate() {
        assert_eq!(bed.alice(frame).outcome, dropped(*reason), "case {number}");
    }
    let at = |id| bed.datapath.vif_counters(id).unwrap().drops;
    assert_eq!(at(ALICE_ID), [(R::VlanTagged, 3), (R::DoubleTagged, 5)]);
    assert!(at(RED_ID).is_empty() && at(BLUE_ID).is_empty());
    // A device that nobody knows.
    let ran = bed.run(Hook::Workload, bed.uplink, &tagged(RED_TAG, &red));
    assert_eq!(ran.outcome, dropped(R::VlanTagged));
}

#[test]
fn who_shares_a_device_does_not_speak_for_another() {
    let bed = nested();
    let cases = [
        // The machine for its workload, and the other way round.
        (from(RED_MAC, &packet(RED, BOB, 1)), R::SourceMac),
        (from_alice(&packet(RED, BOB, 1)), R::SourceAddress),
        (tagged(RED_TAG, &from_alice(&packet(ALICE, BOB, 1))), R::SourceMac),
        (tagged(RED_TAG, &from(RED_MAC, &packet(ALICE, BOB, 1))), R::SourceAddress),
        // One workload for the other.
        (tagged(RED_TAG, &from(BLUE_MAC, &packet(RED, BOB, 1))), R::SourceMac),
        (tagged(BLUE_TAG, &from(BLUE_MAC, &packet(RED, BLUE, 1))), R::SourceAddress),
        // Another network is out of reach, though its addresses are known next door.
        (tagged(BLUE_TAG, &from(BLUE_MAC, &packet(BLUE, BOB, 1))), R::NoRoute),
        (tagged(BLUE_TAG, &from(BLUE_MAC, &packet(BLUE, RED, 1))), R::NoRoute),
    ];
    for (number, (frame, reason)) in cases.iter().enumerate() {
        assert_eq!(bed.alice(frame).outcome, dropped(*reason), "case {number}");
    }
}

#[test]
fn machine_and_workload_reach_each_other_only_as_the_network_lets_them() {
    let mut bed = nested();
    let up = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &packet(RED, ALICE, 1))));
    assert_eq!((up.outcome, up.tag), (bed.delivered(bed.alice), 0));
    let down = bed.alice(&from_alice(&packet(ALICE, RED, 2)));
    assert_eq!((down.outcome, down.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
    // Each has a policy of its own.
    bed.set_policy(5, &only(vec![], vec![pass(17, 54)]));
    let policy = VifPolicy::Enforce { v4: Some(5), v6: Some(5) };
    let vif = Vif { policy, ..child(&bed, RED_ID) };
    bed.datapath.set_vif(&vif).unwrap();
    let refused = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &packet(RED, ALICE, 3))));
    assert_eq!(refused.outcome, dropped(R::PolicyDeny));
    assert_eq!(bed.alice(&from_alice(&packet(ALICE, RED, 4))).outcome, dropped(R::PolicyDeny));
    assert_eq!(bed.alice(&from_alice(&packet(ALICE, BOB, 4))).outcome, bed.delivered(bed.bob));
    // And a quota.
    let vif = Vif { flow_quota: 1, ..child(&bed, RED_ID) };
    bed.datapath.set_vif(&vif).unwrap();
    for (port, outcome) in [(90, dropped(R::FlowQuota)), (91, dropped(R::FlowQuota))] {
        let frame = tagged(RED_TAG, &from(RED_MAC, &packet(RED, BOB, port)));
        assert_eq!(bed.alice(&frame).outcome, outcome);
    }
    assert_eq!(bed.alice(&from_alice(&packet(ALICE, BOB, 90))).outcome, bed.delivered(bed.bob));
}

#[test]
fn the_gateway_answers_with_the_tag() {
    let bed = nested();
    let ask = |mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(mac);
        arp.extend(sender.octets());
        arp.extend([0; 6]);
        arp.extend(target.octets());
        ethernet(mac, [255; 6], 0x0806, &arp)
    };
    let ran = bed.alice(&tagged(RED_TAG, &ask(RED_MAC, RED, GATEWAY)));
    assert_eq!((ran.outcome, ran.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
    assert_eq!(ran.frame[..14], ethernet(GATEWAY_MAC, RED_MAC, 0x0806, &[])[..]);
    assert_eq!(ran.frame[22..28], GATEWAY_MAC);
    // Blue's network has no Bob.
    let ran = bed.alice(&tagged(BLUE_TAG, &ask(BLUE_MAC, BLUE, BOB)));
    assert_eq!(ran.outcome, dropped(R::ArpIgnored));

    let mut rest = [0; 20];
    rest[4..].copy_from_slice(&GATEWAY6.octets());
    let red6 = "fd01::21".parse().unwrap();
    let solicitation = ip6(red6, GATEWAY6, 255, 58, &icmp6(red6, GATEWAY6, 135, &rest));
    let ran = bed.alice(&tagged(RED_TAG, &ethernet(RED_MAC, GATEWAY_MAC, 0x86dd, &solicitation)));
    assert_eq!((ran.outcome, ran.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
    assert_eq!(ran.frame[54], 136, "a neighbour advertisement");

    let echo = ip4(RED, GATEWAY).with(1, &icmp(8, 0, 1, b"ping"));
    let ran = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &echo)));
    assert_eq!((ran.outcome, ran.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
    let dying = Ip4 { ttl: 1, ..ip4(RED, BOB) }.with(17, &udp(1, 2, b"0123456789"));
    let ran = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &dying)));
    assert_eq!(ran.tag, RED_TAG);
    let told =
        Outcome::ToWorkload { ifindex: sub_interface(RED_ID), answer_to: Some(R::TtlExceeded) };
    assert_eq!(ran.outcome, told);
}

#[test]
fn tunnels_lead_into_sub_interfaces_and_out_of_them() {
    let bed = nested();
    let inner = ip4(FAR, RED).with(17, &udp(1, 2, b"data"));
    for frame in [vxlan(PEER, RED_LABEL, &inner), {
        let inner = ip4(FAR_UDP, RED).with(17, &udp(1, 2, b"data"));
        mpls_over_udp(PEER, RED_LABEL, 6635, &inner)
    }] {
        let ran = bed.fabric(&frame);
        assert_eq!((ran.outcome, ran.tag), (bed.delivered(sub_interface(RED_ID)), RED_TAG));
        assert_eq!(ran.frame[..14], ethernet(GATEWAY_MAC, RED_MAC, 0x0800, &[])[..]);
    }
    let ran = bed.alice(&tagged(RED_TAG, &from(RED_MAC, &packet(RED, FAR, 9))));
    assert_eq!((ran.outcome, ran.tag), (bed.tunnel_out(), 0));
    // By the machine's label comes nothing for its workload.
    let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, &inner));
    assert_eq!(ran.outcome, dropped(R::NotThisPort));
}

#[test]
fn a_removed_or_changed_tag_leads_nowhere() {
    let mut bed = nested();
    let frame = |tag| tagged(tag, &from(RED_MAC, &packet(RED, BOB, 7)));
    let vlan = Some(Vlan { device: bed.alice, tag: 7 });
    let vif = Vif { vlan, ..child(&bed, RED_ID) };
    bed.datapath.set_vif(&vif).unwrap();
    assert_eq!(bed.alice(&frame(RED_TAG)).outcome, dropped(R::VlanTagged));
    assert_eq!(bed.alice(&frame(7)).outcome, bed.delivered(bed.bob));
    // Another one takes the tag over before the first is removed.
    let vif = Vif { vlan, ..child(&bed, BLUE_ID) };
    bed.datapath.set_vif(&vif).unwrap();
    assert!(bed.datapath.remove_vif(sub_interface(RED_ID)).unwrap());
    assert_eq!(bed.alice(&frame(7)).outcome, dropped(R::SourceMac), "it is Blue's now");
    assert!(bed.datapath.remove_vif(sub_interface(BLUE_ID)).unwrap());
    assert_eq!(bed.alice(&frame(7)).outcome, dropped(R::VlanTagged));
    // What cannot be is refused.
    for (tag, device, ifindex) in [
        (0, bed.alice, sub_interface(RED_ID)),
        (4095, bed.alice, sub_interface(RED_ID)),
        (7, 0, sub_interface(RED_ID)),
        (7, sub_interface(3), sub_interface(RED_ID)),
        (7, bed.alice, bed.bob),
    ] {
        let vif = Vif { ifindex, vlan: Some(Vlan { device, tag }), ..child(&bed, RED_ID) };
        assert!(bed.datapath.set_vif(&vif).is_err(), "{vif:?}");
    }
}

#[test]
fn hostile_tagged_frames_stay_in_their_lane() {
    let bed = nested();
    let (workload, _) = seeds();
    // xorshift64* with a seed, so that a failure is found again.
    let mut state = 0x5eed_0002_u64;
    let mut dice = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    };
    let mut forwarded = 0;
    for round in 0..30_000 {
        let mut frame = workload[dice(workload.len())].clone();
        if dice(2) == 0 {
            frame[6..12].copy_from_slice(&BLUE_MAC);
        }
        for _ in 0..dice(3) {
            let tag = [BLUE_TAG, RED_TAG, 0, 4095, 0x3000][dice(5)];
            frame = tagged(tag, &frame);
        }
        for _ in 0..dice(3) {
            let at = dice(frame.len());
            frame[at] = dice(256) as u8;
        }
        if dice(4) == 0 {
            frame.truncate(14 + dice(frame.len() - 13));
        }
        let run = Run { frame: &frame, ifindex: bed.alice, gso_size: 0, repeat: 1 };
        let Ok(ran) = bed.datapath.run(Hook::Workload, &run) else { continue };
        let told = || format!("round {round}: {:?} for {frame:02x?}", ran.outcome);
        let blue = frame[12..14] == [0x81, 0]
            && frame.len() > 16
            && u16::from_be_bytes([frame[14], frame[15]]) & 0xfff == BLUE_TAG;
        match ran.outcome {
            Outcome::Dropped(_) => {}
            // Blue is alone in its network: only its gateway speaks to it.
            Outcome::ToWorkload { ifindex, .. } if blue => {
                assert_eq!((ifindex, ran.tag), (sub_interface(BLUE_ID), BLUE_TAG), "{}", told());
                forwarded += 1;
            }
            Outcome::ToWorkload { ifindex, .. } => {
                assert_ne!(ifindex, sub_interface(BLUE_ID), "{}", told());
                forwarded += 1;
            }
            Outcome::ToTunnel { .. } => {
                assert!(!blue, "{}", told());
                forwarded += 1;
            }
            _ => panic!("{}", told()),
        }
    }
    assert!(forwarded > 1000, "{forwarded}");
}

//! Random, truncated and mutated packets: never a crash of the program, never into a port they are not for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::*;
use skein_datapath::*;

/// A small generator with a seed, so that a failure is found again (xorshift64*, Vigna 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }
}

fn mutate(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
    let mut frame = seed.to_vec();
    for _ in 0..dice.roll(4) {
        let at = dice.roll(frame.len());
        match dice.roll(3) {
            0 => frame[at] ^= 1 << dice.roll(8),
            1 => frame[at] = dice.roll(256) as u8,
            _ => frame[at] = [0, 1, 0x7f, 0xff][dice.roll(4)],
        }
    }
    match dice.roll(4) {
        0 => frame.truncate(14 + dice.roll(frame.len() - 13)),
        1 => frame.extend((0..dice.roll(64)).map(|_| 0xa5)),
        _ => {}
    }
    frame
}

#[test]
fn hostile_packets_stay_in_their_lane() {
    let bed = Bed::new();
    let (workload, fabric) = seeds();
    let mut dice = Dice(0x5eed_0001);
    let (mut forwarded, mut dropped_count, mut refused) = (0, 0, 0);
    for round in 0..60_000 {
        let from_fabric = round % 2 == 0;
        let seeds = if from_fabric { &fabric } else { &workload };
        let frame = if dice.roll(10) == 0 {
            (0..14 + dice.roll(200)).map(|_| dice.roll(256) as u8).collect()
        } else {
            let seed = &seeds[dice.roll(seeds.len())];
            mutate(&mut dice, seed)
        };
        let (hook, ifindex) =
            if from_fabric { (Hook::Fabric, bed.uplink) } else { (Hook::Workload, bed.alice) };
        let run = Run { frame: &frame, ifindex, gso_size: 0, repeat: 1 };
        // The kernel itself takes no frame into a test run whose network header is cut short.
        let Ok(ran) = bed.datapath.run(hook, &run) else {
            refused += 1;
            continue;
        };
        let told = || format!("round {round}: {:?} for {frame:02x?}", ran.outcome);
        match ran.outcome {
            Outcome::Dropped(_) => dropped_count += 1,
            Outcome::Host => assert!(from_fabric, "{}", told()),
            Outcome::ToTunnel { .. } => {
                assert!(!from_fabric, "a tunnel packet goes to no tunnel: {}", told());
                forwarded += 1;
            }
            Outcome::ToWorkload { ifindex, .. } if ifindex == bed.alice => forwarded += 1,
            Outcome::ToWorkload { ifindex, .. } => {
                assert_eq!(ifindex, bed.bob, "{}", told());
                forwarded += 1;
                // Bob is rightly met by what is addressed to him, from whom its source belongs to.
                let inner = &ran.frame[14..];
                let (to_bob, of_alice) = if inner[0] >> 4 == 4 {
                    (inner[16..20] == BOB.octets(), inner[12..16] == ALICE.octets())
                } else {
                    (inner[24..40] == BOB6.octets(), inner[8..24] == ALICE6.octets())
                };
                assert!(to_bob && (from_fabric || of_alice), "{}", told());
            }
            // The bed's node lends no address.
            Outcome::Outside { .. } | Outcome::Unknown(_) => panic!("{}", told()),
        }
    }
    assert!(forwarded > 1000 && dropped_count > 1000, "{forwarded}, {dropped_count}");
    assert!(refused < 10_000, "{refused} of 60,000 packets did not get to the programs");
}

/// With services, floating addresses and the node's address in play.
#[test]
fn hostile_packets_do_not_lead_translations_astray() {
    let mut bed = Bed::new();
    add_translations(&mut bed);
    let (workload, fabric) = translated_seeds();
    let mut dice = Dice(0x5eed_0002);
    let mut met = [0_u32; 5];
    for round in 0..60_000 {
        let from_fabric = round % 2 == 0;
        let seeds = if from_fabric { &fabric } else { &workload };
        let seed = &seeds[dice.roll(seeds.len())];
        let frame = if dice.roll(4) == 0 { seed.clone() } else { mutate(&mut dice, seed) };
        let (hook, ifindex) =
            if from_fabric { (Hook::Fabric, bed.uplink) } else { (Hook::Workload, bed.alice) };
        let run = Run { frame: &frame, ifindex, gso_size: 0, repeat: 1 };
        let Ok(ran) = bed.datapath.run(hook, &run) else { continue };
        let told = || format!("round {round}: {:?} for {frame:02x?}", ran.outcome);
        met[match ran.outcome {
            Outcome::Dropped(_) => 0,
            Outcome::Host => {
                assert!(from_fabric, "{}", told());
                assert_eq!(ran.frame, frame, "the host's packets are left alone: {}", told());
                1
            }
            Outcome::ToWorkload { ifindex, .. } => {
                assert!(ifindex == bed.alice || ifindex == bed.bob, "{}", told());
                2
            }
            Outcome::ToTunnel { .. } => 3,
            Outcome::Outside { .. } => {
                let from_node = ran.frame[12..14] == [8, 0] && ran.frame[26..30] == NODE.octets();
                assert!(from_node || from_fabric, "{}", told());
                4
            }
            Outcome::Unknown(_) => panic!("{}", told()),
        }] += 1;
    }
    assert!(met.iter().all(|count| *count > 100), "{met:?}");
}

//! Packets from libFuzzer through the real eBPF programs. The first byte chooses the side, the second the good
//! packet to start from (0: none, the rest is the frame); then come pairs of an offset and a byte to put there, and an odd last
//! byte cuts the frame there. Coverage is that of user space only, so the good packets are what leads behind the first checks.
#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a fuzz target says by panicking"
)]

#[path = "../../tests/bed/mod.rs"]
mod bed;

use libfuzzer_sys::fuzz_target;
use skein_datapath::{Hook, Outcome, Run};

type Frames = Vec<Vec<u8>>;

thread_local!(static BED: (bed::Bed, (Frames, Frames)) = (bed::Bed::new(), bed::seeds()));

fn changed(good: &[Vec<u8>], choice: u8, rest: &[u8]) -> Vec<u8> {
    let Some(choice) = usize::from(choice).checked_sub(1) else { return rest.to_vec() };
    let mut frame = good[choice % good.len()].clone();
    let pairs = rest.chunks_exact(2);
    let cut = pairs.remainder().first().copied();
    for pair in pairs {
        let at = usize::from(pair[0]) % frame.len();
        frame[at] = pair[1];
    }
    if let Some(cut) = cut {
        frame.truncate(usize::from(cut).max(14));
    }
    frame
}

fuzz_target!(|data: &[u8]| {
    let [side, choice, rest @ ..] = data else { return };
    BED.with(|(bed, (workload, fabric))| {
        let from_fabric = side & 1 == 1;
        let frame = &changed(if from_fabric { fabric } else { workload }, *choice, rest);
        let (hook, ifindex) =
            if from_fabric { (Hook::Fabric, bed.uplink) } else { (Hook::Workload, bed.alice) };
        let run = Run { frame, ifindex, gso_size: 0, repeat: 1 };
        // Frames the kernel does not take into a test run do not reach the programs.
        let Ok(ran) = bed.datapath.run(hook, &run) else { return };
        match ran.outcome {
            Outcome::Unknown(verdict) => panic!("verdict {verdict}"),
            Outcome::ToTunnel { .. } => assert!(!from_fabric, "from a tunnel into a tunnel"),
            Outcome::Host => assert!(from_fabric, "a workload's packet left to the host"),
            Outcome::ToWorkload { ifindex, .. } => {
                assert!(ifindex == bed.alice || ifindex == bed.bob, "an interface nobody has");
            }
            Outcome::Outside { .. } => panic!("the bed's node lends no address"),
            Outcome::Dropped(_) => {}
        }
    });
});

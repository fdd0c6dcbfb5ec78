//! Packets from libFuzzer through the real eBPF programs. The first byte chooses the side, the rest is the frame. Coverage is
//! that of user space only; the seeds and mutations of tests/hostile.rs are the guided part.
#![no_main]

#[path = "../../tests/bed/mod.rs"]
mod bed;

use libfuzzer_sys::fuzz_target;
use skein_datapath::{Hook, Outcome, Run};

thread_local!(static BED: bed::Bed = bed::Bed::new());

fuzz_target!(|data: &[u8]| {
    let Some((side, frame)) = data.split_first() else { return };
    BED.with(|bed| {
        let from_fabric = side & 1 == 1;
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
            Outcome::Dropped(_) => {}
        }
    });
});

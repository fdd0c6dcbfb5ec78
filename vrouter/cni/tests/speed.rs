//! ADD and DEL beside the reference `bridge` plugin with `host-local`, on the same machine in one run.

mod fabric;

use fabric::{Fabric, Policy, Setup, Workload};
use serde_json::json;
use skein_lab::{Attachment, CniRuntime};
use skein_proto::session::Encapsulation;
use std::time::{Duration, Instant};

const ROUNDS: u8 = 15;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn add_and_del_take_no_longer_than_the_reference_plugin() {
    let workloads: Vec<Workload> =
        (1..=ROUNDS).map(|number| Workload { number, host: 0, network: 1 }).collect();
    let fabric = Fabric::new(&Setup {
        name: "tspeed",
        hosts: 1,
        workloads: &workloads,
        policy: Policy::SameNetwork,
        encapsulation: Encapsulation::Vxlan,
    });
    let host = &fabric.hosts[0];
    let list = json!({"cniVersion": "1.0.0", "name": "ref", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.77.0.0/16",
                 "dataDir": host.directory().join("ipam")}}]});
    let reference = CniRuntime::new(host, &["/usr/lib/cni".into()], list).unwrap();
    let ours = fabric.runtime(0, "1.0.0", 1);
    let time = |runtime: &CniRuntime, attachment: &Attachment| {
        let start = Instant::now();
        runtime.add(attachment).unwrap();
        let added = start.elapsed();
        runtime.del(attachment).unwrap();
        (added, start.elapsed())
    };
    let (mut own, mut other, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    for workload in &workloads {
        let pod = fabric.pod(workload);
        let attachment = Attachment::new(&workload.container(), &pod.path());
        other.push(time(&reference, &attachment).1);
        let (added, both) = time(&ours, &attachment);
        own.push(both);
        adds.push(added);
        pod.remove().unwrap();
    }
    let (own, other, added) = (median(own), median(other), median(adds));
    println!("ADD+DEL median {own:?} (ADD {added:?}), reference {other:?}");
    assert!(own <= other, "slower than the reference: {own:?} against {other:?}");
}

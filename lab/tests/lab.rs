//! The lab builds, connects and leaves nothing behind.

use serde_json::json;
use skein_lab::{Attachment, BridgeOverVxlan, CniRuntime, Iperf, Lab, LabOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn hosts_reach_each_other_over_both_families_and_vanish() {
    let mut lab = Lab::new("tlab", LabOptions::default()).unwrap();
    let (one, two) = (lab.host("one").unwrap(), lab.host("two").unwrap());
    for address in [two.ipv4().to_string(), two.ipv6().to_string()] {
        let mut ping = Command::new("ping");
        ping.args(["-c", "2", "-i", "0.2", "-W", "1", &address]);
        one.run(&mut ping).unwrap().success().unwrap();
    }
    let mut sleeper = one.spawn("sleep", Command::new("sleep").arg("60")).unwrap();
    assert!(sleeper.is_running());
    sleeper.stop(Duration::from_secs(2)).unwrap();
    let directory = lab.directory();
    let namespace = one.namespace().to_owned();
    lab.destroy().unwrap();
    assert!(!directory.exists());
    assert!(!Path::new("/run/netns").join(namespace).exists());
}

#[test]
fn vxlan_peer_carries_iperf() {
    let mut lab = Lab::new("tvx", LabOptions::default()).unwrap();
    let (one, two) = (lab.host("one").unwrap(), lab.host("two").unwrap());
    let mut peer = BridgeOverVxlan::new([&one, &two], 77, 8472, 1500).unwrap();
    let a = peer.sides[0].pod("a", "10.250.0.1/24").unwrap();
    let b = peer.sides[1].pod("b", "10.250.0.2/24").unwrap();
    assert!(a.pings("10.250.0.2", 3).unwrap());
    let iperf = Iperf { seconds: 1, ..Iperf::default() };
    let _server = iperf.server(&b).unwrap();
    let measured = iperf.measure(&a, "10.250.0.2").unwrap();
    assert!(measured.bits_per_second > 1e8, "{measured:?}");
}

#[test]
fn reference_bridge_plugin_runs_as_a_runtime_runs_it() {
    let mut lab = Lab::new("tcni", LabOptions::default()).unwrap();
    let host = lab.host("one").unwrap();
    let pod = host.pod("a").unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.77.0.0/24",
                      "dataDir": host.directory().join("ipam")});
    let list = json!({"cniVersion": "1.0.0", "name": "ref", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam}]});
    let runtime = CniRuntime::new(&host, &[PathBuf::from("/usr/lib/cni")], list).unwrap();
    let attachment = Attachment::new("c1", &pod.path());
    let result = runtime.add(&attachment).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.77.0.2/24");
    runtime.check(&attachment).unwrap();
    assert!(pod.pings("10.77.0.1", 2).unwrap());
    runtime.del(&attachment).unwrap();
}

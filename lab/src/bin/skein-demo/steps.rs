//! The steps of the demo.

use crate::screen::Screen;
use skein_lab::{
    BridgeOverVxlan, Fabric, FabricError, FabricOptions, Iperf, Lab, LabError, LabOptions, Pod,
    TcpService, Transfer, Workload, wait_until,
};
use std::time::Duration;

/// Ports of the demo's services: one that the policy allows, one that it does not.
const ALLOWED: u16 = 8080;
const NOT_ALLOWED: u16 = 9090;

/// How long a connection may take that must come up, and one that must not.
const PATIENCE: Duration = Duration::from_secs(3);
const BRIEF: Duration = Duration::from_millis(700);

/// How long the agent restart is shown, in seconds on each side of the kill.
const UNDER_TRAFFIC: Duration = Duration::from_secs(2);

/// The four workloads.
struct Workloads {
    front: [Workload; 2],
    back: [Workload; 2],
}

/// Builds the fabric, shows it, leaves it running. True when every step held.
pub(crate) fn up(screen: &mut Screen, lab: &str) -> Result<bool, FabricError> {
    screen.head("1. A fabric: one controller, two nodes, an underlay between them");
    screen.begin("controller with the embedded store, two vRouter nodes joined over mutual TLS");
    let options = FabricOptions {
        programs: crate::programs(),
        nodes: 2,
        lab: LabOptions { keep: true, ..LabOptions::default() },
    };
    let fabric = Fabric::start(lab, options)?;
    screen.end(true, "");
    let mut fabric = Some(fabric);
    let hosts = fabric.as_ref().map(|fabric| {
        let control = fabric.control_host().namespace().to_owned();
        (control, fabric.node(0).host().namespace().to_owned())
    });
    let result = show(screen, &mut fabric);
    if let Some(fabric) = fabric.take() {
        fabric.detach();
    }
    let web2 = result?;
    let (good, bad) = screen.totals();
    screen.head(&format!("{good} steps held, {bad} did not."));
    if let (0, Some((control, node1))) = (bad, hosts) {
        screen.say("The fabric stays up. Try:");
        for line in [
            format!("sudo ip netns exec {control} target/release/skein status"),
            format!("sudo ip netns exec {node1} target/release/skein vrouter flows"),
            format!("sudo ip netns exec {node1}-web-1 ping -c 3 {web2}"),
        ] {
            screen.say(&format!("  {line}"));
        }
        screen.say("`make demo-down` removes every trace.");
    }
    Ok(bad == 0)
}

/// Removes every trace.
pub(crate) fn down(screen: &mut Screen, lab: &str) -> Result<bool, FabricError> {
    screen.begin("removing processes, namespaces, maps and files of the demo");
    Lab::remove(lab)?;
    screen.end(true, "");
    Ok(true)
}

fn run(screen: &Screen, fabric: &Fabric, line: &str) -> Result<(), FabricError> {
    screen.command(&format!("skein {line}"));
    fabric.skein(line)?.success()?;
    Ok(())
}

/// Shows everything; returns an address to try.
fn show(screen: &mut Screen, slot: &mut Option<Fabric>) -> Result<String, FabricError> {
    let Some(fabric) = slot.as_mut() else { return Ok(String::new()) };
    let work = configure(screen, fabric)?;
    reach(screen, &work)?;
    policy(screen, fabric, &work)?;
    speed(screen, fabric, &work)?;
    restart(screen, fabric, &work)?;
    status(screen, fabric)?;
    Ok(work.front[1].ipv4().to_owned())
}

fn configure(screen: &mut Screen, fabric: &Fabric) -> Result<Workloads, FabricError> {
    screen.head("2. A project, two networks, four workloads attached by the CNI plugin");
    run(screen, fabric, "create project shop")?;
    run(
        screen,
        fabric,
        "create network front --project shop --subnet 10.1.0.0/24 --subnet fd00:1::/64",
    )?;
    run(
        screen,
        fabric,
        "create network back --project shop --subnet 10.2.0.0/24 --subnet fd00:2::/64",
    )?;
    let mut attach = |node: usize, name: &str, network: &str| {
        screen.begin(&format!("CNI ADD {name} to {network} on node{}", node + 1));
        let workload = fabric.node(node).attach(name, &format!("default-domain:shop:{network}"))?;
        screen.end(true, &workload.addresses.join(", "));
        Ok::<_, FabricError>(workload)
    };
    let front = [attach(0, "web-1", "front")?, attach(1, "web-2", "front")?];
    let back = [attach(0, "db-1", "back")?, attach(1, "db-2", "back")?];
    Ok(Workloads { front, back })
}

fn step(
    screen: &mut Screen,
    text: &str,
    check: impl FnOnce() -> Result<bool, LabError>,
) -> Result<(), FabricError> {
    screen.begin(text);
    let held = check()?;
    screen.end(held, "");
    Ok(())
}

fn reach(screen: &mut Screen, work: &Workloads) -> Result<(), FabricError> {
    screen.head("3. Networks are apart");
    let [web1, web2] = &work.front;
    let db2 = &work.back[1];
    step(screen, "web-1 reaches web-2 on the other node (IPv4)", || {
        web1.pod.pings(web2.ipv4(), 5)
    })?;
    step(screen, "web-1 reaches web-2 on the other node (IPv6)", || {
        web1.pod.pings(web2.ipv6(), 5)
    })?;
    step(screen, "web-1 does not reach db-2 in the other network (IPv4)", || {
        Ok(!web1.pod.pings(db2.ipv4(), 2)?)
    })?;
    step(screen, "web-1 does not reach db-2 in the other network (IPv6)", || {
        Ok(!web1.pod.pings(db2.ipv6(), 2)?)
    })
}

/// Waits until a connection comes up, then says so.
fn comes_up(pod: &Pod, address: &str, port: u16) -> Result<bool, LabError> {
    let waited = wait_until("a connection", PATIENCE, || {
        pod.connects(address, port, Duration::from_millis(200)).unwrap_or(false)
    });
    Ok(waited.is_ok())
}

fn policy(screen: &mut Screen, fabric: &Fabric, work: &Workloads) -> Result<(), FabricError> {
    screen.head("4. A policy opens one port, and only that");
    let web1 = &work.front[0];
    let db2 = &work.back[1];
    let _services = (
        TcpService::start(&db2.pod, ALLOWED)?,
        TcpService::start(&db2.pod, NOT_ALLOWED)?,
        TcpService::start(&web1.pod, ALLOWED)?,
    );
    run(
        screen,
        fabric,
        &format!(
            "create policy web --project shop --rule 'pass tcp from front to back port {ALLOWED}'"
        ),
    )?;
    for network in ["front", "back"] {
        run(screen, fabric, &format!("attach network {network} policy web --project shop"))?;
    }
    for (family, address) in [("IPv4", db2.ipv4()), ("IPv6", db2.ipv6())] {
        step(screen, &format!("web-1 connects to db-2 port {ALLOWED} ({family})"), || {
            comes_up(&web1.pod, address, ALLOWED)
        })?;
        step(screen, &format!("and not to port {NOT_ALLOWED} ({family})"), || {
            Ok(!web1.pod.connects(address, NOT_ALLOWED, BRIEF)?)
        })?;
        step(screen, &format!("and does not ping it ({family})"), || {
            Ok(!web1.pod.pings(address, 1)?)
        })?;
    }
    step(screen, "db-2 does not connect back to web-1", || {
        Ok(!db2.pod.connects(web1.ipv4(), ALLOWED, BRIEF)?)
    })?;
    for network in ["front", "back"] {
        run(screen, fabric, &format!("detach network {network} policy web --project shop"))?;
    }
    for (family, address) in [("IPv4", db2.ipv4()), ("IPv6", db2.ipv6())] {
        step(screen, &format!("without the policy nothing passes ({family})"), || {
            let gone = wait_until("no connection", PATIENCE, || {
                !web1.pod.connects(address, ALLOWED, BRIEF).unwrap_or(true)
            });
            Ok(gone.is_ok())
        })?;
    }
    Ok(())
}

fn speed(screen: &mut Screen, fabric: &Fabric, work: &Workloads) -> Result<(), FabricError> {
    screen.head("5. Speed across nodes, beside a Linux bridge with a VXLAN device");
    let hosts = [fabric.node(0).host(), fabric.node(1).host()];
    let iperf = Iperf::default();
    let [web1, web2] = &work.front;
    screen.begin("TCP from web-1 to web-2");
    let server = iperf.server(&web2.pod)?;
    let ours = iperf.measure(&web1.pod, web2.ipv4())?.bits_per_second;
    drop(server);
    screen.end(true, &format!("{:.1} Gbit/s", ours / 1e9));
    screen.begin("the same over bridge + VXLAN device between the same nodes");
    let mut peer = BridgeOverVxlan::new(hosts, 4711, 8472, 1500)?;
    let a = peer.sides[0].pod("peer-a", "10.250.0.1/24")?;
    let b = peer.sides[1].pod("peer-b", "10.250.0.2/24")?;
    let server = iperf.server(&b)?;
    let theirs = iperf.measure(&a, "10.250.0.2")?.bits_per_second;
    drop(server);
    drop(peer);
    a.remove()?;
    b.remove()?;
    screen
        .end(true, &format!("{:.1} Gbit/s; Skein is at {:.2} of it", theirs / 1e9, ours / theirs));
    Ok(())
}

fn restart(screen: &mut Screen, fabric: &mut Fabric, work: &Workloads) -> Result<(), FabricError> {
    screen.head("6. The agent is killed and started again under traffic");
    let [web1, web2] = &work.front;
    screen.begin("kill -9 the agent of node1 during a TCP transfer, start it again");
    let transfer = Transfer::start(&web1.pod, &web2.pod, web2.ipv4(), 7777)?;
    std::thread::sleep(UNDER_TRAFFIC);
    fabric.node_mut(0).kill_agent()?;
    std::thread::sleep(UNDER_TRAFFIC);
    fabric.node_mut(0).restart_agent()?;
    std::thread::sleep(UNDER_TRAFFIC);
    let report = transfer.finish()?;
    let detail = format!(
        "{} MiB, every byte {}, longest pause {} ms, longest stall of the machine {} ms",
        report.received >> 20,
        if report.intact { "intact" } else { "NOT intact" },
        report.longest_gap.as_millis(),
        report.longest_stall.as_millis()
    );
    screen.end(report.intact && report.longest_pause() < Duration::from_secs(1), &detail);
    Ok(())
}

fn status(screen: &mut Screen, fabric: &Fabric) -> Result<(), FabricError> {
    screen.head("7. One screen says how things are");
    screen.command("skein status");
    let ran = fabric.skein("status")?;
    for line in ran.stdout.lines() {
        screen.say(&format!("  {line}"));
    }
    screen.begin("every role and node is well");
    screen.end(ran.ok(), "");
    Ok(())
}

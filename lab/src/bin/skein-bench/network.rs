//! Throughput and reaction measurements over a fabric.

use crate::figure::{Better, Figures};
use crate::measure::median;
use serde_json::{Value, json};
use skein_lab::{
    BridgeOverVxlan, Fabric, FabricError, Host, Iperf, LabError, LocalBridge, Pod, Workload,
};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pairs of measurements for a throughput ratio; taken in turn.
const ROUNDS: usize = 5;
const IPERF: Iperf = Iperf { seconds: 2, streams: 1, port: 5201 };
/// More streams than a machine of two cores has room for: what the path itself costs.
const FULL: Iperf = Iperf { streams: 4, ..IPERF };
/// What ours have on an underlay of 1,500 bytes, so the peer on one node has it, too: segments of another length fill
/// super-packets otherwise, and that alone can halve or double what one stream gets.
const POD_MTU: u16 = 1450;

/// Workloads of the throughput measurements.
pub(crate) struct Net {
    here: Workload,
    beside: Workload,
    there: Workload,
}

fn skein(fabric: &Fabric, line: &str) -> Result<(), FabricError> {
    fabric.skein(line)?.success()?;
    Ok(())
}

impl Net {
    pub(crate) fn new(fabric: &Fabric) -> Result<Net, FabricError> {
        skein(fabric, "create project bench")?;
        skein(fabric, "create network front --project bench --subnet 10.1.0.0/20")?;
        skein(fabric, "create network back --project bench --subnet 10.2.0.0/24")?;
        let front = "default-domain:bench:front";
        Ok(Net {
            here: fabric.node(0).attach("here", front)?,
            beside: fabric.node(0).attach("beside", front)?,
            there: fabric.node(1).attach("there", front)?,
        })
    }
}

/// Two ways to move bytes, measured in turn; the ratio's median and each median in bit/s.
fn ratio(
    iperf: Iperf,
    ours: (&Pod, &Pod, &str),
    theirs: (&Pod, &Pod, &str),
) -> Result<(f64, f64, f64), FabricError> {
    let servers = (iperf.server(ours.1)?, iperf.server(theirs.1)?);
    let (mut ratios, mut own, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let a = iperf.measure(ours.0, ours.2)?.bits_per_second;
        let b = iperf.measure(theirs.0, theirs.2)?.bits_per_second;
        ratios.push(a / b);
        own.push(a);
        other.push(b);
    }
    drop(servers);
    Ok((median(ratios), median(own), median(other)))
}

fn beside(what: &str, theirs: f64, ours: f64) -> String {
    format!("{what}: {:.1} Gbit/s; ours: {:.1}", theirs / 1e9, ours / 1e9)
}

/// TCP between nodes beside bridge + VXLAN, and beside the bare underlay.
pub(crate) fn across_nodes(
    figures: &mut Figures,
    fabric: &Fabric,
    net: &Net,
) -> Result<(), FabricError> {
    let hosts = [fabric.node(0).host(), fabric.node(1).host()];
    let ours = (&net.here.pod, &net.there.pod, net.there.ipv4());
    let mut peer = BridgeOverVxlan::new(hosts, 4711, 8472, 1500)?;
    let a = peer.sides[0].pod("vx-a", "10.250.0.1/24")?;
    let b = peer.sides[1].pod("vx-b", "10.250.0.2/24")?;
    for (iperf, name) in [
        (IPERF, "TCP across nodes, of bridge + VXLAN device"),
        (FULL, "TCP across nodes, 4 streams, of bridge + VXLAN"),
    ] {
        let (value, own, other) = ratio(iperf, ours, (&a, &b, "10.250.0.2"))?;
        let text = beside("bridge + VXLAN", other, own);
        figures.add(name, value, "x", text, 1.3, Better::Higher);
    }
    drop(peer);
    a.remove()?;
    b.remove()?;

    let (mut ratios, mut own, mut other) = (Vec::new(), Vec::new(), Vec::new());
    let server = IPERF.server(&net.there.pod)?;
    let bare_server = host_server(hosts[1])?;
    for _ in 0..ROUNDS {
        let a = IPERF.measure(&net.here.pod, net.there.ipv4())?.bits_per_second;
        let b = host_measure(hosts[0], &hosts[1].ipv4().to_string())?;
        ratios.push(a / b);
        own.push(a);
        other.push(b);
    }
    drop((server, bare_server));
    let name = "TCP across nodes, of the bare underlay";
    let text = beside("underlay veth", median(other), median(own));
    figures.add(name, median(ratios), "x", text, 0.75, Better::Higher);
    Ok(())
}

fn host_server(host: &Host) -> Result<skein_lab::Process, FabricError> {
    let mut command = std::process::Command::new("iperf3");
    command.args(["-s", "-p", &IPERF.port.to_string()]);
    let process = host.spawn("iperf3-host", &mut command)?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(process)
}

fn host_measure(host: &Host, address: &str) -> Result<f64, FabricError> {
    let text = host.run(&mut IPERF.client_command(address))?.success()?;
    let report: Value = serde_json::from_str(&text).map_err(|error| FabricError::Answer {
        what: "iperf3".into(),
        reason: error.to_string(),
    })?;
    Ok(report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(f64::NAN))
}

/// TCP between two workloads of one node beside a veth pair on a bridge.
pub(crate) fn one_node(
    figures: &mut Figures,
    fabric: &Fabric,
    net: &Net,
) -> Result<(), FabricError> {
    let mut bridge = LocalBridge::new(fabric.node(0).host(), "br-bench", POD_MTU)?;
    let a = bridge.pod("br-a", "10.251.0.1/24")?;
    let b = bridge.pod("br-b", "10.251.0.2/24")?;
    let ours = (&net.here.pod, &net.beside.pod, net.beside.ipv4());
    for (iperf, name) in [
        (IPERF, "TCP on one node, of veth pairs on a bridge"),
        (FULL, "TCP on one node, 4 streams, of veth pairs on a bridge"),
    ] {
        let (value, own, other) = ratio(iperf, ours, (&a, &b, "10.251.0.2"))?;
        figures.add(name, value, "x", beside("bridge", other, own), 1.0, Better::Higher);
    }
    a.remove()?;
    b.remove()?;
    drop(bridge);
    Ok(())
}

/// Pairs of measurements with and without the rules. A stream on a busy machine wavers by a tenth; half of the pairs begin with
/// the rules and half without, so that what drifts meanwhile counts for both, and the median is of this many.
const RULE_ROUNDS: usize = 12;
/// A port that the rules deny, and one that they do not.
const DENIED: u16 = 20_001;
const RULES: u16 = 1000;
/// How long rules may take until they are in force everywhere, or nowhere.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a thousand rules in front of the matching one cost.
pub(crate) fn rules(figures: &mut Figures, fabric: &Fabric, net: &Net) -> Result<(), FabricError> {
    let mut all = String::new();
    for port in DENIED..DENIED + RULES {
        let _ = write!(all, " --rule 'deny tcp from front to front port {port}'");
    }
    skein(
        fabric,
        &format!("create policy many --project bench{all} --rule 'pass any from front to front'"),
    )?;
    let server = IPERF.server(&net.there.pod)?;
    let probes = [Probe::new(&net.here, &net.there)?, Probe::new(&net.there, &net.here)?];
    let rule = |on: bool| -> Result<(), FabricError> {
        let verb = if on { "attach" } else { "detach" };
        skein(fabric, &format!("{verb} network front policy many --project bench"))?;
        in_force(fabric, net, &probes, on)
    };
    let measure = || IPERF.measure(&net.here.pod, net.there.ipv4()).map(|m| m.bits_per_second);
    let (mut ratios, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    in_force(fabric, net, &probes, false)?;
    for round in 0..RULE_ROUNDS {
        let (bare, ruled);
        if round % 2 == 0 {
            bare = measure()?;
            rule(true)?;
            ruled = measure()?;
        } else {
            ruled = measure()?;
            rule(false)?;
            bare = measure()?;
        }
        ratios.push(ruled / bare);
        with.push(ruled);
        without.push(bare);
    }
    drop((server, probes));
    ratios.sort_by(f64::total_cmp);
    let half = ratios.get(RULE_ROUNDS / 4).zip(ratios.get(RULE_ROUNDS - 1 - RULE_ROUNDS / 4));
    let spread =
        half.map(|(low, high)| format!("; half of {RULE_ROUNDS} pairs {low:.2} to {high:.2}"));
    figures.add(
        "TCP across nodes with 1,000 rules in front, of none",
        median(ratios),
        "x",
        beside("no rules", median(without), median(with)) + &spread.unwrap_or_default(),
        0.97,
        Better::Higher,
    );
    Ok(())
}

/// Asks by a connection whether the rules are in force from one workload to another.
struct Probe<'a> {
    from: &'a Workload,
    to: &'a Workload,
    listener: TcpListener,
}

impl<'a> Probe<'a> {
    fn new(from: &'a Workload, to: &'a Workload) -> Result<Self, FabricError> {
        let bound = to.pod.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, DENIED)))?;
        let listener = bound.map_err(|source| LabError::Start {
            program: format!("a listener on port {DENIED} of {}", to.pod.name()),
            source,
        })?;
        Ok(Self { from, to, listener })
    }

    fn passes(&self) -> Result<bool, LabError> {
        let limit = Duration::from_millis(300);
        let passes = self.from.pod.connects(self.to.ipv4(), DENIED, limit)?;
        if passes {
            // The kernel took it; this makes room for the next.
            let _ = self.listener.accept();
        }
        Ok(passes)
    }
}

/// Waits until both nodes judge by the rules, or both without them: packets say so in either direction, and each node's own tables.
fn in_force(
    fabric: &Fabric,
    net: &Net,
    probes: &[Probe<'_>; 2],
    wanted: bool,
) -> Result<(), FabricError> {
    let told = |node: usize, from: &Workload, to: &Workload| -> Result<bool, FabricError> {
        let entry = interface(fabric, node, from)?;
        let line = format!(
            "vrouter trace --interface {entry} --dst {} --dport {DENIED} -o json",
            to.ipv4()
        );
        let text = fabric.node(node).skein(&line)?.success()?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        // `passes` is what the agent wants; what is in the kernel counts.
        Ok(answer["kernel"]["dropped"] == "policy_deny")
    };
    let what = if wanted { "the rules to be in force" } else { "the rules to be gone" };
    skein_lab::wait_for(what, PATIENCE, || -> Result<(), String> {
        for probe in probes {
            if probe.passes().map_err(|e| e.to_string())? == wanted {
                return Err(format!("port {DENIED} of {}: not yet", probe.to.pod.name()));
            }
        }
        for (node, from, to) in [(0, &net.here, &net.there), (1, &net.there, &net.here)] {
            if told(node, from, to).map_err(|e| e.to_string())? != wanted {
                return Err(format!("the kernel of node {node}: not yet"));
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// The port of a workload, as its node names it.
fn interface(fabric: &Fabric, node: usize, workload: &Workload) -> Result<String, FabricError> {
    let text = fabric.node(node).skein("vrouter interfaces -o json")?.success()?;
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let own = |entry: &&Value| {
        let addresses = entry["addresses"].as_array().into_iter().flatten();
        addresses.filter_map(Value::as_str).any(|a| a.split('/').next() == Some(workload.ipv4()))
    };
    let uuid = all.iter().find(own).and_then(|entry| entry["uuid"].as_str());
    uuid.map(str::to_owned).ok_or_else(|| FabricError::Answer {
        what: "interfaces of the node".into(),
        reason: format!("{} is not there: {text}", workload.ipv4()),
    })
}

/// Time from sending a policy change to the API until the first packet passes.
pub(crate) fn config_to_packet(
    figures: &mut Figures,
    fabric: &Fabric,
    rounds: usize,
) -> Result<(), FabricError> {
    skein(fabric, "create policy web --project bench --rule 'pass udp from front to back port 9'")?;
    skein(fabric, "attach network front policy web --project bench")?;
    let from = fabric.node(0).attach("from", "default-domain:bench:front")?;
    let to = fabric.node(1).attach("to", "default-domain:bench:back")?;
    let api = fabric.control_host();
    let id = |kind: &str, name: &str| -> Result<String, FabricError> {
        let body = json!({"type": kind, "fq_name": ["default-domain", "bench", name]});
        let answer = api.http(8082, "POST", "/fqname-to-id", &body.to_string())?;
        let parsed: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        parsed["uuid"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| FabricError::Answer { what: "fqname-to-id".into(), reason: answer.body })
    };
    let (network, policy) = (id("virtual-network", "back")?, id("network-policy", "web")?);
    let change = |operation: &str| {
        let body = json!({
            "type": "virtual-network", "uuid": network,
            "ref-type": "network-policy", "ref-uuid": policy, "operation": operation,
            "attr": {"sequence": {"major": 0, "minor": 0}},
        });
        api.http(8082, "POST", "/ref-update", &body.to_string())
    };
    let receiver = to.pod.udp(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 9))?;
    let sender = from.pod.udp(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0))?;
    let target: SocketAddr = format!("{}:9", to.ipv4()).parse().map_err(|_| LabError::Command {
        command: "address".into(),
        status: "bad".into(),
        stderr: to.ipv4().to_owned(),
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let stream = std::thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            let _ = sender.send_to(b"?", target);
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    let mut times = Vec::new();
    let mut buffer = [0u8; 16];
    for _ in 0..rounds {
        // Drain what the last round let through, until nothing comes for a while.
        let _ = receiver.set_read_timeout(Some(Duration::from_millis(100)));
        while receiver.recv(&mut buffer).is_ok() {}
        let _ = receiver.set_read_timeout(Some(Duration::from_secs(5)));
        let start = Instant::now();
        let answer = change("ADD")?;
        if answer.status != 200 {
            return Err(FabricError::Answer { what: "ref-update".into(), reason: answer.body });
        }
        let arrived = receiver.recv(&mut buffer);
        let took = start.elapsed().as_secs_f64() * 1e3;
        times.push(if arrived.is_ok() { took } else { f64::INFINITY });
        change("DELETE")?;
    }
    stop.store(true, Ordering::Relaxed);
    let _ = stream.join();
    from.detach()?;
    to.detach()?;
    figures.add(
        "configuration change to packet effect, median",
        median(times),
        "ms",
        "request sent to first packet received",
        50.0,
        Better::Lower,
    );
    Ok(())
}

/// Resident memory of a process.
pub(crate) fn resident_mebibytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.map_or(f64::NAN, |kib| kib / 1024.0)
}

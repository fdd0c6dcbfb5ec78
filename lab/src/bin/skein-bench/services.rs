//! New connections a second through the cluster addresses of 1,000 services, beside kube-proxy's iptables rules and beside
//! the verdict maps of its nftables mode.
//!
//! All three have the same services from the same API server, the same programs, and servers with the same addresses, one on
//! the client's node and one on another. The peers' hosts are no nodes of ours: pods are routed to, and a VXLAN device
//! leads from one host to the other, as with flannel. Connections go to all services in turn, so iptables' chain is walked half way
//! on the average.
//!
//! What a connection costs without any service is measured with them: on hosts like the peers' that have no rule and track nothing, where
//! the services' addresses are the servers' own, and through Skein to the servers. No way of serving could do much better.

use crate::figure::{Better, Figures};
use crate::kubernetes::{PODS, SERVICES, delete, file, in_threads};
use crate::measure::{median, programs_folder};
use serde::Deserialize;
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, ClusterError, ClusterOptions, KubePod, KubeProxy, NetworkOptions, PROBE_IMAGE,
    SkeinNetwork,
};
use skein_lab::{Host, Pod, Process, require, wait_for};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const COUNT: usize = 1000;
const PORT: u16 = 80;
const TARGET: u16 = 8080;
const PREFIX: &str = "10.244.0.0/16";
/// Taken in turn, so that all see the same machine.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1500);
const THREADS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// What a node's agent is told: these pods are greedier than the quota of a port allows.
const AGENT: &str = "max_flows_per_port = 250000\n";
const VNI: u32 = 78;

/// Nodes' options for this measurement.
pub(crate) fn network_options(cluster: &Cluster) -> Result<NetworkOptions, ClusterError> {
    for node in cluster.nodes() {
        let path = node.folder().join("agent.toml");
        std::fs::write(&path, AGENT).map_err(file(&path, "write"))?;
    }
    // Where a node sees its folder.
    let agent_arguments = vec!["--config=/run/node/agent.toml".to_owned()];
    Ok(NetworkOptions { agent_arguments, ..NetworkOptions::default() })
}

/// `skein-bench services`: a cluster for this alone.
pub(crate) fn alone(figures: &mut Figures) -> Result<(), ClusterError> {
    let mut cluster = Cluster::start("skbs", ClusterOptions::new(&programs_folder()))?;
    let network = SkeinNetwork::install(&cluster, &network_options(&cluster)?)?;
    measure(figures, &mut cluster)?;
    drop(network);
    Ok(())
}

/// Measures, and leaves the cluster as it was.
pub(crate) fn measure(figures: &mut Figures, cluster: &mut Cluster) -> Result<(), ClusterError> {
    crate::say(&format!("{COUNT} services, beside kube-proxy and nftables"));
    require("nft", "nftables")?;
    let pods = pods(cluster)?;
    let services = services(cluster)?;
    let targets: Vec<String> = services.iter().map(|vip| format!("{vip}:{PORT}")).collect();
    let targets = targets.join("\n");
    let direct = format!("{}:{TARGET}\n{}:{TARGET}", pods[1].address, pods[2].address);
    let ours = Side::of_pods(cluster.nodes()[0].host(), &pods)?;
    let iptables = Peer::new(cluster, "ipt", &pods)?;
    let maps = Peer::new(cluster, "nft", &pods)?;
    let routes = Peer::new(cluster, "rts", &pods)?;
    routes.lead(&services, [&pods[1].address, &pods[2].address])?;
    let led = services.iter().map(|vip| format!("{vip}:{TARGET}"));
    let led = led.collect::<Vec<_>>().join("\n");
    let mut proxies = Vec::new();
    for (number, host) in iptables.hosts.iter().enumerate() {
        let node = cluster.nodes()[number].name();
        proxies.push(KubeProxy::start(cluster, host, node, PREFIX)?);
    }
    let rules = rules(&services, [&pods[1].address, &pods[2].address]);
    for host in &maps.hosts {
        host.run_with_input(Command::new("nft").args(["-f", "-"]), rules.as_bytes())?.success()?;
    }
    let contests = [
        ("Skein", &ours, &targets),
        ("kube-proxy", &iptables.side, &targets),
        ("nftables", &maps.side, &targets),
        ("Skein without services", &ours, &direct),
        ("routes alone", &routes.side, &led),
    ];
    for (name, side, targets) in contests {
        wait_for(&format!("{name} to serve all"), PATIENCE, || {
            let report =
                side.open(targets, Duration::from_millis(500)).map_err(|e| e.to_string())?;
            let all = report.failed == 0 && report.opened > 0;
            if all { Ok(()) } else { Err(format!("{report:?}")) }
        })?;
    }
    let names: Vec<&str> = contests.iter().map(|(name, ..)| *name).collect();
    let names = names.join(", ");
    let mut rates = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        for ((name, side, targets), rates) in contests.iter().zip(&mut rates) {
            let report = side.open(targets, ROUND)?;
            if report.failed > 0 {
                let reason = format!("{} of {} failed", report.failed, report.opened);
                return Err(answer(name, format!("{reason}: {:?}", report.error)));
            }
            rates.push(report.opened as f64 / report.seconds);
        }
        let last: Vec<String> =
            rates.iter().filter_map(|all| all.last().map(|one| format!("{one:.0}"))).collect();
        crate::say(&format!("  {names}: {} /s", last.join(", ")));
    }
    let versions = proxies.first().map_or(Ok(String::new()), KubeProxy::versions)?;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let [own, _, _, own_direct, ceiling] = rates.each_ref().map(|all| median(all.clone()));
    for (name, peer, what, goal) in [
        ("new connections, 1,000 services, of kube-proxy's iptables", 1, versions.as_str(), 3.0),
        ("new connections, 1,000 services, of nftables maps", 2, "nftables maps", 1.5),
    ] {
        let ratio = |rates: &[Vec<f64>; 5], of: usize| {
            median(rates[of].iter().zip(&rates[peer]).map(|(one, theirs)| one / theirs).collect())
        };
        let theirs = median(rates[peer].clone());
        // Of the machine's time, which all of this uses up: what is added to a connection that no service is asked for.
        let added = |rate: f64| cores * 1e6 * (1.0 / rate - 1.0 / ceiling);
        let beside = format!(
            "{what}: {theirs:.0} /s; ours: {own:.0} /s; half of them across nodes; without services: ours {own_direct:.0} /s, \
             routes alone {ceiling:.0} /s, {:.2} of theirs; a service adds {:.0} us to a connection, ours {:.0} us",
            ratio(&rates, 4),
            added(theirs),
            added(own)
        );
        figures.add(name, ratio(&rates, 0), "x", beside, goal, Better::Higher);
    }
    drop(ours);
    proxies.into_iter().try_for_each(KubeProxy::remove)?;
    in_threads(COUNT, |at| cluster.api().delete(&format!("{SERVICES}/many-{at}")).map(drop))?;
    delete(cluster, &pods)
}

pub(crate) fn answer(what: &str, reason: String) -> ClusterError {
    ClusterError::Answer { what: what.to_owned(), reason }
}

/// The client, the server on its node and the one on the other.
fn pods(cluster: &Cluster) -> Result<[KubePod; 3], ClusterError> {
    for (name, node, role) in [("from", 0, "client"), ("near", 0, "server"), ("far", 1, "server")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"bench": "services", "role": role}},
            "spec": {
                "nodeName": cluster.nodes()[node].name(), "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        cluster.api().create(PODS, &pod)?;
    }
    let mut pods = cluster.wait_pods("default", "bench=services", 3, PATIENCE)?;
    // client, server, server; then by node, as it was made.
    pods.sort_by_key(|pod| ["from", "near", "far"].iter().position(|name| pod.name == *name));
    pods.try_into().map_err(|_| answer("pods", "there are not three of them".into()))
}

/// Makes the services through Kubernetes; gives their addresses.
fn services(cluster: &Cluster) -> Result<Vec<String>, ClusterError> {
    in_threads(COUNT, |at| {
        let service = json!({"metadata": {"name": format!("many-{at}"), "labels": {"bench": "services"}}, "spec": {
            "selector": {"bench": "services", "role": "server"},
            "ports": [{"port": PORT, "targetPort": TARGET}],
        }});
        cluster.api().create(SERVICES, &service).map(drop)
    })?;
    let complete = |object: &Value| {
        let subsets = object["subsets"].as_array().into_iter().flatten();
        subsets.filter_map(|subset| subset["addresses"].as_array()).map(Vec::len).sum::<usize>()
            == 2
    };
    wait_for("endpoints of all services", PATIENCE, || {
        let path = "/api/v1/namespaces/default/endpoints?labelSelector=bench%3Dservices";
        let all = cluster.api().list(path).map_err(|error| error.to_string())?;
        let ready = all.iter().filter(|object| complete(object)).count();
        std::thread::sleep(Duration::from_millis(200));
        if ready == COUNT { Ok(()) } else { Err(format!("{ready} of {COUNT}")) }
    })?;
    let all = cluster.api().list(&format!("{SERVICES}?labelSelector=bench%3Dservices"))?;
    let address = |service: &Value| service["spec"]["clusterIP"].as_str().map(str::to_owned);
    Ok(all.iter().filter_map(address).collect())
}

#[derive(Debug, Deserialize)]
struct Report {
    opened: u64,
    failed: u64,
    seconds: f64,
    error: Option<String>,
}

/// A client's network namespace, and the servers it reaches by services.
struct Side {
    host: Host,
    client: PathBuf,
    probe: PathBuf,
    /// They end when dropped.
    _servers: Vec<Process>,
}

/// A program in a network namespace, in all else where this one is: pods of a cluster and the peers' are entered alike.
pub(crate) fn within(namespace: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
    command
}

impl Side {
    fn new(host: &Host, [client, near, far]: [PathBuf; 3]) -> Result<Side, ClusterError> {
        let probe = programs_folder().join("skein-probe");
        let mut servers = Vec::new();
        for (name, namespace) in [("near", near), ("far", far)] {
            let mut command = within(&namespace, &probe);
            servers.push(host.spawn(name, command.args(["end", &TARGET.to_string()]))?);
        }
        Ok(Side { host: host.clone(), client, probe, _servers: servers })
    }

    fn of_pods(host: &Host, [client, near, far]: &[KubePod; 3]) -> Result<Side, ClusterError> {
        let path = |pod: &KubePod| {
            Ok::<_, ClusterError>(PathBuf::from(format!("/proc/{}/ns/net", pod.pid()?)))
        };
        Side::new(host, [path(client)?, path(near)?, path(far)?])
    }

    fn open(&self, targets: &str, length: Duration) -> Result<Report, ClusterError> {
        let mut command = within(&self.client, &self.probe);
        command.args(["open", "--milliseconds", &length.as_millis().to_string()]);
        command.args(["--threads", &THREADS.to_string()]);
        let said = self.host.run_with_input(&mut command, targets.as_bytes())?.success()?;
        serde_json::from_str(&said)
            .map_err(|error| answer("skein-probe", format!("{error}: {said}")))
    }
}

/// Two hosts with pods of the same addresses as ours, which no network plugin but routes joins.
struct Peer {
    hosts: [Host; 2],
    side: Side,
    /// Client, server here, server on the other host.
    pods: Vec<Pod>,
}

impl Peer {
    fn new(cluster: &mut Cluster, name: &str, pods: &[KubePod; 3]) -> Result<Peer, ClusterError> {
        let hosts =
            [cluster.add_host(&format!("{name}1"))?, cluster.add_host(&format!("{name}2"))?];
        for (number, host) in hosts.iter().enumerate() {
            let other = &hosts[1 - number];
            // No agent is here: the port is free.
            host.ip(&format!(
                "link add vx{VNI} mtu 1450 type vxlan id {VNI} local {} remote {} dev {} dstport 4789 nolearning\n\
                 address add 192.168.78.{}/24 dev vx{VNI}\n\
                 link set vx{VNI} up\n",
                host.ipv4(),
                other.ipv4(),
                host.uplink(),
                number + 1
            ))?;
            // A closed connection is remembered for 10 s, and the table is as large as the machine's.
            let close = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close";
            host.inside(|| std::fs::write(close, "1"))?.map_err(file(Path::new(close), "write"))?;
        }
        let mut made = Vec::new();
        let mut paths = <[PathBuf; 3]>::default();
        for ((pod, (role, at)), path) in
            pods.iter().zip([("client", 0), ("near", 0), ("far", 1)]).zip(&mut paths)
        {
            let namespace = hosts[at].pod(role)?;
            // As Calico's pods: a gateway that is nobody, whom the host's end stands in for.
            hosts[at].ip(&format!(
                "link add {role} mtu 1450 type veth peer name eth0 mtu 1450 netns {}\n\
                 link set {role} address ee:ee:ee:ee:ee:ee up\n\
                 route add {}/32 dev {role}\n",
                namespace.namespace(),
                pod.address
            ))?;
            namespace.ip(&format!(
                "address add {}/32 dev eth0\n\
                 link set eth0 up\n\
                 route add 169.254.1.1 dev eth0 scope link\n\
                 neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent\n\
                 route add default via 169.254.1.1\n",
                pod.address
            ))?;
            hosts[1 - at].ip(&format!(
                "route add {}/32 via 192.168.78.{} dev vx{VNI}\n",
                pod.address,
                at + 1
            ))?;
            *path = namespace.path();
            made.push(namespace);
        }
        let side = Side::new(&hosts[0], paths)?;
        Ok(Peer { hosts, side, pods: made })
    }

    /// Gives the servers the services' addresses, in turn. They lie behind the servers' own: a thousand neighbours are
    /// more than the kernel remembers.
    fn lead(&self, services: &[String], servers: [&str; 2]) -> Result<(), ClusterError> {
        let lines = |line: &dyn Fn(usize, &str) -> String| -> String {
            services.iter().enumerate().map(|(number, vip)| line(number % 2, vip)).collect()
        };
        let other = |at: usize| format!("via 192.168.78.{} dev vx{VNI}", at + 1);
        for (at, (role, pod)) in
            [("near", &self.pods[1]), ("far", &self.pods[2])].iter().enumerate()
        {
            pod.ip(&lines(&|of, vip| match of == at {
                true => format!("address add {vip}/32 dev eth0\n"),
                false => String::new(),
            }))?;
            self.hosts[at].ip(&lines(&|of, vip| match of == at {
                true => format!("route add {vip}/32 via {} dev {role}\n", servers[at]),
                false => format!("route add {vip}/32 {}\n", other(of)),
            }))?;
        }
        Ok(())
    }
}

/// What kube-proxy's nftables mode writes (KEP-3866): one look into a map of addresses and ports, whose verdict is the service's own
/// chain; there a number decides about the endpoint's.
fn rules(services: &[String], members: [&str; 2]) -> String {
    let mut text = String::from("table ip kube-proxy {\n");
    text += "chain mark-for-masquerade {\nmeta mark set meta mark or 0x4000\n}\n";
    text += "chain masquerading {\nmeta mark & 0x4000 == 0 return\n\
             meta mark set meta mark xor 0x4000\nmasquerade fully-random\n}\n";
    for (number, vip) in services.iter().enumerate() {
        for (nth, member) in members.iter().enumerate() {
            let _ = write!(
                text,
                "chain endpoint-{number}-{nth} {{\nip saddr {member} jump mark-for-masquerade\n\
                 meta l4proto tcp dnat to {member}:{TARGET}\n}}\n"
            );
        }
        let _ = write!(
            text,
            "chain service-{number} {{\nip daddr {vip} tcp dport {PORT} ip saddr != {PREFIX} jump mark-for-masquerade\n\
             numgen random mod 2 vmap {{ 0 : goto endpoint-{number}-0, 1 : goto endpoint-{number}-1 }}\n}}\n"
        );
    }
    let elements = |value: &dyn Fn(usize, &str) -> String| {
        let all = services.iter().enumerate().map(|(number, vip)| value(number, vip));
        all.collect::<Vec<_>>().join(",\n")
    };
    let verdicts = elements(&|number, vip| format!("{vip} . tcp . {PORT} : goto service-{number}"));
    let addresses = elements(&|_, vip| vip.to_owned());
    let _ = write!(
        text,
        "set cluster-ips {{ type ipv4_addr\nelements = {{ {addresses} }}\n}}\n\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\nelements = {{ {verdicts} }}\n}}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict\n}}\n\
         map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n}}\n\
         map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict\n}}\n\
         map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict\n}}\n\
         chain services {{\n\
         ip daddr . meta l4proto . th dport vmap @service-ips\n\
         ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}\n\
         chain endpoints-check {{\n\
         ip daddr . meta l4proto . th dport vmap @no-endpoint-services\n\
         fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports\n}}\n\
         chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips\n}}\n\
         chain cluster-ips-check {{ ip daddr @cluster-ips reject\n}}\n\
         chain filter-prerouting {{ type filter hook prerouting priority dstnat - 10\nct state new jump firewall-check\n}}\n\
         chain filter-input {{ type filter hook input priority -110\nct state new jump endpoints-check\n}}\n\
         chain filter-forward {{ type filter hook forward priority -110\n\
         ct state new jump endpoints-check\nct state new jump cluster-ips-check\n}}\n\
         chain filter-output {{ type filter hook output priority -110\nct state new jump endpoints-check\nct state new jump firewall-check\n}}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat\njump services\n}}\n\
         chain nat-output {{ type nat hook output priority -100\njump services\n}}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat\njump masquerading\n}}\n}}\n"
    );
    text
}

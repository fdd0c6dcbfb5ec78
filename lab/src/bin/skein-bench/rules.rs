//! Network policies of a thousand rules, made through Kubernetes: what they cost a TCP stream between pods of two nodes, and how soon a
//! change of them lets the first packet pass.
//!
//! The same pods are measured with and without them, in turn, and which comes first changes with every round. The policy is about pods
//! with a label, so it is in force or not by one change of a pod; that it is, a port tells that no rule lets in.

use crate::awake::Awake;
use crate::figure::{Better, Figures};
use crate::kubernetes::{PODS, delete};
use crate::measure::{median, programs_folder};
use crate::services::{answer, network_options, within};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Asker, Cluster, ClusterError, ClusterOptions, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork,
};
use skein_lab::{Iperf, require, wait_for};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const COUNT: usize = 1000;
/// Of a policy; there are as many policies as that takes.
const OF_ONE: usize = 250;
/// Pairs; the first of a pair is with rules and without in turn.
const ROUNDS: usize = 12;
/// More streams than a machine of two cores has room for: what the path itself costs, and not on which cores its ends are.
const IPERF: Iperf = Iperf { seconds: 3, streams: 4, port: 5201 };
const CHANGES: usize = 10;
/// A pod serves it, and no rule lets it in.
const CLOSED: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(40);

/// `skein-bench rules`: a cluster for this alone.
pub(crate) fn alone(figures: &mut Figures) -> Result<(), ClusterError> {
    let options = ClusterOptions { nodes: 2, ..ClusterOptions::new(&programs_folder()) };
    let cluster = Cluster::start("skbr", options)?;
    let network = SkeinNetwork::install(&cluster, &network_options(&cluster)?)?;
    measure(figures, &cluster)?;
    drop(network);
    Ok(())
}

/// Measures, and leaves the cluster as it was.
pub(crate) fn measure(figures: &mut Figures, cluster: &Cluster) -> Result<(), ClusterError> {
    crate::say(&format!("{COUNT} rules of network policies"));
    require("iperf3", "iperf3")?;
    let pods = pods(cluster)?;
    let mut asker = pods[0].asker()?;
    for number in 0..COUNT / OF_ONE {
        cluster.api().create(POLICIES, &far_from(number))?;
    }
    cluster.api().create(POLICIES, &matching())?;
    throughput(figures, cluster, &pods, &mut asker)?;
    first_packet(figures, cluster, &pods, &mut asker)?;
    drop(asker);
    for number in 0..COUNT / OF_ONE {
        cluster.api().delete(&format!("{POLICIES}/far-{number}"))?;
    }
    cluster.api().delete(&format!("{POLICIES}/fits"))?;
    delete(cluster, &pods)
}

/// Client and server, on a node each.
fn pods(cluster: &Cluster) -> Result<[KubePod; 2], ClusterError> {
    for (number, name) in ["client", "server"].into_iter().enumerate() {
        let pod = json!({
            "metadata": {"name": name, "labels": {"bench": "rules", "role": name}},
            "spec": {
                "nodeName": cluster.nodes()[number].name(), "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        cluster.api().create(PODS, &pod)?;
    }
    let mut pods = cluster.wait_pods("default", "bench=rules", 2, PATIENCE)?;
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    pods.try_into().map_err(|_| answer("pods", "there are not two of them".into()))
}

fn about_ruled(name: &str, rules: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "podSelector": {"matchLabels": {"ruled": "yes"}}, "policyTypes": ["Ingress"], "ingress": rules,
    }})
}

/// Rules that let in other ports, each from an address of its own. By its name the policy comes before the one that fits.
fn far_from(number: usize) -> Value {
    let rule = |at: usize| {
        json!({
            "from": [{"ipBlock": {"cidr": format!("192.0.{}.{}/32", at / 250, at % 250 + 1)}}],
            "ports": [{"port": 20_000 + at}],
        })
    };
    let first = number * OF_ONE;
    let rules: Vec<Value> = (first..first + OF_ONE).map(rule).collect();
    about_ruled(&format!("far-{number}"), &json!(rules))
}

fn matching() -> Value {
    let client = json!([{"podSelector": {"matchLabels": {"role": "client"}}}]);
    about_ruled("fits", &json!([{"from": client, "ports": [{"port": IPERF.port}]}]))
}

fn label(cluster: &Cluster, pod: &KubePod, value: &Value) -> Result<(), ClusterError> {
    let patch = json!({"metadata": {"labels": {"ruled": value}}});
    cluster.api().merge(&format!("{PODS}/{}", pod.name), &patch).map(drop)
}

/// Waits until the port that no rule is about answers, or does not.
fn in_force(asker: &mut Asker, server: &KubePod, is: bool) -> Result<(), ClusterError> {
    let target = [format!("tcp:{}:{CLOSED}", server.address)];
    Ok(wait_for("the rules", PATIENCE, || {
        let outcomes = asker.ask(&target, GLANCE * 5).map_err(|error| error.to_string())?;
        let closed = !outcomes.iter().any(ProbeOutcome::answered);
        if closed == is { Ok(()) } else { Err(format!("in force: {closed}")) }
    })?)
}

fn throughput(
    figures: &mut Figures,
    cluster: &Cluster,
    [client, server]: &[KubePod; 2],
    asker: &mut Asker,
) -> Result<(), ClusterError> {
    let namespace = |pod: &KubePod| {
        Ok::<_, ClusterError>(PathBuf::from(format!("/proc/{}/ns/net", pod.pid()?)))
    };
    let host = cluster.nodes()[1].host();
    let mut serve = within(&namespace(server)?, "iperf3".as_ref());
    serve.args(["-s", "--forceflush", "-p", &IPERF.port.to_string()]);
    let listening = host.spawn("iperf3", &mut serve)?;
    wait_for("iperf3", PATIENCE, || {
        let outcomes = asker.ask(&[format!("tcp:{}:{}", server.address, IPERF.port)], GLANCE);
        // It closes at once who says nothing that it knows; nobody there would refuse.
        match outcomes.map_err(|error| error.to_string())?.remove(0).error.as_deref() {
            Some("refused") => Err("refused".to_owned()),
            _ => Ok(()),
        }
    })?;
    let from = namespace(client)?;
    let run = || -> Result<f64, ClusterError> {
        let command = IPERF.client_command(&server.address);
        let mut entered: Command = within(&from, command.get_program().as_ref());
        let ran = cluster.nodes()[0].host().run(entered.args(command.get_args()))?;
        Ok(Iperf::parse(&ran.stdout)?.bits_per_second)
    };
    let awake = Awake::all_cores();
    let (mut ratios, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut pair = [0.0; 2];
        for ruled in [round % 2 == 0, round % 2 != 0] {
            label(cluster, server, &if ruled { json!("yes") } else { Value::Null })?;
            in_force(asker, server, ruled)?;
            pair[usize::from(ruled)] = run()?;
            // And they still are, or are not.
            in_force(asker, server, ruled)?;
        }
        let [bare, ruled] = pair;
        crate::say(&format!("  without {:.2}, with {:.2} Gbit/s", bare / 1e9, ruled / 1e9));
        ratios.push(ruled / bare);
        with.push(ruled);
        without.push(bare);
    }
    drop(awake);
    drop(listening);
    label(cluster, server, &Value::Null)?;
    in_force(asker, server, false)?;
    ratios.sort_by(f64::total_cmp);
    let beside = format!(
        "none: {:.2} Gbit/s; with them: {:.2} Gbit/s; {ROUNDS} pairs, the middle half of them {:.3} to {:.3}",
        median(without) / 1e9,
        median(with) / 1e9,
        ratios[ROUNDS / 4],
        ratios[ROUNDS - 1 - ROUNDS / 4],
    );
    figures.add(
        "TCP across nodes, 1,000 rules of NetworkPolicies before the one that fits, of none",
        median(ratios),
        "x",
        beside,
        0.97,
        Better::Higher,
    );
    Ok(())
}

/// A policy that opens one of the closed ports, beside a thousand rules that do not.
fn first_packet(
    figures: &mut Figures,
    cluster: &Cluster,
    [_, server]: &[KubePod; 2],
    asker: &mut Asker,
) -> Result<(), ClusterError> {
    label(cluster, server, &json!("yes"))?;
    let client = json!([{"podSelector": {"matchLabels": {"role": "client"}}}]);
    let opens = about_ruled("opens", &json!([{"from": client, "ports": [{"port": CLOSED}]}]));
    let target = [format!("tcp:{}:{CLOSED}", server.address)];
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        in_force(asker, server, true)?;
        let since = Instant::now();
        cluster.api().create(POLICIES, &opens)?;
        wait_for("the first packet", PATIENCE, || {
            let outcomes = asker.ask(&target, GLANCE / 4).map_err(|error| error.to_string())?;
            if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
        cluster.api().delete(&format!("{POLICIES}/opens"))?;
    }
    label(cluster, server, &Value::Null)?;
    in_force(asker, server, false)?;
    let worst = times.iter().copied().fold(0.0, f64::max);
    figures.add(
        "a NetworkPolicy is made until the first packet passes, slowest of 10",
        worst,
        "ms",
        format!("beside {COUNT} rules of others; median {:.0} ms", median(times)),
        500.0,
        Better::Lower,
    );
    Ok(())
}

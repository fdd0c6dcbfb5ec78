//! A deployment that is scaled behind services, by an address inside and one outside, while a network policy is in force: new members
//! answer whom the policy lets in and never anybody else, connections keep their members, and what goes leaves nothing.

use crate::lifecycle::{SERVICES, answered_by, names, service};
use crate::outside::{Balanced, World};
use crate::{ANSWER, PATIENCE, PODS_GONE, PODS_READY, Steps, other_node, streams};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork, Stream};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);
/// Twenty on each node, beside those that are there.
const MANY: usize = 60;

/// After [`crate::outside::check`], which made a pool of addresses.
pub(crate) fn check(
    world: &World<'_>,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    let cluster = world.cluster;
    let (asker, other) = (&pods[0], other_node(pods, &pods[0]));
    let mut rest = pods.iter().filter(|pod| pod.name != asker.name && pod.name != other.name);
    let outcast = rest.next().unwrap();
    let label = |pod: &KubePod, value: Value| {
        let patch = json!({"metadata": {"labels": {"crowd-client": value}}});
        let path = format!("/api/v1/namespaces/default/pods/{}", pod.name);
        cluster.api().merge(&path, &patch).unwrap();
    };
    [asker, other].into_iter().for_each(|pod| label(pod, json!("yes")));
    // Members see clients outside by the address of the node that they came by, and so do policies.
    let nodes: Vec<String> =
        cluster.nodes().iter().map(|node| format!("{}/32", node.host().ipv4())).collect();
    policy(cluster, &nodes);
    deployment(cluster);
    let target = service(cluster, "crowd", &json!({"app": "crowd"}));
    let front = Balanced::new(world, "default", &json!({}), &json!({"app": "crowd"}));

    let first = living(cluster, 2);
    answered_by(asker, &target, &names(&first));
    front.answers(&names(&first));
    wait_for("the policy to be in force", PATIENCE, || {
        let outcomes = outcast.ask(&everywhere(cluster, &target), SILENCE).unwrap();
        if outcomes.iter().any(ProbeOutcome::answered) { Err("answered") } else { Ok(()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let outcast = scope.spawn(|| never_answered(cluster, outcast, &target, &stop));
        let ended = Stop(&stop);
        scaled(world, asker, other, &target, &front, steps);
        drop(ended);
        let asked = outcast.join().unwrap();
        println!("who is kept out asked {asked} times");
        assert!(asked > 0);
    });

    [asker, other].into_iter().for_each(|pod| label(pod, Value::Null));
    front.remove();
    for path in
        [format!("{DEPLOYMENTS}/crowd"), format!("{SERVICES}/crowd"), format!("{POLICIES}/crowd")]
    {
        cluster.api().delete(&path).unwrap();
    }
    nothing_is_left(cluster, network);
    steps.done("everything of the deployment gone");
}

/// Lets in clients with a label, and these addresses.
fn policy(cluster: &Cluster, addresses: &[String]) {
    let client = json!({"podSelector": {"matchLabels": {"crowd-client": "yes"}}});
    let blocks = addresses.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    let from: Vec<Value> = std::iter::once(client).chain(blocks).collect();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "crowd", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "crowd"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": from, "ports": [{"port": 80}]}],
        },
    });
    cluster.apply(&policy.to_string()).unwrap();
}

fn deployment(cluster: &Cluster) {
    let template = json!({
        "metadata": {"labels": {"app": "crowd"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
            "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 5},
        }]},
    });
    let labels = json!({"matchLabels": {"app": "crowd"}});
    let spec = json!({"replicas": 2, "selector": labels, "template": template});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"}, "spec": spec});
    cluster.api().create(DEPLOYMENTS, &object).unwrap();
}

fn living(cluster: &Cluster, count: usize) -> Vec<KubePod> {
    wait_for(&format!("{count} pods of the deployment"), PODS_READY, || {
        let all = cluster.pods("default", "app=crowd").map_err(|error| error.to_string())?;
        let stays = |pod: &KubePod| pod.object["metadata"]["deletionTimestamp"].is_null();
        let living: Vec<KubePod> = all.into_iter().filter(|pod| stays(pod) && pod.ready).collect();
        if living.len() == count { Ok(living) } else { Err(format!("{} are", living.len())) }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// All members that have an address by now, and their service.
fn everywhere(cluster: &Cluster, service: &str) -> Vec<String> {
    let pods = cluster.pods("default", "app=crowd").unwrap();
    let with = pods.iter().filter(|pod| !pod.address.is_empty());
    let targets = with.map(|pod| format!("tcp:{}:80", pod.address));
    targets.chain(vec![service.to_owned(); 4]).collect()
}

/// Ends the one who asks, also when a step fails meanwhile.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks all members, and those that come as soon as they have an address; gives how often.
fn never_answered(cluster: &Cluster, pod: &KubePod, service: &str, stop: &AtomicBool) -> usize {
    let mut asked = 0;
    let mut asker = pod.asker().unwrap();
    while !stop.load(Ordering::Relaxed) {
        for outcome in asker.ask(&everywhere(cluster, service), SILENCE).unwrap() {
            assert!(!outcome.answered(), "{} is kept out: {outcome:?}", pod.name);
            asked += 1;
        }
    }
    asked
}

/// As many pods as there are replicas answer, and a connection keeps its member through growth and loss.
fn scaled(
    world: &World<'_>,
    asker: &KubePod,
    other: &KubePod,
    target: &str,
    front: &Balanced<'_>,
    steps: &mut Steps,
) {
    let cluster = world.cluster;
    let scale = |replicas: usize| -> BTreeSet<String> {
        let patch = json!({"spec": {"replicas": replicas}});
        cluster.api().merge(&format!("{DEPLOYMENTS}/crowd"), &patch).unwrap();
        let since = Instant::now();
        let living = names(&living(cluster, replicas));
        println!("{replicas} replicas are ready after {:.1} s", since.elapsed().as_secs_f64());
        let took = answered_by(asker, target, &living);
        println!("all of them answer {:.2} s later", took.as_secs_f64());
        living
    };
    // A burst, as autoscaling makes one.
    front.answers(&scale(10));
    // Half of the members go: whoever has one of the others must not notice.
    let log = |name: &str| cluster.state().join(format!("crowd-{name}.log"));
    let inside = target.trim_start_matches("tcp:");
    let streams: Vec<Stream> = (0..8)
        .map(|number| {
            let client = if number % 2 == 0 { asker } else { other };
            client.stream(inside, &log(&number.to_string())).unwrap()
        })
        .chain((0..4).map(|number| world.stream(front.target(), &log(&format!("world-{number}")))))
        .collect();
    streams.iter().for_each(streams::goes_on);
    let stay = scale(5);
    let (count, mut kept) = (streams.len(), 0);
    for stream in streams {
        let member = stream.pod().unwrap();
        if stay.contains(&member) {
            streams::unnoticed(stream, &member);
            kept += 1;
        }
    }
    println!("{kept} of {count} connections had a member that stayed");
    let streams =
        [asker.stream(inside, &log("in")).unwrap(), world.stream(front.target(), &log("out"))];
    streams.iter().for_each(streams::goes_on);
    let members = streams.each_ref().map(|stream| stream.pod().unwrap());
    let living = scale(8);
    for (stream, member) in streams.into_iter().zip(members) {
        streams::unnoticed(stream, &member);
    }
    answered_by(other, target, &living);
    front.answers(&living);
    steps.done("a deployment scaled 10, 5, 8 under a policy, with clients inside and outside");
    out_by_the_members_addresses(cluster, asker, target);
    steps.done("a policy for what goes out to a service");
    scale(MANY);
    steps.done("60 pods of it at once");
}

/// A rule for what goes out is about the member behind a service, not about the service's own address.
fn out_by_the_members_addresses(cluster: &Cluster, asker: &KubePod, target: &str) {
    let own = target.trim_start_matches("tcp:").split(':').next().unwrap();
    for (cidr, wanted) in [(format!("{own}/32"), false), ("10.244.0.0/16".to_owned(), true)] {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "crowd-out", "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"crowd-client": "yes"}}, "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}],
            },
        });
        cluster.apply(&policy.to_string()).unwrap();
        let targets = vec![target.to_owned(); 8];
        wait_for(&format!("answers of the service if {cidr} may be: {wanted}"), PATIENCE, || {
            let outcomes = asker.ask(&targets, if wanted { ANSWER } else { SILENCE }).unwrap();
            let right = outcomes.iter().all(|outcome| outcome.answered() == wanted);
            if right { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    cluster.api().delete(&format!("{POLICIES}/crowd-out")).unwrap();
}

fn nothing_is_left(cluster: &Cluster, network: &SkeinNetwork) {
    let kinds =
        ["virtual-machine", "virtual-machine-interface", "instance-ip", "loadbalancer-member"];
    wait_for("everything of the deployment to go", PODS_GONE, || {
        let mut left = String::new();
        for kind in kinds {
            left += &network.skein(&["get", kind]).unwrap().stdout;
        }
        for node in 0..cluster.nodes().len() {
            left += &network.skein_on(node, &["vrouter", "interfaces"]).unwrap().stdout;
        }
        let left: Vec<&str> = left.lines().filter(|line| line.contains("crowd")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

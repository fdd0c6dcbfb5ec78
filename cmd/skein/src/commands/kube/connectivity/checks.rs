//! The attempts: which pod asks whom, and what should come of it.

use super::super::kubectl::Kubectl;
use super::manifest::{PORT, Plan};
use crate::error::Error;
use futures_util::future::try_join_all;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Asks all targets at the same time; one line each: `ok TARGET ANSWER` or `no TARGET REASON`. The clock is the shell's
/// own: wget's (-T) is a crash in some builds of busybox.
const ASK: &str = r#"ask() { wget -q -O - "http://$1" 2>&1 & w=$!
(sleep 3; kill $w) >/dev/null 2>&1 & s=$!
wait $w; c=$?; kill $s 2>/dev/null; return $c; }
for t in "$@"; do (
if r=$(ask "$t"); then echo "ok $t $r"; else echo "no $t $r"; fi
) & done; wait"#;

/// How long a policy may take to be in force, and the way to a pod to be known everywhere, on a busy machine too: what is slower is a
/// failure worth reporting.
const IN_FORCE: Duration = Duration::from_secs(15);

/// One attempt and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) from: String,
    pub(super) to: String,
    /// It should work.
    pub(super) wanted: bool,
    pub(super) works: bool,
    /// What was answered, or what went wrong.
    pub(super) said: String,
}

impl Outcome {
    pub(super) fn good(what: &str, said: &str) -> Outcome {
        let (from, to) = (String::new(), what.to_owned());
        Outcome { from, to, wanted: true, works: true, said: said.to_owned() }
    }

    pub(super) fn failed(from: &str, to: &str, said: String) -> Outcome {
        Outcome { from: from.to_owned(), to: to.to_owned(), wanted: true, works: false, said }
    }

    pub(super) fn holds(&self) -> bool {
        self.wanted == self.works
    }
}

#[derive(Clone, Debug)]
struct Pod {
    name: String,
    app: String,
    node: String,
    addresses: Vec<IpAddr>,
}

/// The pods, all ready, and how they are asked.
pub(super) struct Bed<'a> {
    kubectl: &'a Kubectl,
    namespace: String,
    pods: Vec<Pod>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn addresses(list: &Value, field: &str) -> Vec<IpAddr> {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| entry[field].as_str()?.parse().ok()).collect()
}

fn read(pod: &Value) -> Pod {
    Pod {
        name: text(&pod["metadata"]["name"]),
        app: text(&pod["metadata"]["labels"]["app"]),
        node: text(&pod["spec"]["nodeName"]),
        addresses: addresses(&pod["status"]["podIPs"], "ip"),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// An address and a port as a URL has them.
fn place(address: IpAddr, port: u16) -> String {
    format!("{}/", std::net::SocketAddr::new(address, port))
}

impl<'a> Bed<'a> {
    /// Waits for the pods; what is missing when time is up.
    pub(super) async fn ready(
        kubectl: &'a Kubectl,
        plan: &Plan<'_>,
        timeout: Duration,
    ) -> Result<Result<Bed<'a>, String>, Error> {
        let namespace = plan.namespace.to_owned();
        let end = Instant::now() + timeout;
        loop {
            let sets = kubectl.list(&["get", "daemonsets", "-n", &namespace]).await?;
            let count = |set: &Value, field: &str| set["status"][field].as_u64().unwrap_or(0);
            // A controller that has not looked yet wants none.
            let wanted: u64 = sets.iter().map(|set| count(set, "desiredNumberScheduled")).sum();
            let known = sets.iter().all(|set| count(set, "desiredNumberScheduled") > 0);
            let pods = kubectl.list(&["get", "pods", "-n", &namespace]).await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count() as u64;
            if known && ready == wanted + 1 {
                let pods = pods.iter().map(read).collect();
                return Ok(Ok(Bed { kubectl, namespace, pods }));
            }
            if Instant::now() > end {
                let missing = pods.iter().filter(|pod| !is_ready(pod)).map(|pod| {
                    format!(
                        "{} on {}",
                        text(&pod["metadata"]["name"]),
                        text(&pod["spec"]["nodeName"])
                    )
                });
                let missing: Vec<_> = missing.collect();
                return Ok(Err(format!(
                    "{ready} of {} are ready within {} s; missing: {}; `kubectl describe pod -n \
                     {namespace}` says why (with --keep)",
                    wanted + 1,
                    timeout.as_secs(),
                    missing.join(", ")
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub(super) fn pods(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn nodes(&self) -> usize {
        self.pods.iter().map(|pod| &pod.node).collect::<BTreeSet<_>>().len()
    }

    fn of<'b>(&'b self, app: &'b str) -> impl Iterator<Item = &'b Pod> {
        self.pods.iter().filter(move |pod| pod.app == app)
    }

    /// Lets a pod ask for pages.
    async fn ask(
        &self,
        pod: &Pod,
        targets: &[String],
        wanted: bool,
    ) -> Result<Vec<Outcome>, Error> {
        let mut arguments =
            vec!["exec", "-n", &self.namespace, &pod.name, "--", "sh", "-c", ASK, "sh"];
        arguments.extend(targets.iter().map(String::as_str));
        let output = self.kubectl.run(&arguments).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let from = format!("{} on {}", pod.name, pod.node);
        let outcome = |target: &String| {
            let of = |word: &str| {
                let start = format!("{word} {target}");
                let line = said.lines().find(|line| line.starts_with(&start))?;
                Some(line[start.len()..].trim().to_owned())
            };
            let (works, said) = match (of("ok"), of("no")) {
                (Some(answer), _) => (true, answer),
                (None, Some(reason)) => (false, reason),
                (None, None) => (false, String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            };
            let to = target.trim_end_matches('/').to_owned();
            Outcome { from: from.clone(), to, wanted, works, said }
        };
        Ok(targets.iter().map(outcome).collect())
    }

    async fn all_ask(&self, app: &str, targets: &[String]) -> Result<Vec<Outcome>, Error> {
        patiently(async || {
            let all = self.of(app).map(|pod| self.ask(pod, targets, true));
            try_join_all(all).await
        })
        .await
    }

    fn servers(&self) -> Vec<String> {
        self.servers_for(|_| true)
    }

    fn servers_for(&self, wanted: impl Fn(&IpAddr) -> bool) -> Vec<String> {
        let all = self.of("server").flat_map(|pod| &pod.addresses);
        all.filter(|address| wanted(address)).map(|address| place(*address, PORT)).collect()
    }

    pub(super) async fn pod_to_pod(&self) -> Result<Vec<Outcome>, Error> {
        self.all_ask("client", &self.servers()).await
    }

    async fn service(&self, name: &str) -> Result<Value, Error> {
        self.kubectl.json(&["get", "service", name, "-n", &self.namespace]).await
    }

    pub(super) async fn pod_to_service(&self) -> Result<Vec<Outcome>, Error> {
        let service = self.service("server").await?;
        let own = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
        let own = own.iter().filter_map(|address| address.as_str()?.parse().ok());
        let targets: Vec<String> = own.map(|address| place(address, 80)).collect();
        self.all_ask("client", &targets).await
    }

    pub(super) async fn pod_to_node_port(&self) -> Result<Vec<Outcome>, Error> {
        let service = self.service("server-node-port").await?;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64();
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else {
            let none = "the API server has given no node port".to_owned();
            return Ok(vec![Outcome::failed("", "server-node-port", none)]);
        };
        let used: BTreeSet<&String> = self.pods.iter().map(|pod| &pod.node).collect();
        let families: BTreeSet<String> = service["spec"]["ipFamilies"]
            .as_array()
            .map(|list| list.iter().map(text).collect())
            .unwrap_or_default();
        let nodes = self.kubectl.list(&["get", "nodes"]).await?;
        let mut targets = Vec::new();
        for node in nodes.iter().filter(|node| used.contains(&text(&node["metadata"]["name"]))) {
            let all = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
            let internal: Vec<Value> =
                all.into_iter().filter(|address| address["type"] == "InternalIP").collect();
            for address in addresses(&internal.into(), "address") {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                if families.is_empty() || families.contains(family) {
                    targets.push(place(address, port));
                }
            }
        }
        self.all_ask("client", &targets).await
    }

    /// A node of one family has no way to addresses of the other one.
    pub(super) async fn host_to_pod(&self) -> Result<Vec<Outcome>, Error> {
        patiently(async || {
            let all = self.of("host").map(|host| {
                let family =
                    |to: &IpAddr| host.addresses.iter().any(|a| a.is_ipv4() == to.is_ipv4());
                let targets = self.servers_for(family);
                async move { self.ask(host, &targets, true).await }
            });
            try_join_all(all).await
        })
        .await
    }

    /// Asks until exactly these pods reach the servers, or time is up.
    pub(super) async fn until(&self, allowed: &[&str]) -> Result<Vec<Outcome>, Error> {
        let servers = self.servers();
        patiently(async || {
            let (first, other) = (self.of("client").take(1), self.of("other"));
            let all = first.chain(other).map(|pod| {
                let wanted = allowed.contains(&pod.app.as_str());
                self.ask(pod, &servers, wanted)
            });
            try_join_all(all).await
        })
        .await
    }

    /// Looks a name up; none if the cluster serves no names.
    pub(super) async fn names(&self, domain: &str) -> Result<Option<Vec<Outcome>>, Error> {
        let name = format!("server.{}.svc.{domain}", self.namespace);
        let look = |pod: &Pod| {
            let pod = pod.clone();
            let name = name.clone();
            async move {
                let script = "nslookup \"$1\" 2>&1";
                let arguments = [
                    "exec",
                    "-n",
                    &self.namespace,
                    &pod.name,
                    "--",
                    "sh",
                    "-c",
                    script,
                    "sh",
                    &name,
                ];
                let output = self.kubectl.run(&arguments).await?;
                let said = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
                Ok::<_, Error>(Outcome {
                    from: format!("{} on {}", pod.name, pod.node),
                    to: name,
                    wanted: true,
                    works: output.status.success(),
                    said: said.trim().to_owned(),
                })
            }
        };
        let outcomes: Vec<Outcome> = try_join_all(self.of("client").map(look)).await?;
        let served = ["get", "service", "kube-dns", "-n", "kube-system"];
        let nobody = outcomes.iter().all(|outcome| !outcome.works);
        if nobody && self.kubectl.find(&served).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(outcomes))
    }

    pub(super) async fn outside(&self, url: &str) -> Result<Vec<Outcome>, Error> {
        let target = url.trim_start_matches("http://").to_owned();
        self.all_ask("client", &[target]).await
    }
}

/// Asks until everything is as it is to be, or time is up; gives what came of it last.
async fn patiently(
    ask: impl AsyncFn() -> Result<Vec<Vec<Outcome>>, Error>,
) -> Result<Vec<Outcome>, Error> {
    let end = Instant::now() + IN_FORCE;
    loop {
        let outcomes: Vec<Outcome> = ask().await?.into_iter().flatten().collect();
        if outcomes.iter().all(Outcome::holds) || Instant::now() > end {
            return Ok(outcomes);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

//! The port API's calls about pods: ports that an orchestrator made, found at a controller.

use crate::node::Node;
use crate::port_service::{PortService, Refusal, Reply, addresses, read};
use crate::port_times::Step;
use crate::ports::{PodPlace, PortRecord};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use skein_cni::pod_api::{Pod, PodKey, PodPort, PreparePod};
use skein_cni::port_api::{PortKey, Released};
use skein_proto::ports::ports_client::PortsClient;
use skein_proto::ports::{FindReply, FindRequest};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::Code;

/// How long a controller waits for the orchestrator: a runtime repeats ADD, so a first answer with the reason is
/// worth more than a long silence. The plugin itself gives up after 30 s.
pub(crate) const FIND_WAIT: Duration = Duration::from_secs(20);
/// Pause between two looks for a controller while none is connected.
const FIND_PAUSE: Duration = Duration::from_millis(100);
/// What the answer may take on top.
const FIND_SLACK: Duration = Duration::from_secs(3);

/// Why there is no answer.
enum Unanswered {
    /// No controller could be asked; one may be back soon.
    Away(Refusal),
    /// One was asked, and asking again changes nothing.
    Refused(Refusal),
}

/// Calls about one sandbox run one after the other; no interface has an empty name.
fn lock_key(container: &str) -> PortKey {
    PortKey { container: container.to_owned(), interface: String::new() }
}

impl PortService {
    /// Asks the controllers, and waits for one to come back: when it starts again, pods that start meanwhile
    /// should not have to wait for the runtime's next try.
    pub(crate) async fn find(
        &self,
        prepare: &PreparePod,
        wait: Duration,
    ) -> Result<FindReply, Refusal> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.find_once(prepare, left).await {
                Err(Unanswered::Away(_)) if left > FIND_PAUSE => {
                    tokio::time::sleep(FIND_PAUSE).await;
                }
                Err(Unanswered::Away(refusal) | Unanswered::Refused(refusal)) => {
                    return Err(refusal);
                }
                Ok(found) => return Ok(found),
            }
        }
    }

    async fn find_once(
        &self,
        prepare: &PreparePod,
        wait: Duration,
    ) -> Result<FindReply, Unanswered> {
        let request = FindRequest {
            machine: prepare.machine.clone().unwrap_or_default(),
            machine_name: prepare.machine_name.clone(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let away = |message: String| {
            let hint = "see that a controller runs and `skein status` shows this node connected";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true)
        };
        // All at once: they know the same, and one may be silent.
        let mut asked = tokio::task::JoinSet::new();
        for channel in self.channels.connected() {
            let request = request.clone();
            asked.spawn(async move {
                let mut client = PortsClient::new(channel);
                match tokio::time::timeout(wait + FIND_SLACK, client.find(request)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(tonic::Status::deadline_exceeded(
                        "the controller did not answer in time",
                    )),
                }
            });
        }
        let mut last = Unanswered::Away(away(
            "no controller is connected: a new pod's ports cannot be found".into(),
        ));
        while let Some(answer) = asked.join_next().await {
            let status = match answer {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::unavailable("the agent is stopping"),
            };
            match status.code() {
                // It waited, and this is what was missing to the end.
                Code::NotFound => {
                    let message = format!("{} ({} s waited)", status.message(), wait.as_secs());
                    let hint = "see the log of kube-manager and `skein get virtual-machine`; \
                                the call may be repeated";
                    let refusal =
                        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true);
                    last = Unanswered::Refused(refusal);
                }
                Code::Aborted => {
                    let hint = "it needs no network any more";
                    let refusal =
                        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, status.message(), hint, true);
                    return Err(Unanswered::Refused(refusal));
                }
                Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => {
                    let hint = "are plugin, agent and controller of the same release?";
                    let refusal = Refusal::new(StatusCode::CONFLICT, status.message(), hint, false);
                    return Err(Unanswered::Refused(refusal));
                }
                // What one found missing says more than that another is away.
                _ if matches!(last, Unanswered::Refused(_)) => {}
                _ => last = Unanswered::Away(away(status.message().to_owned())),
            }
        }
        Err(last)
    }
}

pub(crate) async fn prepare(State(service): State<PortService>, body: Bytes) -> Reply<Pod> {
    let prepare: PreparePod = read(&body)?;
    let _guard = service.locks.lock(&lock_key(&prepare.container)).await;
    let container = prepare.container.clone();
    let known = service.node.ask(move |node| describe(node, &container)).await;
    if let Some(pod) = known.ok_or_else(Refusal::stopping)? {
        return Ok(axum::Json(pod));
    }
    let asked = Instant::now();
    let found = service.find(&prepare, FIND_WAIT).await?;
    let took = asked.elapsed();
    let records = records(&prepare, &found).map_err(|what| {
        let message = format!("the pod's ports are not usable: {what}");
        let hint = "correct the pod's annotations, or what its orchestrator made of them";
        Refusal::new(StatusCode::CONFLICT, message, hint, false)
    })?;
    let container = prepare.container;
    let registered = service.node.ask(move |node| {
        node.times.took(Step::Objects, took);
        node.register(records);
        describe(node, &container)
    });
    registered.await.flatten().map(axum::Json).ok_or_else(Refusal::stopping)
}

fn records(prepare: &PreparePod, found: &FindReply) -> Result<Vec<PortRecord>, String> {
    let mut names = BTreeSet::new();
    let mut records = Vec::new();
    for (nth, port) in found.ports.iter().enumerate() {
        let interface = match (port.device.as_str(), nth) {
            ("", 0) => prepare.interface.clone(),
            ("", nth) => format!("eth{nth}"),
            (device, _) => device.to_owned(),
        };
        if interface.len() > 15 || interface.contains(['/', ':', ' ']) {
            return Err(format!("`{interface}` is no usable interface name"));
        }
        if !names.insert(interface.clone()) {
            return Err(format!("two of its interfaces are to be called {interface}"));
        }
        if port.vlan != 0 {
            return Err(format!("{interface} is a VLAN sub-interface of another machine's port"));
        }
        records.push(PortRecord {
            key: PortKey { container: prepare.container.clone(), interface },
            uuid: port.interface.parse().map_err(|_| format!("interface `{}`", port.interface))?,
            config: prepare.config.clone(),
            network: port.network.clone(),
            workload: prepare.workload.clone(),
            mac: port.mac.clone(),
            addresses: addresses(&port.addresses)?,
            ifindex: None,
            mtu: 0,
            pod: Some(PodPlace { index: port.index, default_route: port.default_route }),
            underlay: port.underlay,
        });
    }
    if records.is_empty() {
        return Err("it has none".into());
    }
    Ok(records)
}

fn describe(node: &mut Node, container: &str) -> Option<Pod> {
    let limits = node.link_limits();
    let ports: Vec<PodPort> = node
        .pod(container)
        .into_iter()
        .map(|(place, record)| PodPort {
            port: record.port(limits, node.problem(&record).is_none()),
            default_route: place.default_route,
            nested: None,
        })
        .collect();
    (!ports.is_empty()).then_some(Pod { ports })
}

pub(crate) async fn release(State(service): State<PortService>, body: Bytes) -> Reply<Released> {
    let PodKey { container } = read(&body)?;
    let _guard = service.locks.lock(&lock_key(&container)).await;
    let released = service.node.ask(move |node| {
        let limits = node.link_limits();
        node.release_pod(&container).iter().map(|record| record.port(limits, false)).collect()
    });
    released.await.map(|ports| axum::Json(Released { ports })).ok_or_else(Refusal::stopping)
}

pub(crate) async fn check(State(service): State<PortService>, body: Bytes) -> Reply<Pod> {
    let PodKey { container } = read(&body)?;
    let wanted = container.clone();
    let state = service.node.ask(move |node| {
        let problem = node
            .pod(&wanted)
            .into_iter()
            .find_map(|(_, record)| Some((record.key.interface.clone(), node.problem(&record)?)));
        (describe(node, &wanted), problem)
    });
    match state.await.ok_or_else(Refusal::stopping)? {
        (Some(pod), None) => Ok(axum::Json(pod)),
        (Some(_), Some((interface, problem))) => {
            let message = format!("{interface} does not forward: {problem}");
            Err(Refusal::new(
                StatusCode::CONFLICT,
                message,
                "see `skein vrouter interfaces`",
                false,
            ))
        }
        (None, _) => {
            let message = format!("no ports of container {container}");
            Err(Refusal::new(StatusCode::NOT_FOUND, message, "call CNI ADD first", false))
        }
    }
}

/// Removes the host ends of ports that the plugin released while no agent ran: it did not know them all.
pub(crate) fn remove_links(records: &[PortRecord]) {
    if records.is_empty() {
        return;
    }
    let mut links = match skein_cni::links::Links::open() {
        Ok(links) => links,
        Err(error) => {
            tracing::warn!(%error, "host interfaces of released pods stay");
            return;
        }
    };
    for record in records {
        let name = record.host_interface();
        if let Err(error) = links.delete(&name) {
            tracing::warn!(interface = name, %error, "a released pod's host interface stays");
        }
    }
}

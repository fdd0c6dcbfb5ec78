//! Makes and removes the configuration objects of workloads that no orchestrator announced.
//!
//! Everything here goes through the public configuration API. Uuids are made from the container and
//! interface names, so a call may be repeated, by any controller, and finds what an earlier one
//! made.

use crate::service::{Shared, peer_name};
use serde_json::{Value, json};
use skein_client::{Client, ClientError};
use skein_model::views::{InstanceIp, VirtualMachineInterface};
use skein_model::{FqName, Kind, Object};
use skein_proto::ports::ports_server::Ports;
use skein_proto::ports::{
    EnsureReply, EnsureRequest, FindReply, FindRequest, ReleaseReply, ReleaseRequest,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use tracing::info;
use uuid::Uuid;

/// Names the space of workload uuids.
const WORKLOAD_SPACE: Uuid = Uuid::from_u128(0x2f6c_63a2_53f1_5f0e_9a2b_0d4e_7b1c_84f6);

/// How long a new object may take to come back by watch.
const WATCH_LIMIT: Duration = Duration::from_secs(5);

/// The port service.
pub(crate) struct PortService {
    pub(crate) client: Client,
    pub(crate) shared: Arc<Shared>,
}

fn status(error: &ClientError) -> Status {
    let text = error.to_string();
    match error.status() {
        Some(404) => Status::not_found(text),
        Some(400) => Status::invalid_argument(text),
        Some(403) => Status::permission_denied(text),
        Some(409) => Status::already_exists(text),
        Some(412) => Status::resource_exhausted(text),
        None | Some(502..=504) => Status::unavailable(text),
        Some(_) => Status::internal(text),
    }
}

/// What a request asks for, checked.
struct Wanted {
    network: Arc<Object>,
    machine: Uuid,
    port: Uuid,
    addresses: Vec<IpAddr>,
    groups: Vec<FqName>,
}

#[tonic::async_trait]
impl Ports for PortService {
    async fn ensure(
        &self,
        request: Request<EnsureRequest>,
    ) -> Result<Response<EnsureReply>, Status> {
        let node = peer_name(&request)?;
        let request = request.into_inner();
        let wanted = self.check(&request)?;
        if let Some(reply) = self.ready(&wanted) {
            return Ok(Response::new(reply));
        }
        self.make(&request, &wanted, &node).await?;
        let reply = self.wait_ready(&wanted).await?;
        info!(node, port = %wanted.port, network = %wanted.network.fq_name, "port made");
        Ok(Response::new(reply))
    }

    async fn find(&self, request: Request<FindRequest>) -> Result<Response<FindReply>, Status> {
        let node = peer_name(&request)?;
        let reply = crate::find::wait(&self.shared, &node, &request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseReply>, Status> {
        let node = peer_name(&request)?;
        let request = request.into_inner();
        if request.container_id.is_empty() || request.interface_name.is_empty() {
            return Err(Status::invalid_argument("container_id and interface_name are needed"));
        }
        let (machine, port) = uuids(&request.container_id, &request.interface_name);
        self.remove(machine, port, &node).await?;
        info!(node, %port, "port removed");
        Ok(Response::new(ReleaseReply {}))
    }
}

impl PortService {
    /// Checks a request against the configuration as this controller knows it.
    fn check(&self, request: &EnsureRequest) -> Result<Wanted, Status> {
        let name = FqName::parse(&request.network);
        let network = self
            .shared
            .read(|core| core.engine().graph().by_name(Kind::VIRTUAL_NETWORK, &name).cloned())
            .ok_or_else(|| {
                Status::not_found(format!(
                    "no virtual-network {name}; list them with `skein get virtual-network`"
                ))
            })?;
        if request.container_id.is_empty() || request.interface_name.is_empty() {
            return Err(Status::invalid_argument("container_id and interface_name are needed"));
        }
        let addresses = request
            .addresses
            .iter()
            .map(|text| {
                let bare = text.split('/').next().unwrap_or_default();
                bare.parse()
                    .map_err(|_| Status::invalid_argument(format!("{text:?} is no IP address")))
            })
            .collect::<Result<Vec<IpAddr>, Status>>()?;
        let (machine, port) = uuids(&request.container_id, &request.interface_name);
        let groups = request.security_groups.iter().map(|text| FqName::parse(text)).collect();
        Ok(Wanted { network, machine, port, addresses, groups })
    }

    /// The answer, once the compiler has the port with an address of every family.
    fn ready(&self, wanted: &Wanted) -> Option<EnsureReply> {
        self.shared.read(|core| {
            let port = core.interface(wanted.port)?;
            let families = families(core.engine().vrf(wanted.network.uuid)?);
            let complete = if wanted.addresses.is_empty() {
                families
                    .iter()
                    .all(|v6| port.addresses.iter().any(|a| a.prefix.addr().is_ipv6() == *v6))
            } else {
                wanted
                    .addresses
                    .iter()
                    .all(|w| port.addresses.iter().any(|a| a.prefix.addr() == *w))
            };
            complete.then(|| EnsureReply {
                interface: wanted.port.to_string(),
                mac: port.mac.clone(),
                addresses: crate::find::addresses(port),
                vrf: port.vrf.clone(),
                underlay: core.engine().vrf(port.network).is_some_and(|vrf| vrf.underlay),
            })
        })
    }

    /// Waits until the watch has brought back what was written.
    async fn wait_ready(&self, wanted: &Wanted) -> Result<EnsureReply, Status> {
        let mut news = self.shared.news();
        let wait = async {
            loop {
                news.mark_unchanged();
                if let Some(reply) = self.ready(wanted) {
                    return Ok(reply);
                }
                if news.changed().await.is_err() {
                    return Err(Status::unavailable("the controller is stopping"));
                }
            }
        };
        tokio::time::timeout(WATCH_LIMIT, wait).await.unwrap_or_else(|_| {
            Err(Status::unavailable(
                "the port was written but has not come back from the configuration API; \
                 is its watch connected?",
            ))
        })
    }

    async fn make(
        &self,
        request: &EnsureRequest,
        wanted: &Wanted,
        node: &str,
    ) -> Result<(), Status> {
        let label =
            if request.workload.is_empty() { &request.container_id } else { &request.workload };
        let machine = json!({
            "uuid": wanted.machine,
            "fq_name": [format!("{}-{}", request.container_id, &wanted.machine.to_string()[..8])],
            "display_name": label,
            // A machine has no bindings; its maker has to find it when the port is gone already.
            "annotations": {"key_value_pair": [{"key": "skein.io/node", "value": node}]},
        });
        self.create_once(Kind::VIRTUAL_MACHINE, wanted.machine, machine).await?;

        let Some(project) = wanted.network.fq_name.parent() else {
            return Err(Status::internal("a virtual-network without a project"));
        };
        let mut port = json!({
            "uuid": wanted.port,
            "fq_name": project.child(&wanted.port.to_string()),
            "parent_type": "project",
            "display_name": format!("{label}/{}", request.interface_name),
            "virtual_network_refs": [{"to": wanted.network.fq_name}],
            "virtual_machine_refs": [{"uuid": wanted.machine}],
            "virtual_machine_interface_device_owner": "skein:cni",
            // Bound to the node that asked: no other node may have it.
            "virtual_machine_interface_bindings": {"key_value_pair": [
                {"key": "host_id", "value": node},
                {"key": "vif_type", "value": "vrouter"},
            ]},
        });
        if !request.mac.is_empty() {
            port["virtual_machine_interface_mac_addresses"] = json!({"mac_address": [request.mac]});
        }
        if !wanted.groups.is_empty() {
            let groups: Vec<Value> = wanted.groups.iter().map(|g| json!({"to": g})).collect();
            port["security_group_refs"] = Value::Array(groups);
        }
        self.create_once(Kind::VIRTUAL_MACHINE_INTERFACE, wanted.port, port).await?;
        self.make_addresses(wanted).await
    }

    async fn make_addresses(&self, wanted: &Wanted) -> Result<(), Status> {
        let families = self.shared.read(|core| {
            core.engine().vrf(wanted.network.uuid).map(|vrf| families(vrf)).unwrap_or_default()
        });
        let mut bodies = Vec::new();
        for address in &wanted.addresses {
            bodies.push((address.to_string(), address.is_ipv6(), Some(address.to_string())));
        }
        if wanted.addresses.is_empty() {
            for v6 in families {
                bodies.push((if v6 { "v6" } else { "v4" }.to_owned(), v6, None));
            }
        }
        let calls = bodies.into_iter().map(|(suffix, v6, address)| {
            let uuid = Uuid::new_v5(&wanted.port, suffix.as_bytes());
            let mut body = json!({
                "uuid": uuid,
                "fq_name": [format!("{}-{suffix}", wanted.port)],
                "instance_ip_family": if v6 { "v6" } else { "v4" },
                "virtual_network_refs": [{"to": wanted.network.fq_name}],
                "virtual_machine_interface_refs": [{"uuid": wanted.port}],
            });
            if let Some(address) = address {
                body["instance_ip_address"] = json!(address);
            }
            self.create_once(Kind::INSTANCE_IP, uuid, body)
        });
        futures_util::future::try_join_all(calls).await?;
        Ok(())
    }

    /// Creates an object unless one with its uuid is there.
    async fn create_once(&self, kind: Kind, uuid: Uuid, fields: Value) -> Result<(), Status> {
        match self.client.create(kind, fields).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => {
                // Either an earlier call made it, or something else is in the way.
                self.client.get(kind, uuid).await.map(|_| ()).map_err(|_| status(&error))
            }
            Err(error) => Err(status(&error)),
        }
    }

    async fn delete_once(&self, kind: Kind, uuid: Uuid) -> Result<(), Status> {
        match self.client.delete(kind, uuid).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(status(&error)),
        }
    }

    /// Removes what [`Ports::ensure`] made, or has left of it: the addresses, the port, the machine.
    /// Either call may have been cut short by the end of the controller, so no object's absence says
    /// anything about the next one.
    async fn remove(&self, machine: Uuid, uuid: Uuid, node: &str) -> Result<(), Status> {
        self.may_remove(machine, node).await?;
        match self.client.get(Kind::VIRTUAL_MACHINE_INTERFACE, uuid).await {
            Ok(port) => {
                if !self.remove_port(&port).await? {
                    return Ok(());
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(status(&error)),
        }
        match self.delete_once(Kind::VIRTUAL_MACHINE, machine).await {
            // Another port of the same workload still refers to it.
            Err(refused) if refused.code() == tonic::Code::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes a port with its addresses; false when an orchestrator made it and it is not ours to remove.
    async fn remove_port(&self, port: &Object) -> Result<bool, Status> {
        let uuid = port.uuid;
        let owner = VirtualMachineInterface::of(port)
            .and_then(VirtualMachineInterface::virtual_machine_interface_device_owner);
        if owner.as_deref() != Some("skein:cni") {
            return Ok(false);
        }
        let options = skein_client::ListOptions {
            back_references: vec![uuid],
            ..skein_client::ListOptions::default()
        };
        let addresses =
            self.client.list(Kind::INSTANCE_IP, &options).await.map_err(|e| status(&e))?;
        let calls = addresses
            .iter()
            .filter(|a| InstanceIp::of(a).is_some())
            .map(|address| self.remove_address(address, uuid));
        futures_util::future::try_join_all(calls).await?;
        // Somebody may have led a floating IP here, which is theirs to keep: it only loses the port that goes.
        let floating =
            self.client.list(Kind::FLOATING_IP, &options).await.map_err(|e| status(&e))?;
        let calls = floating.iter().map(|ip| self.let_go(ip, uuid));
        futures_util::future::try_join_all(calls).await?;
        self.delete_once(Kind::VIRTUAL_MACHINE_INTERFACE, uuid).await?;
        Ok(true)
    }

    /// Removes an address that goes with a port; one that other ports share loses this port only.
    async fn remove_address(&self, address: &Object, port: Uuid) -> Result<(), Status> {
        let mut ports = address.references_to(Kind::VIRTUAL_MACHINE_INTERFACE);
        if ports.all(|reference| reference.uuid == port) {
            return self.delete_once(Kind::INSTANCE_IP, address.uuid).await;
        }
        self.let_go(address, port).await
    }

    /// Takes a port out of what refers to it.
    async fn let_go(&self, holder: &Object, port: Uuid) -> Result<(), Status> {
        let change = skein_client::ReferenceChange {
            kind: holder.kind,
            uuid: holder.uuid,
            target_kind: Kind::VIRTUAL_MACHINE_INTERFACE,
            target: port,
            attr: Value::Null,
        };
        match self.client.reference_delete(&change).await {
            Err(error) if !error.is_not_found() => Err(status(&error)),
            _ => Ok(()),
        }
    }

    /// A node may only remove ports that it made. The API is asked: what the watch has not brought yet counts.
    async fn may_remove(&self, machine: Uuid, node: &str) -> Result<(), Status> {
        let machine = match self.client.get(Kind::VIRTUAL_MACHINE, machine).await {
            Ok(machine) => machine,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(status(&error)),
        };
        let pairs: Option<skein_model::values::KeyValuePairs> = machine.property("annotations");
        let mut pairs = pairs.unwrap_or_default().key_value_pair.into_iter();
        let maker = pairs.find(|p| p.key.as_deref() == Some("skein.io/node")).and_then(|p| p.value);
        match maker {
            Some(maker) if maker != node => Err(Status::permission_denied(format!(
                "the port belongs to node {maker}, not to {node}"
            ))),
            _ => Ok(()),
        }
    }
}

/// The machine and the port of a workload's interface.
fn uuids(container: &str, interface: &str) -> (Uuid, Uuid) {
    let machine = Uuid::new_v5(&WORKLOAD_SPACE, container.as_bytes());
    (machine, Uuid::new_v5(&machine, interface.as_bytes()))
}

/// Families that a network has subnets of; true means IPv6.
fn families(vrf: &skein_compiler::Vrf) -> Vec<bool> {
    let mut out: Vec<bool> = vrf.subnets.iter().map(|s| s.prefix.addr().is_ipv6()).collect();
    out.sort_unstable();
    out.dedup();
    out
}

//! The six commands.

use crate::link::{self, ContainerNamespace, Wanted};
use crate::netlink::Netlink;
use crate::port_api::{Bind, Gc, Port, PortKey, Prepare, Released};
use crate::reply::Made;
use crate::{
    AgentClient, Attachment, Code, Command, Error, NetworkConfig, Request, Tombstone,
    host_interface_name, nested, pod, reply,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// Runs a call. ADD and VERSION have an answer.
///
/// # Errors
/// The CNI error to answer with. A failed ADD has left nothing behind.
pub fn execute(request: &Request) -> Result<Option<Value>, Error> {
    let config = &request.config;
    match &request.command {
        Command::Add(attachment) => add(config, attachment).map(Some),
        Command::Del(attachment) => del(config, attachment).map(|()| None),
        Command::Check(attachment) => check(config, attachment).map(|()| None),
        Command::Status => status(config).map(|()| None),
        Command::Version => Ok(Some(reply::version(config))),
        Command::Gc => gc(config).map(|()| None),
    }
}

fn key(attachment: &Attachment) -> PortKey {
    PortKey { container: attachment.container.clone(), interface: attachment.interface.clone() }
}

fn namespace(attachment: &Attachment) -> Result<(ContainerNamespace, &Path), Error> {
    let path = attachment.netns.as_deref().unwrap_or(Path::new(""));
    let opened = ContainerNamespace::open(path)?.ok_or_else(|| {
        Error::new(
            Code::UnknownContainer,
            format!("the network namespace {} does not exist", path.display()),
            "the container has ended, or CNI_NETNS is wrong",
        )
    })?;
    Ok((opened, path))
}

fn add(config: &NetworkConfig, attachment: &Attachment) -> Result<Value, Error> {
    let (namespace, path) = namespace(attachment)?;
    let mut host = link::open_netlink()?;
    if let Some(inside) = config.nested()? {
        return nested::add(config, &inside, attachment, &namespace, path, &mut host);
    }
    let agent = AgentClient::new(&config.agent);
    if config.is_kubernetes() {
        return pod::add(config, attachment, &namespace, path, &mut host, &agent);
    }
    let prepare = Prepare {
        key: key(attachment),
        config: config.name.clone(),
        network: config.network.clone(),
        workload: attachment.arguments.workload(),
        addresses: config.wanted_addresses()?,
        mac: config.wanted_mac()?,
        security_groups: config.security_groups.clone(),
    };
    let port: Port = agent.post("/v1/ports/prepare", &prepare)?;
    let gateways = reply::default_routes(config, &port);
    let made = connect(config, &port, (gateways.clone(), false), &namespace, &mut host, &agent);
    if made.is_err() && !port.active {
        // Best effort: the runtime sends DEL after a failed ADD, which does the same again.
        let _ = agent.post::<Released>("/v1/ports/release", &prepare.key);
        let _ = link::delete(&mut host, &port.host_interface);
    }
    let (port, host_mac, mtu) = made?;
    Ok(reply::add(config, &[Made { port: &port, host_mac, mtu, gateways }], path))
}

/// Makes one interface and waits until its policy is in force. Gives the port, the MAC address of the host end
/// and the MTU. This process is in the container's namespace afterwards.
pub(crate) fn connect(
    config: &NetworkConfig,
    port: &Port,
    (gateways, several): (Vec<IpAddr>, bool),
    namespace: &ContainerNamespace,
    host: &mut Netlink,
    agent: &AgentClient,
) -> Result<(Port, String, u32), Error> {
    let mac = link::parse_mac(&port.mac).ok_or_else(|| {
        let message = format!("the agent gave `{}` as MAC address", port.mac);
        Error::new(Code::Refused, message, "see the virtual-machine-interface's MAC address")
    })?;
    let wanted = Wanted {
        host_name: &port.host_interface,
        name: &port.key.interface,
        mac,
        mtu: config.mtu.unwrap_or(port.mtu).min(port.mtu),
        super_packet: port.super_packet,
        addresses: port.addresses.iter().map(|a| (a.prefix, a.gateway)).collect(),
        gateways,
        several,
    };
    let fresh = link::create(host, namespace, &wanted)?;
    let mut container = namespace.enter()?;
    let inside = match link::find(&mut container, wanted.name)? {
        // A repeated ADD finds its own pair; a pair whose far end is elsewhere belongs to a
        // sandbox of an earlier life.
        Some(found) if fresh || found.mac == port.mac => found,
        _ if fresh => return Err(vanished(wanted.name)),
        _ => {
            link::delete(host, wanted.host_name)?;
            link::create(host, namespace, &wanted)?;
            link::find(&mut container, wanted.name)?.ok_or_else(|| vanished(wanted.name))?
        }
    };
    link::configure(&mut container, inside.index, &wanted)?;
    let outside = link::find(host, wanted.host_name)?.ok_or_else(|| vanished(wanted.host_name))?;
    let bind = Bind { key: port.key.clone(), ifindex: outside.index, mtu: wanted.mtu };
    let mtu = wanted.mtu;
    let port: Port = agent.post("/v1/ports/bind", &bind)?;
    Ok((port, outside.mac, mtu))
}

fn vanished(name: &str) -> Error {
    Error::new(
        Code::TryAgain,
        format!("the interface {name} vanished while it was being set up"),
        "the container is probably ending; otherwise repeat the call",
    )
}

fn del(config: &NetworkConfig, attachment: &Attachment) -> Result<(), Error> {
    // The lock orders DEL after an ADD that is still running; a missing namespace needs none.
    let lock = match attachment.netns.as_deref() {
        Some(path) => ContainerNamespace::open(path)?,
        None => None,
    };
    if config.nested()?.is_some() {
        return nested::del(config, attachment, lock.as_ref());
    }
    if config.is_kubernetes() {
        return pod::del(config, attachment);
    }
    let key = key(attachment);
    let name = host_interface_name(&key.container, &key.interface);
    // The agent first: it takes the routes back before packets would fall into a hole.
    let told = AgentClient::new(&config.agent).post::<Released>("/v1/ports/release", &key);
    link::delete(&mut link::open_netlink()?, &name)?;
    match told {
        Ok(_) => Ok(()),
        Err(error) if error.code == Code::TryAgain => Tombstone::leave(&config.agent, &key),
        Err(error) => Err(error),
    }
}

fn check(config: &NetworkConfig, attachment: &Attachment) -> Result<(), Error> {
    let Some(previous) = &config.prev_result else {
        return Err(Error::new(
            Code::InvalidConfig,
            "CHECK needs `prevResult`",
            "the runtime passes the result of ADD; set disableCheck if it cannot",
        ));
    };
    let (namespace, _) = namespace(attachment)?;
    let mut host = link::open_netlink()?;
    if let Some(inside) = config.nested()? {
        let ports = nested::ports(config, &inside, attachment)?;
        let mut container = namespace.enter()?;
        return ports.iter().try_for_each(|one| {
            check_inside(config, &one.port, one.default_route, previous, &mut container)
        });
    }
    let agent = AgentClient::new(&config.agent);
    let ports = if config.is_kubernetes() {
        pod::ports(attachment, &agent)?
    } else {
        let port: Port = agent.post("/v1/ports/check", &key(attachment))?;
        vec![(port, config.default_route)]
    };
    for (port, _) in &ports {
        match link::find(&mut host, &port.host_interface)? {
            Some(found) if found.up => {}
            Some(_) => {
                return failed(format!("the host interface {} is down", port.host_interface));
            }
            None => return failed(format!("the host interface {} is gone", port.host_interface)),
        }
    }
    let mut container = namespace.enter()?;
    for (port, default_route) in &ports {
        check_inside(config, port, *default_route, previous, &mut container)?;
    }
    Ok(())
}

fn failed(what: String) -> Result<(), Error> {
    Err(Error::new(Code::CheckFailed, what, "delete the container and start it anew"))
}

/// The container's end of one interface, against what ADD reported.
fn check_inside(
    config: &NetworkConfig,
    port: &Port,
    default_route: bool,
    previous: &Value,
    container: &mut Netlink,
) -> Result<(), Error> {
    let name = &port.key.interface;
    let Some(found) = link::find(container, name)? else {
        return failed(format!("the container has no interface {name}"));
    };
    if !found.up {
        return failed(format!("the container's interface {name} is down"));
    }
    let interfaces = previous["interfaces"].as_array().into_iter().flatten();
    let reported = interfaces.enumerate().find(|(_, interface)| {
        interface["name"] == json!(name)
            && interface["sandbox"].as_str().is_some_and(|s| !s.is_empty())
    });
    let reported_mac = reported.and_then(|(_, interface)| interface["mac"].as_str());
    if found.mac != port.mac
        || reported_mac.is_some_and(|mac| !mac.eq_ignore_ascii_case(&found.mac))
    {
        return failed(format!("{name} has the MAC {}, not {}", found.mac, port.mac));
    }
    let present: BTreeSet<String> =
        link::addresses(container, found.index)?.iter().map(ToString::to_string).collect();
    let expected = previous["ips"].as_array().into_iter().flatten();
    let expected = expected
        .filter(|ip| reported.is_none_or(|(index, _)| ip["interface"] == json!(index)))
        .filter_map(|ip| ip["address"].as_str().map(str::to_owned));
    for address in expected.chain(port.addresses.iter().map(|address| address.prefix.to_string())) {
        if !present.contains(&address) {
            return failed(format!("{name} has lost the address {address}"));
        }
    }
    if default_route {
        let gateways = link::default_gateways(container, found.index)?;
        for gateway in reply::default_routes(config, port) {
            if !gateways.contains(&gateway) {
                return failed(format!("the container has lost its default route via {gateway}"));
            }
        }
    }
    Ok(())
}

fn status(config: &NetworkConfig) -> Result<(), Error> {
    let agent = match config.nested()? {
        Some(inside) => AgentClient::behind(inside.vrouter),
        None => AgentClient::new(&config.agent),
    };
    let answer = agent.get::<Value>("/v1/ports/status");
    answer.map(|_| ()).map_err(|error| Error { code: Code::NotAvailable, ..error })
}

fn gc(config: &NetworkConfig) -> Result<(), Error> {
    let Some(valid) = &config.valid_attachments else {
        return Err(Error::new(
            Code::InvalidConfig,
            "GC needs `cni.dev/valid-attachments`",
            "without it everything would be freed; an empty list says that on purpose",
        ));
    };
    if config.nested()?.is_some() {
        let keep: Vec<&str> = valid.iter().map(|one| one.container.as_str()).collect();
        return nested::gc(config, &keep);
    }
    let keep = valid
        .iter()
        .map(|one| PortKey { container: one.container.clone(), interface: one.interface.clone() });
    let request = Gc { config: config.name.clone(), keep: keep.collect() };
    let released: Released = AgentClient::new(&config.agent).post("/v1/ports/gc", &request)?;
    let mut host = link::open_netlink()?;
    let mut first = Ok(());
    for port in &released.ports {
        // Teardown goes on after an error and reports the first.
        first = first.and(link::delete(&mut host, &port.host_interface));
    }
    first
}

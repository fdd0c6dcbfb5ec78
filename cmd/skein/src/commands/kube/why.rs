//! `kubectl skein why`: [`crate::commands::why`] with the names of Kubernetes.

use super::Cluster;
use super::pods::{self, Named};
use super::reach::Reach;
use crate::cli::{Global, Output};
use crate::commands::why::{self, Question, Target};
use crate::error::Error;
use clap::Args;
use std::net::IpAddr;

/// Arguments of `skein kube why`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl skein why shop/client-1 shop/web-1:80
  kubectl skein why client-1 svc/dns:53/udp -n shop
  kubectl skein why client-1 198.51.100.7:443
  kubectl skein why client-1 web-1/icmp

Exit code: 0 it passes; 1 it does not, or a node has something else in force.")]
pub(crate) struct Arguments {
    /// Pod that opens the connection: POD or NAMESPACE/POD
    from: String,
    /// Who is asked: POD:PORT[/PROTOCOL], svc/SERVICE:PORT or ADDRESS:PORT; ports by number or name
    to: String,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(
    global: &Global,
    cluster: &Cluster,
    arguments: &Arguments,
) -> Result<(), Error> {
    let kubectl = cluster.kubectl();
    let source = Named::parse(&arguments.from)?;
    if source.is_service {
        return Err(Error::usage("a service opens no connections", "name a pod"));
    }
    let mut target = Target::parse(&arguments.to)?;
    let source = source.get(cluster, &kubectl).await?;
    let to = match target.name.parse::<IpAddr>() {
        Ok(_) => target.name.clone(),
        Err(_) => {
            let named = Named::parse(&target.name)?;
            let object = named.get(cluster, &kubectl).await?;
            if let Some(port) = &target.port {
                target.port = Some(pods::port_number(&object, port, &target.protocol)?);
            }
            if named.is_service { service_address(&object)? } else { pods::machine(&object)? }
        }
    };
    let reach = Reach::open(global, cluster, &kubectl).await?;
    let titles = (pods::title(&source), arguments.to.clone());
    let question = Question { from: pods::machine(&source)?, to, target };
    why::ask(&reach.controller, global.screen(), arguments.output.format, &question, titles).await
}

fn service_address(service: &serde_json::Value) -> Result<String, Error> {
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    if address.parse::<IpAddr>().is_ok() {
        return Ok(address.to_owned());
    }
    Err(Error::usage(
        format!("service {} has no address of its own", pods::title(service)),
        "it is headless or external: name a pod or an address behind it",
    ))
}

//! `kubectl skein policy explain`: [`crate::commands::rules`] with the names of Kubernetes.

use super::Cluster;
use super::pods::{self, Named};
use super::reach::Reach;
use crate::cli::{Global, Output};
use crate::commands::rules;
use crate::error::Error;
use clap::{Args, Subcommand};

/// Arguments of `skein kube policy`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Which policies select a pod, and what they let through, in order
    Explain(Explain),
}

#[derive(Args, Debug)]
struct Explain {
    /// POD or NAMESPACE/POD
    pod: String,
    /// Which of the pod's interfaces: its network's name
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(
    global: &Global,
    cluster: &Cluster,
    arguments: &Arguments,
) -> Result<(), Error> {
    let What::Explain(arguments) = &arguments.what;
    let kubectl = cluster.kubectl();
    let named = Named::parse(&arguments.pod)?;
    if named.is_service {
        return Err(Error::usage("policies are for pods, not for services", "name a pod"));
    }
    let pod = named.get(cluster, &kubectl).await?;
    let reach = Reach::open(global, cluster, &kubectl).await?;
    rules::ask(
        &reach.controller,
        global.screen(),
        arguments.output.format,
        &pods::machine(&pod)?,
        arguments.network.as_deref(),
        &pods::title(&pod),
    )
    .await
}

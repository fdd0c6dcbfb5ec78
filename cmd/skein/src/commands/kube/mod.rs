//! `skein kube`, or `kubectl skein`: Skein as a user of Kubernetes asks about it, by pods and policies.
//!
//! It reaches the cluster as the user does, through kubectl with its own context and credentials, and Skein's
//! pages through kubectl's port forwarding unless addresses are given (docs/adr/0017).

mod connectivity;
mod kubectl;
mod pods;
mod policy;
mod reach;
mod status;
mod why;

use crate::cli::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use kubectl::Kubectl;
use std::path::PathBuf;

/// Arguments of `skein kube`.
#[derive(Args, Debug)]
#[command(
    version,
    after_help = "\
As `kubectl-skein` on the PATH this is a plugin of kubectl:
  kubectl skein status
  kubectl skein connectivity test
  kubectl skein policy explain shop/web-1
  kubectl skein why shop/client-1 shop/web-1:80"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    command: Command,
}

/// Which cluster, and where Skein is in it.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of names without one [default: the context's]
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Namespace that Skein is installed in
    #[arg(long, global = true, value_name = "NAME", default_value = "skein-system")]
    skein_namespace: String,
    /// Where the Kubernetes manager's status page is [default: found in the cluster]
    #[arg(long, global = true, value_name = "URL", env = "SKEIN_KUBE_MANAGER")]
    #[arg(hide_env_values = true)]
    manager: Option<String>,
    /// The program kubectl
    #[arg(long, global = true, value_name = "PATH", env = "KUBECTL", default_value = "kubectl")]
    #[arg(hide_env_values = true)]
    kubectl: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Controller, Kubernetes manager and every node's agent on one screen
    Status(status::Arguments),
    /// Try what the network must do
    Connectivity(connectivity::Arguments),
    /// What policies mean for a pod
    Policy(policy::Arguments),
    /// What becomes of a connection between pods, and who decides it
    Why(why::Arguments),
}

impl Cluster {
    fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubectl, self.context.as_deref(), self.kubeconfig.as_deref())
    }
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let cluster = &arguments.cluster;
    match &arguments.command {
        Command::Status(arguments) => status::run(global, cluster, arguments).await,
        Command::Connectivity(arguments) => connectivity::run(global, cluster, arguments).await,
        Command::Policy(arguments) => policy::run(global, cluster, arguments).await,
        Command::Why(arguments) => why::run(global, cluster, arguments).await,
    }
}

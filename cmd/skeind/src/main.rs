//! Every Skein daemon role in one binary.
//!
//! `skeind all-in-one` runs the configuration API and a controller, on the embedded store or with others on etcd; `skeind
//! vrouter` runs a node, `skeind kube-manager` translates a Kubernetes cluster, `skeind loadbalancer` runs HAProxy on a
//! node. Settings come from a TOML file, then `SKEIN_*` variables, then flags.

mod all_in_one;
mod api_flags;
mod install_cni;
mod kube_manager;
mod loadbalancer;
mod logging;
mod notify;
mod replica;
mod settings;
mod shutdown;
mod vrouter;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Lists of tens of thousands of objects come and go on many threads; glibc keeps what they leave behind.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Skein's daemons.
#[derive(Debug, Parser)]
#[command(name = "skeind", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
    #[command(flatten)]
    logging: logging::Logging,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Configuration API and controller, alone or with others on an etcd, in the foreground
    AllInOne(Box<all_in_one::Flags>),
    /// The vRouter agent of one node, in the foreground
    Vrouter(vrouter::Flags),
    /// The Kubernetes manager of one cluster, in the foreground
    KubeManager(Box<kube_manager::Flags>),
    /// Put the CNI plugin and its configuration onto this node, and end
    InstallCni(install_cni::Flags),
    /// HAProxy for load balancers and Ingresses on one node, beside its agent, in the foreground
    Loadbalancer(Box<loadbalancer::Flags>),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = arguments.logging.start() {
        eprint_line(&error.to_string());
        return ExitCode::from(2);
    }
    let result = match arguments.role {
        Role::AllInOne(flags) => all_in_one::run(*flags),
        Role::Vrouter(flags) => vrouter::run(flags),
        Role::KubeManager(flags) => kube_manager::run(*flags),
        Role::InstallCni(flags) => install_cni::run(&flags),
        Role::Loadbalancer(flags) => loadbalancer::run(*flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The one place that writes to standard error by hand: before there are logs.
fn eprint_line(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skeind: {text}");
}

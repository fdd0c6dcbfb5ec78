//! A real Kubernetes on one machine: etcd, API server, controller manager, scheduler, and nodes with
//! containerd and kubelet, each node in network, mount, PID and UTS namespaces of its own.
//!
//! [`Cluster::start`] brings Kubernetes up, without a network for pods; [`SkeinNetwork::install`] gives it
//! Skein's. Nothing is pulled: images are made here ([`PROBE_IMAGE`]), and [`KubePod::ask`] fills truth tables
//! of pods x ports x protocols by the program in it.
//!
//! The control plane has a host of the lab for itself, so the machine's own namespaces stay as they were,
//! and clusters of different names can stand side by side.

mod api;
mod asker;
mod balancer;
mod cgroups;
mod cluster;
mod control_plane;
mod daemon;
mod error;
mod files;
mod image;
mod kube_proxy;
mod network;
mod node;
mod outcome;
mod pki;
mod pod;
mod programs;
mod site;

pub use api::Api;
pub use asker::Asker;
pub use balancer::Balancer;
pub use cluster::{Cluster, ClusterOptions};
pub use control_plane::ControlPlane;
pub use daemon::Daemon;
pub use error::ClusterError;
pub use files::{example, repository};
pub use image::{HAPROXY_IMAGE, PAUSE_IMAGE, PROBE_IMAGE, SKEIN_IMAGE, build_haproxy, build_skein};
pub use kube_proxy::KubeProxy;
pub use network::{NetworkOptions, SkeinNetwork};
pub use node::KubeNode;
pub use outcome::{ProbeAnswer, ProbeOutcome, StreamReport, WebAnswer};
pub use pki::Authority;
pub use pod::{KubePod, Stream, read_outcomes};
pub use programs::Programs;
pub use site::{Page, Site, ask_from};

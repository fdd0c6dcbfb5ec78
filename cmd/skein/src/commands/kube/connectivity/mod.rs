//! `kubectl skein connectivity test`: pods on every node that reach each other in every way that Kubernetes promises.

mod checks;
mod manifest;
mod report;

use super::Cluster;
use super::kubectl::Kubectl;
use crate::cli::{Global, Output};
use crate::error::Error;
use crate::screen::{Format, Screen, Tone, yaml};
use checks::{Bed, Outcome};
use clap::{Args, Subcommand};
use manifest::Plan;
use report::Report;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Arguments of `skein kube connectivity`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make pods on every node, let them reach each other, report, and clean up
    Test(Test),
}

#[derive(Args, Debug)]
#[command(after_help = "\
It makes a namespace with pods on every node that takes them, and removes it in the end. The image
needs sh, wget, httpd, nslookup, hostname and sleep, as busybox has them.

Exit code: 0 everything works; 1 something does not.")]
struct Test {
    /// Image of the pods
    #[arg(long, value_name = "IMAGE", default_value = "docker.io/library/busybox:1.37")]
    image: String,
    /// Namespace to make; whatever is in one of this name is removed
    #[arg(long, value_name = "NAME", default_value = "skein-connectivity-test")]
    test_namespace: String,
    /// Also ask this page outside of the cluster, as http://HOST[:PORT]/
    #[arg(long, value_name = "URL")]
    outside: Option<String>,
    /// Domain of the cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Leave the namespace there, for a closer look
    #[arg(long)]
    keep: bool,
    /// Seconds for the pods to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    ready_timeout: u64,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(
    global: &Global,
    cluster: &Cluster,
    arguments: &Arguments,
) -> Result<(), Error> {
    let What::Test(test) = &arguments.what;
    let kubectl = cluster.kubectl();
    let screen = global.screen();
    let live = !matches!(test.output.format, Format::Json | Format::Yaml);
    let mut report = Report::new(screen, live);
    let tried = try_all(&kubectl, test, &mut report).await;
    if !test.keep {
        let gone = remove(&kubectl, &test.test_namespace, false).await;
        // What went wrong first is what matters.
        if tried.is_ok() {
            gone?;
        }
    }
    tried?;
    match test.output.format {
        Format::Json => screen.json(&report.json())?,
        Format::Yaml => screen.write(&yaml(&report.json())?)?,
        Format::Table | Format::Wide | Format::Name => screen.write(&report.summary())?,
    }
    if report.holds() { Ok(()) } else { Err(Error::Degraded) }
}

async fn remove(kubectl: &Kubectl, namespace: &str, wait: bool) -> Result<(), Error> {
    let wait = format!("--wait={wait}");
    let arguments = ["delete", "namespace", namespace, "--ignore-not-found", &wait];
    kubectl.text(&arguments).await.map(drop)
}

async fn try_all(kubectl: &Kubectl, test: &Test, report: &mut Report) -> Result<(), Error> {
    let plan = Plan { namespace: &test.test_namespace, image: &test.image };
    remove(kubectl, plan.namespace, true).await?;
    kubectl.apply(&plan.pods().to_string()).await?;
    let started = Instant::now();
    let bed = match Bed::ready(kubectl, &plan, Duration::from_secs(test.ready_timeout)).await? {
        Ok(bed) => bed,
        Err(missing) => {
            report.add("pods are ready", vec![Outcome::failed("", "", missing)])?;
            return Ok(());
        }
    };
    let told = format!("{} pods on {} nodes", bed.pods(), bed.nodes());
    let seconds = started.elapsed().as_secs_f32();
    report.add("pods are ready", vec![Outcome::good(&told, &format!("{seconds:.1} s"))])?;

    report.add("pod to pod", bed.pod_to_pod().await?)?;
    report.add("pod to service", bed.pod_to_service().await?)?;
    report.add("pod to node port", bed.pod_to_node_port().await?)?;
    report.add("host to pod", bed.host_to_pod().await?)?;

    kubectl.apply(&plan.closed().to_string()).await?;
    report.add("policy: all ingress denied", bed.until(&[]).await?)?;
    kubectl.apply(&plan.open_to_clients().to_string()).await?;
    report.add("policy: clients allowed, others not", bed.until(&["client"]).await?)?;
    let all = ["delete", "networkpolicy", "--all", "-n", plan.namespace];
    kubectl.text(&all).await?;
    report.add("policy removed: all allowed", bed.until(&["client", "other"]).await?)?;

    match bed.names(&test.cluster_domain).await? {
        Some(outcomes) => report.add("names (cluster DNS)", outcomes)?,
        None => report.skip("names (cluster DNS)", "the cluster has no DNS service")?,
    }
    match &test.outside {
        Some(url) => report.add("pod to outside", bed.outside(url).await?)?,
        None => report.skip("pod to outside", "not asked: --outside URL")?,
    }
    Ok(())
}

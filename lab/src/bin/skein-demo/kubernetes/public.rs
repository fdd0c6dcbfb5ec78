//! A pool of public addresses, and services that have some of them.

use super::reach::{ANSWER, answered_by, seen_as};
use super::services::OFTEN;
use super::stage::{SETTLED, Stage};
use skein_lab::kubernetes::ClusterError;
use skein_lab::wait_for;

const SERVICE: &str = "/api/v1/namespaces/default/services/front";
const CHOSEN: &str = "10.63.0.200";

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.skein(&["apply", "-f", "examples/kubernetes/public-network.skein.yaml"])?.success()?;
    stage.apply("load-balancer.yaml")?;
    let mut address = String::new();
    stage.step(
        "a Service of type LoadBalancer has an address of the pool in its status",
        |stage| {
            let made = stage.cluster.api().wait("an address", SERVICE, SETTLED, |object| {
                object["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
            });
            let made = made.map_err(|error| error.to_string())?;
            let told = &made["status"]["loadBalancer"]["ingress"][0]["ip"];
            address = told.as_str().unwrap_or_default().to_owned();
            if address.starts_with("10.63.0.") { Ok(address.clone()) } else { Err(address.clone()) }
        },
    );
    let members = stage.cluster.pods("default", "app=probe")?;
    stage.step("the host beyond the gateway reaches every member by it", |stage| {
        let targets = vec![format!("tcp:{address}:8080"); OFTEN];
        answered_by(&members, || stage.world_asks(&targets, ANSWER)).map(|_| String::new())
    });
    stage.step("and by the address that another service chose (externalIPs)", |stage| {
        let targets = vec![format!("tcp:{CHOSEN}:8080"); OFTEN];
        answered_by(&members, || stage.world_asks(&targets, ANSWER)).map(|_| CHOSEN.into())
    });
    let patch = r#"{"spec": {"externalTrafficPolicy": "Local"}}"#;
    stage.kubectl(&["patch", "service", "front", "-p", patch])?.success()?;
    let client = stage.outside.addresses().0.to_string();
    stage.step("now its members see the client's own address", |stage| {
        let targets = vec![format!("tcp:{address}:8080"); OFTEN];
        let held = wait_for("the client's address", SETTLED, || {
            let outcomes = stage.world_asks(&targets, ANSWER).map_err(|error| error.to_string())?;
            if seen_as(&outcomes, &client) {
                Ok(client.clone())
            } else {
                Err(format!("{outcomes:?}"))
            }
        });
        held.map_err(|error| error.to_string())
    });
    stage.step("and every node's health check port says that it has members", |stage| {
        let service = stage.cluster.api().get(SERVICE).map_err(|error| error.to_string())?;
        let port = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or_default();
        for node in stage.cluster.nodes() {
            let url = format!("http://{}:{port}/", node.host().ipv4());
            let to = format!("{}:{port}", node.host().ipv4());
            let held = wait_for("a health check", SETTLED, || {
                let page =
                    skein_lab::kubernetes::Page::fetch(stage.outside.world(), &url, &to, None);
                let page = page.map_err(|error| error.to_string())?;
                if page.code == 200 { Ok(()) } else { Err(format!("{page:?}")) }
            });
            held.map_err(|error| error.to_string())?;
        }
        Ok(format!("port {port}: 200"))
    });
    Ok(())
}

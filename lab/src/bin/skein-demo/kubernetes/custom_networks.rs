//! Pods in networks that someone made for them: the operator by the configuration API, or the user by kubectl.

use super::reach::{all_answer, both, none_answers, web};
use super::stage::Stage;
use skein_lab::kubernetes::{ClusterError, KubePod};

const SERVICES: &str = "default-domain:k8s-default:k8s-default-service-network";

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    stage.skein(&["apply", "-f", "examples/kubernetes/custom-network.skein.yaml"])?.success()?;
    stage.apply("custom-network.yaml")?;
    let mut goods =
        stage.ready("pods that chose the network have its addresses", "default", "goods", 3)?;
    let clerk = stage.ready("and one whose namespace did", "custom", "clerk", 1)?;
    stage.step("the addresses are the network's", |_| {
        both(inside(&goods, "10.7.0."), inside(&clerk, "10.7.0."))
    });
    let service = [stage.service("default", "probe")?];
    let own = [stage.service("default", "goods")?];
    goods.extend(clerk);
    stage.step("they reach each other, whatever their namespace", |_| {
        all_answer(&goods, &web(&goods))
    });
    stage.step("the cluster's pods do not reach them, nor they those", |_| {
        both(none_answers(&others, &web(&goods)), none_answers(&goods, &web(&others)))
    });
    stage.step("the cluster's pods reach a service that they serve", |_| all_answer(&others, &own));
    stage.step("they reach no service", |_| none_answers(&goods, &service));
    stage
        .skein(&["apply", "-f", "examples/kubernetes/custom-network-services.skein.yaml"])?
        .success()?;
    for network in ["goods", SERVICES] {
        stage
            .skein(&["attach", "network", network, "policy", "services", "-p", "shop"])?
            .success()?;
    }
    stage.step("until the operator joins their network with the services'", |_| {
        all_answer(&goods, &service)
    });

    stage.apply("virtual-network.yaml")?;
    let sea = stage.ready("a network by kubectl alone, and its pods", "blue", "sea", 3)?;
    let shown = stage.kubectl(&["get", "virtualnetwork", "blue", "-n", "blue"])?;
    for line in shown.stdout.lines() {
        stage.screen.say(&format!("    {line}"));
    }
    stage.step("they have its addresses and reach each other", |_| {
        inside(&sea, "10.77.0.")?;
        all_answer(&sea, &web(&sea))
    });
    stage.step("they reach the services that it is connected to", |_| all_answer(&sea, &service));
    stage.step("but no other pods, and no other pods them", |_| {
        both(none_answers(&sea, &web(&others)), none_answers(&others, &web(&sea)))
    });
    Ok(())
}

fn inside(pods: &[KubePod], prefix: &str) -> super::Seen {
    match pods.iter().find(|pod| !pod.address.starts_with(prefix)) {
        None => Ok(format!("{prefix}0/24")),
        Some(pod) => Err(format!("{} has {}", pod.name, pod.address)),
    }
}

//! Isolated namespaces, from their birth and by a switch.

use super::reach::{all_answer, both, closes, none_answers, web};
use super::stage::Stage;
use skein_lab::kubernetes::{ClusterError, KubePod};

const ISOLATION: &str = "opencontrail.org/isolation";

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    stage.apply("isolated-namespace.yaml")?;
    let alone = stage.ready("its pods are ready", "isolated", "web", 3)?;
    let service = [stage.service("isolated", "web")?];
    let ours = [stage.service("default", "probe")?];
    stage.step("they reach each other and their service", |_| {
        both(all_answer(&alone, &web(&alone)), all_answer(&alone, &service))
    });
    stage.step("others reach neither the pods", |_| none_answers(&others, &web(&alone)));
    stage.step("nor the service", |_| none_answers(&others, &service));
    stage.step("they reach the others and their services", |_| {
        both(all_answer(&alone, &web(&others)), all_answer(&alone, &ours))
    });

    stage.apply("isolated-namespace-open-services.yaml")?;
    let open = stage.ready("its pods are ready", "isolated-open", "web", 3)?;
    let opened = [stage.service("isolated-open", "web")?];
    stage.step("without service isolation others reach the service", |_| {
        all_answer(&others, &opened)
    });
    stage.step("pods of another isolated namespace, too", |_| all_answer(&alone, &opened));
    stage.step("but nobody reaches its pods", |_| {
        both(none_answers(&others, &web(&open)), none_answers(&alone, &web(&open)))
    });
    stage.step("nor does it reach the isolated ones", |_| none_answers(&open, &web(&alone)));

    switch(stage, "false")?;
    stage.step("switched off while they run: others reach pods and service", |_| {
        both(all_answer(&others, &web(&alone)), all_answer(&others, &service))
    });
    switch(stage, "true")?;
    stage.step("switched on again: nobody does", |_| {
        both(closes(&others, &web(&alone)), closes(&others, &service))
    });
    let now = stage.cluster.pods("isolated", "app=web")?;
    stage.step("the pods are the same, with the same addresses", |_| {
        let look = |pods: &[KubePod]| {
            let mut all: Vec<_> =
                pods.iter().map(|p| (p.uid.clone(), p.address.clone(), p.restarts)).collect();
            all.sort();
            all
        };
        if look(&now) == look(&alone) { Ok(String::new()) } else { Err(format!("{now:?}")) }
    });
    Ok(())
}

fn switch(stage: &mut Stage<'_>, value: &str) -> Result<(), ClusterError> {
    let annotation = format!("{ISOLATION}={value}");
    stage.kubectl(&["annotate", "namespace", "isolated", &annotation, "--overwrite"])?.success()?;
    Ok(())
}

//! DNS by the nodes: there is no DNS pod in this cluster.

use super::stage::{SETTLED, Seen, Stage};
use skein_lab::kubernetes::{ClusterError, KubePod, ProbeOutcome};
use skein_lab::{Upstream, wait_for};

const DOMAIN: &str = "default.svc.cluster.local";

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.apply_file("deploy/kubernetes/dns.yaml")?;
    let others = stage.others.clone();
    let Some(asker) = others.first() else { return Ok(()) };
    stage.step("kubernetes.default is found from every node", |_| {
        for pod in &others {
            resolved(pod, &["-type=a", "kubernetes.default.svc.cluster.local"], &["10.96.0.1"])?;
        }
        Ok("10.96.0.1".into())
    });
    let service = stage.service("default", "probe")?;
    let address = service.split(':').nth(1).unwrap_or_default().to_owned();
    stage.step("a service by its short name, as programs ask", |_| {
        let held = wait_for("the service", SETTLED, || {
            let outcomes = asker.ask(&["tcp:probe:8080".into()], super::reach::ANSWER);
            let outcomes = outcomes.map_err(|error| error.to_string())?;
            let answered = outcomes.iter().all(ProbeOutcome::answered);
            if answered { Ok("probe:8080 answers".into()) } else { Err(format!("{outcomes:?}")) }
        });
        held.map_err(|error| error.to_string())
    });
    stage.step("its address has that name, and its port a record (PTR, SRV)", |_| {
        let name = format!("probe.{DOMAIN}");
        resolved(asker, &[&address], &[&name])?;
        resolved(asker, &["-type=srv", &format!("_web._tcp.{name}")], &["8080", &name])
    });
    let members = stage.cluster.pods("default", "app=probe")?;
    stage.step("a headless service gives its pods' addresses", |_| {
        let all: Vec<&str> = members.iter().map(|pod| pod.address.as_str()).collect();
        resolved(asker, &["-type=a", &format!("probe-heads.{DOMAIN}")], &all)?;
        Ok(format!("{} addresses", all.len()))
    });
    stage.apply("external-name.yaml")?;
    stage.step("a name outside, and an ExternalName that leads there", |_| {
        let outside = super::OUTSIDE.to_string();
        resolved(asker, &["-type=a", Upstream::NAME], &[&outside])?;
        resolved(asker, &["-type=a", &format!("elsewhere.{DOMAIN}")], &[Upstream::NAME, &outside])?;
        Ok(format!("{} is {outside}", Upstream::NAME))
    });
    Ok(())
}

/// A pod's own resolver says all of this, soon.
fn resolved(pod: &KubePod, arguments: &[&str], wanted: &[&str]) -> Seen {
    let held = wait_for("an answer", SETTLED, || {
        let ran = pod.run("/bin/nslookup", arguments).map_err(|error| error.to_string())?;
        let said = wanted.iter().all(|word| ran.stdout.contains(word));
        if ran.ok() && said {
            Ok(String::new())
        } else {
            Err(format!("{arguments:?}: {}", ran.stdout))
        }
    });
    held.map_err(|error| error.to_string())
}

//! The questions that a user of the cluster has.

use super::stage::{SETTLED, Stage};
use skein_lab::Ran;
use skein_lab::kubernetes::{ClusterError, PROBE_IMAGE};
use skein_lab::wait_for;

/// What is longer is cut.
const WIDTH: usize = 130;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    question(stage, &["skein", "status"], 0, "every role and node is well")?;
    let test = ["skein", "connectivity", "test", "--image", PROBE_IMAGE];
    question(stage, &test, 0, "everything that a network owes to Kubernetes works")?;
    stage.apply("network-policy-1-conditional.yaml")?;
    let pod = |app: &str| stage.pod("default", app).map(|pod| format!("default/{}", pod.name));
    let (database, frontend, guests) = (pod("db")?, pod("frontend")?, pod("guests")?);
    let target = format!("{database}:6379");
    let passes = ["skein", "why", &frontend, &target];
    question(stage, &passes, 0, "a connection that passes, and which rule lets it")?;
    let denied = ["skein", "why", &guests, &target];
    question(stage, &denied, 1, "one that does not, and which rule denies it")?;
    question(stage, &["skein", "policy", "explain", &database], 0, "what policies mean for a pod")?;
    stage.remove("network-policy-1-conditional.yaml")
}

/// A command and what it says; it ends with the code that is expected, soon.
fn question(
    stage: &mut Stage<'_>,
    arguments: &[&str],
    code: i32,
    text: &str,
) -> Result<(), ClusterError> {
    stage.screen.command(&format!("kubectl {}", arguments.join(" ")));
    let here = &*stage;
    let mut last: Option<Ran> = None;
    let held = wait_for(text, SETTLED, || {
        let ran = here.kubectl_quietly(arguments).map_err(|error| error.to_string())?;
        let right = ran.code == Some(code);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        last = Some(ran);
        if right { Ok(()) } else { Err(said) }
    });
    for line in last.iter().flat_map(|ran| ran.stdout.lines()) {
        let short: String = line.chars().take(WIDTH).collect();
        let more = if short.len() < line.len() { " ..." } else { "" };
        stage.screen.say(&format!("    {short}{more}"));
    }
    stage.step(text, |_| held.map(|()| String::new()).map_err(|error| error.to_string()));
    Ok(())
}

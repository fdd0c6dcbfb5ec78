//! The guide's six examples of network policies: by traffic, and by the objects in the configuration API, which have the
//! original's names.

use super::reach::{all_answer, at, both, closes};
use super::stage::{Seen, Stage};
use serde_json::Value;
use skein_lab::kubernetes::{ClusterError, KubePod};

/// Where all objects of policies are.
const HOME: &str = "default-policy-management";
const DATABASE: u16 = 6379;
const ARCHIVE: u16 = 5978;

/// What an example makes: its name, its own rules, its rules among those that deny.
struct Example {
    file: &'static str,
    name: &'static str,
    rules: &'static [&'static str],
    denied: &'static [&'static str],
}

const CONDITIONAL: Example = Example {
    file: "network-policy-1-conditional.yaml",
    name: "test-network-policy",
    rules: &[
        "default-ingress-test-network-policy-0-ipBlock-0-172.17.1.0/24-0",
        "default-ingress-test-network-policy-0-ipBlock-0-cidr-172.17.0.0/16-0",
        "default-ingress-test-network-policy-0-namespaceSelector-1-0",
        "default-ingress-test-network-policy-0-podSelector-2-0",
        "default-egress-test-network-policy-ipBlock-0-cidr-10.0.0.0/24-0",
    ],
    denied: &[
        "default-ingress-test-network-policy-denyall",
        "default-egress-test-network-policy-default-deny-all",
    ],
};
const ALLOW_INGRESS: Example = Example {
    file: "network-policy-2-allow-all-ingress.yaml",
    name: "allow-all-ingress",
    rules: &["default-ingress-allow-all-ingress-0-allow-all-0"],
    denied: &["default-ingress-allow-all-ingress-denyall"],
};
const DENY_INGRESS: Example = Example {
    file: "network-policy-3-deny-all-ingress.yaml",
    name: "deny-ingress",
    rules: &[],
    denied: &["default-ingress-deny-ingress-denyall"],
};
const ALLOW_EGRESS: Example = Example {
    file: "network-policy-4-allow-all-egress.yaml",
    name: "allow-all-egress",
    rules: &["default-egress-allow-all-egress-allow-all-0"],
    denied: &["default-egress-allow-all-egress-default-deny-all"],
};
const DENY_EGRESS: Example = Example {
    file: "network-policy-5-deny-all-egress.yaml",
    name: "deny-all-egress",
    rules: &[],
    denied: &["default-egress-deny-all-egress-default-deny-all"],
};
const DENY_BOTH: Example = Example {
    file: "network-policy-6-deny-all.yaml",
    name: "deny-all-ingress-egress",
    rules: &[],
    denied: &[
        "default-ingress-deny-all-ingress-egress-denyall",
        "default-egress-deny-all-ingress-egress-default-deny-all",
    ],
};

/// Those whom the examples are about.
struct Cast {
    database: KubePod,
    frontend: KubePod,
    /// Of the namespace `myproject`.
    client: KubePod,
    office: KubePod,
    guests: KubePod,
    archive: KubePod,
    /// A pod that no policy names.
    stranger: KubePod,
}

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let Some(stranger) = stage.others.first().cloned() else { return Ok(()) };
    stage.apply("network-policy-pods.yaml")?;
    stage.ready("a database and whoever wants to come there are ready", "default", "db", 1)?;
    let cast = Cast {
        database: stage.pod("default", "db")?,
        frontend: stage.pod("default", "frontend")?,
        client: stage.pod("myproject", "client")?,
        office: stage.pod("default", "office")?,
        guests: stage.pod("default", "guests")?,
        archive: stage.pod("default", "archive")?,
        stranger,
    };
    stage.step("without a policy all of them reach it", |_| {
        let all = [&cast.frontend, &cast.client, &cast.office, &cast.guests, &cast.stranger];
        let all: Vec<KubePod> = all.into_iter().cloned().collect();
        all_answer(&all, &[at(&cast.database, DATABASE), at(&cast.database, 80)])
    });
    conditional(stage, &cast)?;
    for (deny, allow, out) in
        [(DENY_INGRESS, ALLOW_INGRESS, false), (DENY_EGRESS, ALLOW_EGRESS, true)]
    {
        everything(stage, &cast, &deny, &allow, out)?;
    }
    put(stage, &DENY_BOTH)?;
    stage.step("nothing comes in", |_| closes(&one(&cast.client), &[at(&cast.frontend, 80)]));
    stage.step("and nothing goes out", |_| closes(&one(&cast.frontend), &[at(&cast.client, 80)]));
    stage.remove(DENY_BOTH.file)?;
    stage.step("without it all is open again", |_| {
        let out = [at(&cast.client, 80), at(&cast.stranger, 80)];
        let inward = all_answer(&one(&cast.client), &[at(&cast.frontend, 80)]);
        both(all_answer(&one(&cast.frontend), &out), inward)
    });
    Ok(())
}

fn one(pod: &KubePod) -> Vec<KubePod> {
    vec![pod.clone()]
}

/// The first example, element by element.
fn conditional(stage: &mut Stage<'_>, cast: &Cast) -> Result<(), ClusterError> {
    put(stage, &CONDITIONAL)?;
    let (open, shut) = ([at(&cast.database, DATABASE)], [at(&cast.database, 80)]);
    stage.step("a pod without a name in it is kept out", |_| closes(&one(&cast.stranger), &open));
    stage.step("so is the excepted block, 172.17.1.0/24", |_| closes(&one(&cast.guests), &open));
    for (text, pod) in [
        ("the rest of 172.17.0.0/16 reaches port 6379, and no other", &cast.office),
        ("so do pods of namespaces with project=myproject", &cast.client),
        ("and pods with role=frontend", &cast.frontend),
    ] {
        stage.step(text, |_| both(all_answer(&one(pod), &open), closes(&one(pod), &shut)));
    }
    stage.step("the database reaches 10.0.0.0/24 at port 5978, and nothing else", |_| {
        let database = one(&cast.database);
        let others = [at(&cast.archive, 80), at(&cast.frontend, 80)];
        both(all_answer(&database, &[at(&cast.archive, ARCHIVE)]), closes(&database, &others))
    });
    stage.remove(CONDITIONAL.file)?;
    stage.step("without it all is open again", |_| {
        all_answer(&one(&cast.stranger), &[open[0].clone(), shut[0].clone()])
    });
    Ok(())
}

/// One that denies everything in a direction, then one beside it that allows everything: policies add up.
fn everything(
    stage: &mut Stage<'_>,
    cast: &Cast,
    deny: &Example,
    allow: &Example,
    out: bool,
) -> Result<(), ClusterError> {
    let (inside, beyond) = (&cast.frontend, &cast.client);
    let (closed, open) = if out {
        ((inside, beyond), (beyond, inside))
    } else {
        ((beyond, inside), (inside, beyond))
    };
    put(stage, deny)?;
    let (text, other) = if out {
        ("nothing goes out of the namespace's pods", "what comes in, comes in")
    } else {
        ("nothing comes in to the namespace's pods", "what goes out, goes out")
    };
    stage.step(text, |_| closes(&one(closed.0), &[at(closed.1, 80)]));
    stage.step(other, |_| all_answer(&one(open.0), &[at(open.1, 80)]));
    put(stage, allow)?;
    stage.step("beside it, everything passes: policies add up", |_| {
        all_answer(&one(closed.0), &[at(closed.1, 80)])
    });
    stage.remove(deny.file)?;
    stage.remove(allow.file)
}

/// Applies an example and looks at its objects.
fn put(stage: &mut Stage<'_>, example: &Example) -> Result<(), ClusterError> {
    stage.apply(example.file)?;
    let policy = format!("k8s-default-{}", example.name);
    let count = example.rules.len() + example.denied.len();
    let text = format!("its objects have the original's names: {policy}, {count} rules");
    stage.step(&text, |stage| {
        let held = skein_lab::wait_for("the objects", super::stage::SETTLED, || {
            objects(stage, example, &policy)
        });
        held.map_err(|error| error.to_string())
    });
    Ok(())
}

fn objects(stage: &Stage<'_>, example: &Example, policy: &str) -> Seen {
    let own = children(stage, "firewall-policy", policy, "firewall_rule_refs")?;
    if own != example.rules {
        return Err(format!("the rules of {policy} are {own:?}"));
    }
    let denied = children(stage, "firewall-policy", "k8s-denyall", "firewall_rule_refs")?;
    if let Some(missing) = example.denied.iter().find(|name| !denied.contains(&(**name).to_owned()))
    {
        return Err(format!("{missing} is not among {denied:?}"));
    }
    // In the set: first what Ingresses need, then users' policies, then what denies and what allows.
    let set = children(stage, "application-policy-set", "k8s", "firewall_policy_refs")?;
    let at = |name: &str| set.iter().position(|one| one == name);
    let (first, own) = (at("k8s-Ingress"), at(policy));
    let (denies, allows) = (at("k8s-denyall"), at("k8s-allowall"));
    let ordered = first == Some(0) && own > first && denies > own && allows > denies;
    if ordered { Ok(String::new()) } else { Err(format!("the order of the set is {set:?}")) }
}

/// Names of what an object refers to, in the order of their sequence.
fn children(stage: &Stage<'_>, kind: &str, name: &str, field: &str) -> Result<Vec<String>, String> {
    let object = stage.configured(kind, &[HOME, name])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<(String, String)> = object[field]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (text(&one["attr"]["sequence"]), text(&one["to"][1])))
        .collect();
    all.sort();
    Ok(all.into_iter().map(|(_, name)| name).collect())
}

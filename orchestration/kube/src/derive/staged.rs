//! Staged policies: not in force, and their writer is told what they would change.

use super::{Context, annotations};
use crate::desired::{Derived, Desired, Ref};
use crate::key::Key;
use crate::objects::Meta;
use crate::packed;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};

/// The annotation that makes a NetworkPolicy or ClusterNetworkPolicy a staged one.
const ANNOTATION: &str = "skein.io/staged";
/// The reason of Events that tell what a staged policy would change.
pub const STAGED: &str = "StagedPolicy";
/// Behind what is denied, before the policies of the baseline.
const DENY_PLACE: &str = "99998.1";

impl Context<'_> {
    /// Whether a policy is only staged. What is not understood there is taken as a yes: who wrote it did not mean to
    /// put the policy into force.
    pub(super) fn staged(&self, meta: &Meta, out: &mut Derived) -> bool {
        match annotations::boolean(meta, ANNOTATION) {
            Ok(value) => value.unwrap_or(false),
            Err(reason) => {
                out.problem("BadAnnotation", format!("{reason}; the policy is not in force"));
                true
            }
        }
    }

    /// What a staged policy would deny, as a policy of its own.
    pub(super) fn stage_denies(
        &self,
        key: &Key,
        name: &FqName,
        rules: Vec<Desired>,
        out: &mut Derived,
    ) {
        let references = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| Ref {
                name: rule.name.clone(),
                attr: json!({"sequence": format!("{at:05}.0")}),
            })
            .collect();
        out.objects.extend(rules);
        out.objects.push(
            self.owned(
                key,
                Kind::FIREWALL_POLICY,
                Some(Kind::POLICY_MANAGEMENT),
                name.clone(),
                &[],
            )
            .set("staged", true)
            .refer_with(Kind::FIREWALL_RULE, references),
        );
        let rank = super::firewall::rank(name.name());
        out.links.push(self.placed(name, &format!("{DENY_PLACE}{rank}")));
    }

    /// Tells what nodes found, as far as it is known.
    pub(super) fn report_staged(&self, policies: &[FqName], out: &mut Derived) {
        let (mut deny, mut allow, mut examples) = (0, 0, Vec::new());
        for name in policies {
            let Some(policy) = self.graph.by_name(Kind::FIREWALL_POLICY, name) else { continue };
            let properties = packed::properties(policy);
            let Some(report) = properties.get("staged_report") else { continue };
            let count = |field: &str| report.get(field).and_then(Value::as_u64).unwrap_or(0);
            deny += count("would_deny");
            allow += count("would_allow");
            let list = report.get("examples").and_then(Value::as_array).into_iter().flatten();
            examples.extend(list.filter_map(Value::as_str).map(str::to_owned));
        }
        if deny + allow == 0 {
            return;
        }
        examples.truncate(4);
        // Roundly, so that a busy policy is told of a few times and not every few seconds.
        let message = format!(
            "in force, it would deny {} and allow {} more connections; {}",
            roundly(deny),
            roundly(allow),
            examples.join(", ")
        );
        out.problem(STAGED, message);
    }
}

/// A number, or that it is at least 1, 2 or 5 times a power of ten.
fn roundly(number: u64) -> String {
    if number < 5 {
        return number.to_string();
    }
    let mut power = 1;
    while number / power >= 10 {
        power *= 10;
    }
    let first = match number / power {
        1 => 1,
        2..=4 => 2,
        _ => 5,
    };
    format!("at least {}", first * power)
}

#[cfg(test)]
mod tests {
    use super::roundly;

    #[test]
    fn numbers_are_told_roundly() {
        let told = [0, 4, 5, 9, 12, 47, 99, 1234].map(roundly);
        let want = [
            "0",
            "4",
            "at least 5",
            "at least 5",
            "at least 10",
            "at least 20",
            "at least 50",
            "at least 1000",
        ];
        assert_eq!(told, want);
    }
}

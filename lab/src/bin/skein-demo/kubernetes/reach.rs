//! Who reaches whom, by traffic.

use super::Seen;
use super::stage::SETTLED;
use skein_lab::kubernetes::{ClusterError, KubePod, ProbeOutcome};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an answer that shall come is waited for.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// How long one that shall not come is.
pub(super) const SILENCE: Duration = Duration::from_millis(700);

/// The pods' TCP port 80.
pub(super) fn web(pods: &[KubePod]) -> Vec<String> {
    pods.iter().map(|pod| at(pod, 80)).collect()
}

/// A TCP port of a pod.
pub(super) fn at(pod: &KubePod, port: u16) -> String {
    format!("tcp:{}:{port}", pod.address)
}

/// All ask all at once; each pod's outcomes.
fn ask(
    from: &[KubePod],
    targets: &[String],
    timeout: Duration,
) -> Result<Vec<ProbeOutcome>, String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            from.iter().map(|pod| scope.spawn(move || pod.ask(targets, timeout))).collect();
        let mut all = Vec::new();
        for thread in threads {
            let outcomes = thread.join().map_err(|_| "asking panicked".to_owned())?;
            all.extend(outcomes.map_err(|error| error.to_string())?);
        }
        Ok(all)
    })
}

fn answers(outcomes: &[ProbeOutcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.answered()).count()
}

/// Every pod is answered by every target, soon.
pub(super) fn all_answer(from: &[KubePod], targets: &[String]) -> Seen {
    let held = wait_for("answers", SETTLED, || {
        let outcomes = ask(from, targets, ANSWER)?;
        let missing: Vec<_> = outcomes.iter().filter(|outcome| !outcome.answered()).collect();
        if missing.is_empty() { Ok(outcomes.len()) } else { Err(format!("{missing:?}")) }
    });
    held.map(|count| format!("{count} of {count} answered")).map_err(|error| error.to_string())
}

/// No pod is answered by any target: asked once, as it must not have been open at any time.
pub(super) fn none_answers(from: &[KubePod], targets: &[String]) -> Seen {
    let outcomes = ask(from, targets, SILENCE)?;
    let count = outcomes.len();
    match answers(&outcomes) {
        0 => Ok(format!("none of {count} answered")),
        open => Err(format!("{open} of {count} are answered: {outcomes:?}")),
    }
}

/// No pod is answered by any target any more, soon.
pub(super) fn closes(from: &[KubePod], targets: &[String]) -> Seen {
    let held = wait_for("silence", SETTLED, || none_answers(from, targets));
    held.map_err(|error| error.to_string())
}

/// What two looks saw together.
pub(super) fn both(first: Seen, second: Seen) -> Seen {
    first.and(second).map(|_| String::new())
}

/// Exactly these pods answer, and nothing is left unanswered, soon; gives the last answers.
pub(super) fn answered_by(
    members: &[KubePod],
    ask: impl Fn() -> Result<Vec<ProbeOutcome>, ClusterError>,
) -> Result<Vec<ProbeOutcome>, String> {
    let wanted: BTreeSet<&str> = members.iter().map(|pod| pod.name.as_str()).collect();
    let held = wait_for("every member to answer", SETTLED, || {
        let outcomes = ask().map_err(|error| error.to_string())?;
        let name = |o: &ProbeOutcome| o.answer.as_ref().map_or("-".to_owned(), |a| a.pod.clone());
        let now: BTreeSet<String> = outcomes.iter().map(name).collect();
        let right = now.iter().map(String::as_str).eq(wanted.iter().copied());
        if right { Ok(outcomes) } else { Err(format!("{now:?} answer")) }
    });
    held.map_err(|error| error.to_string())
}

/// How the asked see the one who asks: whether all answers say this address.
pub(super) fn seen_as(outcomes: &[ProbeOutcome], address: &str) -> bool {
    let own = format!("{address}:");
    outcomes.iter().all(|o| o.answer.as_ref().is_some_and(|a| a.client.starts_with(&own)))
}

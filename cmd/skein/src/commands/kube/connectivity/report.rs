//! What came of the attempts: a line each while it runs, and the whole in the end.

use super::checks::Outcome;
use super::{Screen, Tone, Value};
use crate::error::Error;
use serde_json::json;

/// What was tried so far.
pub(super) struct Report {
    screen: Screen,
    live: bool,
    checks: Vec<(String, Result<Vec<Outcome>, String>)>,
}

impl Report {
    pub(super) fn new(screen: Screen, live: bool) -> Report {
        Report { screen, live, checks: Vec::new() }
    }

    fn show(&self, text: &str) -> Result<(), Error> {
        if self.live { self.screen.write(text) } else { Ok(()) }
    }

    /// Notes the outcomes of a check and shows them.
    pub(super) fn add(&mut self, name: &str, outcomes: Vec<Outcome>) -> Result<(), Error> {
        self.show(&self.lines(name, &outcomes))?;
        self.checks.push((name.to_owned(), Ok(outcomes)));
        Ok(())
    }

    /// Notes a check that was left out, and why.
    pub(super) fn skip(&mut self, name: &str, why: &str) -> Result<(), Error> {
        let text = format!("- {name}: left out ({why})\n");
        self.show(&self.screen.paint(Tone::Dim, &text))?;
        self.checks.push((name.to_owned(), Err(why.to_owned())));
        Ok(())
    }

    fn lines(&self, name: &str, outcomes: &[Outcome]) -> String {
        let good = outcomes.iter().filter(|outcome| outcome.holds()).count();
        // A check that tried nothing has shown nothing.
        let holds = good == outcomes.len() && good > 0;
        let (tone, mark) = if holds { (Tone::Good, "✓") } else { (Tone::Bad, "✗") };
        let told = match outcomes {
            [only] if only.from.is_empty() && holds => format!("{}, {}", only.to, only.said),
            [] => "nothing to try".to_owned(),
            _ => format!("{good} of {}", outcomes.len()),
        };
        let mut text = format!("{} {name}: {told}\n", self.screen.paint(tone, mark));
        for outcome in outcomes.iter().filter(|outcome| !outcome.holds()) {
            let what = if outcome.wanted { "does not reach" } else { "reaches" };
            let Outcome { from, to, said, .. } = outcome;
            if from.is_empty() {
                text.push_str(&format!("    {said}\n"));
            } else {
                text.push_str(&format!("    {from} {what} {to}: {said}\n"));
            }
        }
        text
    }

    /// Whether everything that was tried came out as it should.
    pub(super) fn holds(&self) -> bool {
        self.checks.iter().all(|(_, check)| match check {
            Ok(outcomes) => !outcomes.is_empty() && outcomes.iter().all(Outcome::holds),
            Err(_) => true,
        })
    }

    pub(super) fn summary(&self) -> String {
        let tried = self.checks.iter().filter_map(|(_, check)| check.as_ref().ok());
        let attempts: Vec<&Outcome> = tried.flatten().collect();
        let good = attempts.iter().filter(|outcome| outcome.holds()).count();
        let left_out = self.checks.iter().filter(|(_, check)| check.is_err()).count();
        let (tone, word) =
            if self.holds() { (Tone::Good, "works") } else { (Tone::Bad, "does not work") };
        format!(
            "\nThe network {}: {good} of {} attempts came out as they should, {left_out} checks left out\n",
            self.screen.paint(tone, word),
            attempts.len()
        )
    }

    pub(super) fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|(name, check)| match check {
                Err(why) => json!({"check": name, "left_out": why}),
                Ok(outcomes) => {
                    let attempts: Vec<Value> = outcomes
                        .iter()
                        .map(|o| {
                            json!({"from": o.from, "to": o.to, "wanted": o.wanted,
                                   "works": o.works, "said": o.said})
                        })
                        .collect();
                    let holds = !outcomes.is_empty() && outcomes.iter().all(Outcome::holds);
                    json!({"check": name, "holds": holds, "attempts": attempts})
                }
            })
            .collect();
        json!({"holds": self.holds(), "checks": checks})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_not_work_and_does_is_a_failure() {
        let mut report = Report::new(Screen::plain(), false);
        let outcome = |wanted, works| Outcome {
            from: "a on n1".into(),
            to: "10.0.0.1:80".into(),
            wanted,
            works,
            said: "hello".into(),
        };
        report.add("fine", vec![outcome(true, true), outcome(false, false)]).unwrap();
        assert!(report.holds());
        let lines = report.lines("leaky", &[outcome(false, true)]);
        assert_eq!(lines, "✗ leaky: 0 of 1\n    a on n1 reaches 10.0.0.1:80: hello\n");
        report.add("leaky", vec![outcome(false, true)]).unwrap();
        report.skip("names", "none").unwrap();
        assert!(!report.holds());
        assert_eq!(report.json()["checks"][1]["holds"], false);
        assert!(report.summary().contains("2 of 3 attempts"), "{}", report.summary());
        let mut empty = Report::new(Screen::plain(), false);
        empty.add("nobody", Vec::new()).unwrap();
        assert!(!empty.holds());
    }
}

//! A pod that asks all the time, and must never hear what it must not.

use crate::PATIENCE;
use skein_lab::kubernetes::{KubePod, ProbeOutcome};
use skein_lab::wait_for;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an answer is awaited; one that comes later is none.
const SILENCE: Duration = Duration::from_millis(200);

/// What an outcome is to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it is to be.
    Right,
    /// It says nothing: an answer that did not come in time.
    Nothing,
    /// It must not be.
    Wrong,
}

/// Asks in the background until it is dropped.
pub(crate) struct Watch {
    who: String,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// A pod that must never be answered.
    pub(crate) fn kept_out(pod: &KubePod, targets: Vec<String>) -> Watch {
        let who = format!("{}, which is kept out", pod.name);
        let judge = |outcome: &ProbeOutcome| {
            if outcome.answered() { Verdict::Wrong } else { Verdict::Right }
        };
        Watch::start(pod, who, targets, judge)
    }

    /// A pod whom nobody but this one may ever answer at the target.
    pub(crate) fn answered_by(pod: &KubePod, target: String, member: &str) -> Watch {
        let (who, member) = (format!("{}, which {member} answers", pod.name), member.to_owned());
        let judge = move |outcome: &ProbeOutcome| match &outcome.answer {
            Some(answer) if answer.pod == member => Verdict::Right,
            Some(_) => Verdict::Wrong,
            None => Verdict::Nothing,
        };
        Watch::start(pod, who, vec![target], judge)
    }

    fn start(
        pod: &KubePod,
        who: String,
        targets: Vec<String>,
        judge: impl Fn(&ProbeOutcome) -> Verdict + Send + 'static,
    ) -> Watch {
        let mut asker = pod.asker().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicUsize::new(0));
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let (stopping, count, heard) = (stop.clone(), rounds.clone(), wrong.clone());
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let Ok(outcomes) = asker.ask(&targets, SILENCE) else { break };
                let mut told = false;
                for outcome in &outcomes {
                    match judge(outcome) {
                        Verdict::Right => told = true,
                        Verdict::Nothing => {}
                        Verdict::Wrong => heard.lock().unwrap().push(format!("{outcome:?}")),
                    }
                }
                count.fetch_add(usize::from(told), Ordering::Relaxed);
                std::thread::sleep(SILENCE / 2);
            }
        });
        Watch { who, stop, rounds, wrong, thread: Some(thread) }
    }

    /// How often it has asked to some effect.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// It has asked more often than before, and never heard what it must not.
    pub(crate) fn check(&self, before: usize) {
        wait_for(&format!("{} to ask", self.who), PATIENCE, || {
            let now = self.rounds();
            // The first one may have begun before.
            if now > before + 2 { Ok(()) } else { Err(format!("{now} rounds, {before} before")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{}: {wrong:?}", self.who);
    }
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, asked {} times", self.who, self.rounds())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! How long the machine lets threads wait that have something to do, so that a bound on time can be read less of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether sleepers are woken in time.
const NAP: Duration = Duration::from_millis(5);

/// A thread that naps and notes when it is woken late, until this is dropped.
#[derive(Debug)]
pub struct Stalls(Arc<Naps>);

#[derive(Debug)]
struct Naps {
    since: Instant,
    /// When the sleeper has to be woken, in microseconds since the start.
    due: AtomicU64,
    /// The longest time it was woken late by, in microseconds.
    longest: AtomicU64,
    ended: AtomicBool,
}

impl Naps {
    fn now(&self) -> u64 {
        micros(self.since.elapsed())
    }

    fn sleep(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            self.due.store(self.now() + micros(NAP), Ordering::Relaxed);
            std::thread::sleep(NAP);
            self.note();
        }
    }

    /// Counts how late the sleeper is by now.
    fn note(&self) {
        let late = self.now().saturating_sub(self.due.load(Ordering::Relaxed));
        self.longest.fetch_max(late, Ordering::Relaxed);
    }
}

impl Stalls {
    /// Measures from now on.
    #[must_use]
    pub fn watch() -> Stalls {
        let since = Instant::now();
        let due = AtomicU64::new(micros(NAP));
        let (longest, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let naps = Arc::new(Naps { since, due, longest, ended });
        let napping = naps.clone();
        std::thread::spawn(move || napping.sleep());
        Stalls(naps)
    }

    /// The longest time so far that the sleeper was not woken though its time was up.
    #[must_use]
    pub fn longest(&self) -> Duration {
        // Whoever asks may be awake before the sleeper is, after a stall of both.
        self.0.note();
        Duration::from_micros(self.0.longest.load(Ordering::Relaxed))
    }

    /// The same, and starts anew.
    #[must_use]
    pub fn take(&self) -> Duration {
        self.0.note();
        Duration::from_micros(self.0.longest.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sleeper_is_late_by_counts_and_its_sleep_does_not() {
        let naps = |due| Naps {
            since: Instant::now(),
            due: AtomicU64::new(due),
            longest: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        let (late, asleep) = (Stalls(Arc::new(naps(0))), Stalls(Arc::new(naps(u64::MAX))));
        std::thread::sleep(Duration::from_millis(20));
        assert!(late.longest() >= Duration::from_millis(20));
        assert!(late.take() >= Duration::from_millis(20));
        assert_eq!(late.0.longest.load(Ordering::Relaxed), 0);
        assert_eq!(asleep.longest(), Duration::ZERO);
    }
}

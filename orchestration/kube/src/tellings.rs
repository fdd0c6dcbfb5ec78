//! What Kubernetes is to be told and was not yet: each thing once, in order, and again a while later when it could not be.

use crate::core::Notice;
use crate::desired::{Patch, Problem};
use crate::key::Key;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long something is worth telling: for as long as API servers keep Events.
const WORTH: Duration = Duration::from_secs(3600);

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// An Event on an object with this uid.
    Notice(Notice, Option<Uuid>),
    /// All that an owner wants to be changed.
    Patches(Key, Vec<Patch>),
}

/// What makes two things to tell one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Problem(Key, Problem),
    Patches(Key),
}

impl Told {
    fn subject(&self) -> Subject {
        match self {
            Told::Notice(notice, _) => Subject::Problem(notice.key.clone(), notice.problem.clone()),
            Told::Patches(key, _) => Subject::Patches(key.clone()),
        }
    }
}

/// Something to tell, with how it went so far.
#[derive(Debug)]
pub struct Telling {
    /// What.
    pub told: Told,
    /// How often it could not be told.
    pub failures: u32,
    since: Duration,
}

/// Everything that was not told yet. It holds no more than there are owners and problems: what is put again takes the place
/// of what it was.
#[derive(Debug, Default)]
pub struct Tellings {
    waiting: BTreeMap<(Duration, u64), Telling>,
    places: BTreeMap<Subject, (Duration, u64)>,
    count: u64,
}

impl Tellings {
    /// Something to tell, instead of what was to be told of the same. Times only grow.
    pub fn put(&mut self, told: Told, now: Duration) {
        if let Some(waiting) =
            self.places.get(&told.subject()).and_then(|place| self.waiting.get_mut(place))
        {
            waiting.told = told;
            return;
        }
        self.insert(Telling { told, failures: 0, since: now }, now);
    }

    fn insert(&mut self, telling: Telling, at: Duration) {
        self.count += 1;
        let place = (at, self.count);
        self.places.insert(telling.told.subject(), place);
        self.waiting.insert(place, telling);
    }

    /// The next thing whose time has come.
    pub fn take(&mut self, now: Duration) -> Option<Telling> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let telling = first.remove();
        self.places.remove(&telling.told.subject());
        Some(telling)
    }

    /// It could not be told: it is again a while later, unless something newer is to be told of the same. No: it is not worth
    /// telling any more.
    pub fn again(&mut self, mut telling: Telling, now: Duration) -> bool {
        if self.places.contains_key(&telling.told.subject()) {
            return true;
        }
        if now.saturating_sub(telling.since) > WORTH {
            return false;
        }
        let factor = 1u32.checked_shl(telling.failures.min(16)).unwrap_or(u32::MAX);
        telling.failures += 1;
        self.insert(telling, now + BACKOFF.0.saturating_mul(factor).min(BACKOFF.1));
        true
    }

    /// When [`take`](Self::take) has something.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many things wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether everything was told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Sort;
    use serde_json::json;

    fn notice(name: &str, message: &str) -> Told {
        let problem = Problem { reason: "BadPolicy", message: message.into() };
        Told::Notice(Notice { key: Key::new(Sort::Policy, "shop", name), problem }, None)
    }

    fn patches(value: u32) -> Told {
        let key = Key::new(Sort::Pod, "shop", "a");
        let patch = Patch { key: key.clone(), status: true, body: json!({ "a": value }) };
        Told::Patches(key, vec![patch])
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn everything_is_told_in_order_and_what_fails_comes_again_later_and_later() {
        let mut all = Tellings::default();
        all.put(notice("a", "x"), at(0));
        all.put(notice("a", "y"), at(0));
        all.put(notice("a", "x"), at(0));
        assert_eq!(all.len(), 2, "the same is told once");
        let first = all.take(at(0)).unwrap();
        assert_eq!(first.told, notice("a", "x"));
        assert!(all.again(first, at(0)));
        assert_eq!(all.take(at(0)).unwrap().told, notice("a", "y"), "nothing waits for it");
        assert!(all.take(at(0)).is_none());
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        while let Some(next) = all.next() {
            waits.push((next - now).as_millis());
            now = next;
            let telling = all.take(now).unwrap();
            if !all.again(telling, now) {
                break;
            }
        }
        assert_eq!(waits[..7], [500, 1000, 2000, 4000, 8000, 16_000, 30_000]);
        assert!((at(3600)..at(3700)).contains(&now), "{now:?}");
        assert!(all.is_empty());
    }

    #[test]
    fn what_is_newer_takes_the_place_of_what_it_was() {
        let mut all = Tellings::default();
        all.put(patches(1), at(0));
        let first = all.take(at(0)).unwrap();
        // While the first one is on its way, another is wanted: then the first must not come after it.
        all.put(patches(2), at(1));
        assert!(all.again(first, at(2)));
        assert_eq!(all.len(), 1);
        all.put(patches(3), at(2));
        assert_eq!(all.take(at(2)).unwrap().told, patches(3));
        assert!(all.is_empty());
    }
}

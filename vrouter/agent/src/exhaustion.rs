//! Whether the ports that workloads borrow of the node have run out of late.

use std::time::Duration;

/// How long it is told after the last refusal.
const TOLD: Duration = Duration::from_secs(60);

/// Counts refusals; without a clock of its own.
#[derive(Debug, Default)]
pub(crate) struct Exhaustion {
    counted: Option<u64>,
    refused: u64,
    last: Option<Duration>,
}

impl Exhaustion {
    /// Takes how many connections found no port since the programs were loaded. True when it begins.
    pub(crate) fn count(&mut self, counted: u64, now: Duration) -> bool {
        let before = self.counted.replace(counted).unwrap_or(counted);
        let more = counted.saturating_sub(before);
        let over = self.last.is_none_or(|last| now.saturating_sub(last) >= TOLD);
        if over {
            self.last = None;
            self.refused = 0;
        }
        if more == 0 {
            return false;
        }
        self.refused += more;
        self.last = Some(now);
        over
    }

    /// What people are told.
    pub(crate) fn problem(&self) -> Option<String> {
        self.last?;
        Some(format!(
            "{} packets that open connections to the outside found no free port of the node's address: widen the pool of \
             their protocol, or see what opens so many connections with `skein vrouter flows`",
            self.refused
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_it_begins_and_for_a_minute_after() {
        let at = Duration::from_secs;
        let mut exhaustion = Exhaustion::default();
        assert!(!exhaustion.count(7, at(0)), "an older agent told that");
        assert_eq!(exhaustion.problem(), None);
        assert!(exhaustion.count(9, at(5)));
        assert!(!exhaustion.count(10, at(10)), "it goes on");
        assert!(exhaustion.problem().unwrap().starts_with("3 packets"));
        assert!(!exhaustion.count(10, at(69)));
        assert!(exhaustion.problem().is_some());
        assert!(!exhaustion.count(10, at(70)));
        assert_eq!(exhaustion.problem(), None);
        assert!(exhaustion.count(11, at(75)));
        assert!(exhaustion.problem().unwrap().starts_with("1 packets"));
    }
}

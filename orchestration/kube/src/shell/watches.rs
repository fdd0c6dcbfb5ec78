//! How the watches of Kubernetes go, for machines: how often everything had to be listed, and why.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Why everything of a type was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Listing {
    /// Nothing was known yet.
    Start,
    /// What was known is too old for the API server (status 410).
    Expired,
    /// The API server has the type in another version than before, or lost and has it again.
    Rediscovered,
}

impl Listing {
    fn name(self) -> &'static str {
        match self {
            Listing::Start => "start",
            Listing::Expired => "expired",
            Listing::Rediscovered => "rediscovered",
        }
    }
}

/// Counts since the start, by kind.
#[derive(Debug, Default)]
pub(super) struct Watches {
    lists: Mutex<BTreeMap<(&'static str, Listing), u64>>,
    interruptions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Watches {
    pub(super) fn listed(&self, kind: &'static str, why: Listing) {
        *self.lists.lock().entry((kind, why)).or_default() += 1;
    }

    pub(super) fn interrupted(&self, kind: &'static str) {
        *self.interruptions.lock().entry(kind).or_default() += 1;
    }

    /// OpenMetrics text.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str(
            "# HELP skein_kube_lists Full lists of a Kubernetes type, by why they were needed.\n",
        );
        out.push_str("# TYPE skein_kube_lists counter\n");
        for ((kind, why), count) in self.lists.lock().iter() {
            let why = why.name();
            let _ =
                writeln!(out, "skein_kube_lists_total{{kind=\"{kind}\",reason=\"{why}\"}} {count}");
        }
        out.push_str(
            "# HELP skein_kube_watch_errors Errors of lists and watches of a Kubernetes type.\n",
        );
        out.push_str("# TYPE skein_kube_watch_errors counter\n");
        for (kind, count) in self.interruptions.lock().iter() {
            let _ = writeln!(out, "skein_kube_watch_errors_total{{kind=\"{kind}\"}} {count}");
        }
    }
}

//! The word of all controllers and of the saved state, as one.
//!
//! Controllers compile the same revisions, so their words differ only in time. Intent is taken from the
//! freshest view; a prefix has every path any view gives it, equal ones counted once. While at least
//! one controller is connected and complete, views of the absent are dropped; when none is, the last
//! ones stay (headless).

use super::spec::PathSpec;
use super::view::{Touched, View};
use ipnet::IpNet;
use skein_proto::session as wire;

/// Index of the view that was loaded from disk.
const SAVED: usize = 0;

#[derive(Clone, Debug, Default)]
struct Source {
    view: View,
    connected: bool,
}

/// Every view, and which of them count.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    sources: Vec<Source>,
}

impl Merged {
    /// Room for the saved state and `controllers` controllers.
    pub(crate) fn new(controllers: usize) -> Self {
        Self { sources: vec![Source::default(); controllers + 1] }
    }

    pub(crate) fn load(
        &mut self,
        intent: wire::Intent,
        routes: &wire::Routes,
        touched: &mut Touched,
    ) {
        let saved = &mut self.sources[SAVED].view;
        saved.begin();
        saved.intent(intent, touched);
        saved.routes(routes, touched);
    }

    pub(crate) fn connected(&mut self, controller: usize) {
        if let Some(source) = self.sources.get_mut(controller + 1) {
            source.connected = true;
            source.view.begin();
        }
    }

    pub(crate) fn disconnected(&mut self, controller: usize, touched: &mut Touched) {
        if let Some(source) = self.sources.get_mut(controller + 1) {
            source.connected = false;
        }
        self.drop_absent(touched);
    }

    pub(crate) fn intent(
        &mut self,
        controller: usize,
        intent: wire::Intent,
        touched: &mut Touched,
    ) {
        if let Some(source) = self.sources.get_mut(controller + 1) {
            source.view.intent(intent, touched);
        }
        self.drop_absent(touched);
    }

    pub(crate) fn routes(
        &mut self,
        controller: usize,
        routes: &wire::Routes,
        touched: &mut Touched,
    ) {
        if let Some(source) = self.sources.get_mut(controller + 1) {
            source.view.routes(routes, touched);
        }
        self.drop_absent(touched);
    }

    /// True while some connected controller has said everything.
    pub(crate) fn is_fresh(&self) -> bool {
        self.sources.iter().any(Source::is_fresh)
    }

    /// Where intent comes from.
    pub(crate) fn leader(&self) -> &View {
        &self.sources[self.leading()].view
    }

    /// Index of the source intent comes from: fresh before stale, then the higher revision, then order.
    /// It can change with any message, end markers of routes included.
    pub(crate) fn leading(&self) -> usize {
        let best = self
            .sources
            .iter()
            .enumerate()
            .filter(|(_, source)| !source.view.is_empty() || source.is_fresh())
            .max_by_key(|(index, source)| {
                (source.is_fresh(), source.view.revision(), std::cmp::Reverse(*index))
            });
        best.map_or(SAVED, |(index, _)| index)
    }

    /// Paths to a prefix, every view's, each once, in order.
    pub(crate) fn paths(&self, vrf: &str, prefix: &IpNet) -> Vec<PathSpec> {
        let all = self.sources.iter().flat_map(|source| source.view.paths(vrf, prefix));
        let mut paths: Vec<PathSpec> = all.cloned().collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Every prefix of every view; a prefix of two views comes twice.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (&str, &IpNet)> {
        self.sources.iter().flat_map(|source| source.view.prefixes())
    }

    /// The view to save: the leader's intent with its routes.
    pub(crate) fn messages(&self) -> (wire::Intent, wire::Routes) {
        self.leader().messages()
    }

    fn drop_absent(&mut self, touched: &mut Touched) {
        if !self.is_fresh() {
            return;
        }
        let absent = self.sources.iter_mut().filter(|source| !source.connected);
        absent
            .filter(|source| !source.view.is_empty())
            .for_each(|source| source.view.clear(touched));
    }
}

impl Source {
    fn is_fresh(&self) -> bool {
        self.connected && self.view.is_complete()
    }
}

//! Other programs' routes of the main table: where ours yield, and what stands in front of ours.

use super::message::RouteEntry;
use lasthop_net::{IfIndex, Prefix};
use std::collections::{BTreeMap, BTreeSet};

/// Other programs' routes by prefix.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    routes: BTreeMap<Prefix, Vec<RouteEntry>>,
}

impl Foreign {
    /// Knows these and no others; the prefixes where that is news.
    pub(super) fn reset(&mut self, routes: Vec<RouteEntry>) -> BTreeSet<Prefix> {
        let before = std::mem::take(&mut self.routes);
        for entry in routes {
            self.add(entry);
        }
        let differs = |prefix: &&Prefix| before.get(prefix) != self.routes.get(prefix);
        before.keys().chain(self.routes.keys()).filter(differs).copied().collect()
    }

    /// The routes of a prefix.
    pub(super) fn at(&self, prefix: Prefix) -> &[RouteEntry] {
        self.routes.get(&prefix).map_or(&[], Vec::as_slice)
    }

    /// Whether one of a prefix's routes has this metric: the same key as a route of ours.
    pub(super) fn has_metric(&self, prefix: Prefix, metric: u32) -> bool {
        self.at(prefix).iter().any(|entry| entry.metric == metric && entry.tos == 0)
    }

    pub(super) fn add(&mut self, entry: RouteEntry) {
        let routes = self.routes.entry(entry.prefix).or_default();
        if !routes.contains(&entry) {
            routes.push(entry);
        }
    }

    pub(super) fn remove(&mut self, entry: &RouteEntry) {
        self.retain(entry.prefix, |known| known != entry);
    }

    /// Forgets what was replaced: the route of this metric.
    pub(super) fn remove_metric(&mut self, prefix: Prefix, metric: u32) {
        self.retain(prefix, |known| known.metric != metric || known.tos != 0);
    }

    fn retain(&mut self, prefix: Prefix, keep: impl FnMut(&RouteEntry) -> bool) {
        if let Some(routes) = self.routes.get_mut(&prefix) {
            routes.retain(keep);
            if routes.is_empty() {
                self.routes.remove(&prefix);
            }
        }
    }

    /// Forgets routes that went silently with their links; their prefixes.
    pub(super) fn remove_links(&mut self, links: &BTreeSet<IfIndex>) -> BTreeSet<Prefix> {
        let lost = |entry: &RouteEntry| links.iter().any(|link| entry.uses(*link));
        let prefixes: BTreeSet<Prefix> =
            self.routes.iter().filter(|(_, routes)| routes.iter().any(lost)).map(|(prefix, _)| *prefix).collect();
        for prefix in &prefixes {
            self.retain(*prefix, |entry| !lost(entry));
        }
        prefixes
    }
}

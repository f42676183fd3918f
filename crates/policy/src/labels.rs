//! Effective labels: an item's own, what is implied by where it lives, and what it inherits.
//!
//! Implied labels cannot be overridden, or a workload could choose its own namespace; own labels win over inherited ones.

use lasthop_model::Labels;

/// Of an endpoint or network set in a namespace: the namespace's name.
pub const NAMESPACE: &str = "projectcalico.org/namespace";
/// Of a workload: its service account's name.
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Of a workload: who runs it.
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Of namespaces, service accounts and network sets: their own name.
pub const NAME: &str = "projectcalico.org/name";
/// The name of a namespace, as Kubernetes writes it.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// Leads the labels that come from the namespace.
pub const OF_NAMESPACE: &str = "pcns.";
/// Leads the labels that come from the service account.
pub const OF_SERVICE_ACCOUNT: &str = "pcsa.";
/// A service account's name longer than this is no label value.
const LONGEST_VALUE: usize = 63;

/// Where something with labels lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Home<'a> {
    /// Its namespace, and that one's labels.
    pub namespace: Option<(&'a str, Option<&'a Labels>)>,
    /// Its service account, and that one's labels.
    pub service_account: Option<(&'a str, Option<&'a Labels>)>,
    /// Who runs it.
    pub orchestrator: Option<&'a str>,
    /// Its own name, of kinds that are found by it.
    pub name: Option<&'a str>,
}

/// The labels that selectors see: `inherited` are those of its profiles, the first having most to say.
#[must_use]
pub fn effective<'a>(own: &Labels, home: Home<'_>, inherited: impl DoubleEndedIterator<Item = &'a Labels>) -> Labels {
    let mut labels = Labels::new();
    for profile in inherited.rev() {
        labels.extend(profile.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    if let Some((name, of)) = home.namespace {
        lead(&mut labels, OF_NAMESPACE, of, &[(METADATA_NAME, name), (NAME, name)]);
    }
    if let Some((name, of)) = home.service_account {
        lead(&mut labels, OF_SERVICE_ACCOUNT, of, &[(NAME, name)]);
    }
    labels.extend(own.iter().map(|(k, v)| (k.clone(), v.clone())));
    let implied = [
        (NAMESPACE, home.namespace.map(|(name, _)| name)),
        (SERVICE_ACCOUNT, home.service_account.map(|(name, _)| name).filter(|name| name.len() <= LONGEST_VALUE)),
        (ORCHESTRATOR, home.orchestrator),
        (NAME, home.name),
    ];
    for (key, value) in implied {
        match value {
            Some(value) => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            // Nobody lends himself a namespace.
            None if key == NAMESPACE => {
                labels.remove(key);
            }
            None => {}
        }
    }
    labels
}

fn lead(to: &mut Labels, prefix: &str, from: Option<&Labels>, implied: &[(&str, &str)]) {
    for (key, value) in from.into_iter().flatten() {
        to.insert(format!("{prefix}{key}"), value.clone());
    }
    for (key, value) in implied {
        to.insert(format!("{prefix}{key}"), (*value).to_owned());
    }
}

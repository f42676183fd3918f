//! Resources of the store, and what was done to them.

use super::{Cell, Format, Now, Paint, Sheet, Tone, list, span};
use lasthop_model::policy::Tier;
use lasthop_model::{Key, Kind, to_yaml};
use lasthop_store::Stored;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// What was done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Deed {
    /// It was not there.
    Created,
    /// It was there, and other.
    Configured,
    /// It was there, and other.
    Replaced,
    /// It was right already.
    Unchanged,
    /// It is gone.
    Deleted,
    /// A dry run: it is not there.
    WouldCreate,
    /// A dry run: it is there, and other.
    WouldChange,
}

/// A resource, and what was done to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    result: Deed,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

impl Done {
    /// What was done to the resource of that key, which is now at that revision.
    pub(crate) fn new(key: &Key, result: Deed, revision: Option<u64>) -> Self {
        let Key { kind, namespace, name } = key.clone();
        Self { kind: kind.name(), namespace, name, result, revision }
    }

    /// The revision that the resource is now at.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.revision
    }
}

/// A line for everything that was done.
pub(crate) fn deeds(done: &[Done], paint: Paint) -> String {
    let line = |done: &Done| {
        let place = done.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let (tone, word) = match done.result {
            Deed::Created => (Tone::Good, "created"),
            Deed::Configured => (Tone::Good, "configured"),
            Deed::Replaced => (Tone::Good, "replaced"),
            Deed::Unchanged => (Tone::Plain, "unchanged"),
            Deed::Deleted => (Tone::Good, "deleted"),
            Deed::WouldCreate => (Tone::Wait, "would be created"),
            Deed::WouldChange => (Tone::Wait, "would be changed"),
        };
        format!("{} {place}{} {}\n", done.kind, done.name, paint.paint(tone, word))
    };
    done.iter().map(line).collect()
}

/// A line for a change.
pub(crate) fn change(key: &Key, word: &str, document: &Value) -> String {
    let revision = field(document, "/metadata/resourceVersion").or_else(|| field(document, "/revision"));
    format!("{key} {word}, revision {}\n", revision.unwrap_or_default())
}

/// YAML documents that `apply -f -` takes.
pub(crate) fn yaml_documents(items: &[Stored]) -> String {
    items.iter().map(|stored| to_yaml(&stored.document)).collect::<Vec<_>>().join("---\n")
}

/// Draws resources of one kind, or of all.
pub(crate) fn resources(kind: Option<Kind>, items: &[Stored], (format, now, paint): (Format, Now, Paint)) -> String {
    if items.is_empty() {
        let what = kind.map_or("resources", Kind::plural);
        return format!("no {what}\n");
    }
    let wide = format == Format::Wide;
    let mut headers = match kind {
        None => vec!["KIND"],
        Some(_) => vec![],
    };
    if kind.is_none_or(Kind::is_namespaced) {
        headers.push("NAMESPACE");
    }
    headers.push("NAME");
    let columns = kind.map(columns).unwrap_or_default();
    let shown = columns.iter().filter(|column| wide || !column.wide);
    headers.extend(shown.clone().map(|column| column.header));
    if wide || kind.is_none() {
        headers.extend(["REVISION", "AGE"]);
    }
    let mut sheet = Sheet::new(&headers);
    for stored in items {
        let mut row: Vec<Cell> = Vec::new();
        if kind.is_none() {
            row.push(stored.key.kind.name().into());
        }
        if kind.is_none_or(Kind::is_namespaced) {
            row.push(stored.key.namespace.as_deref().unwrap_or_default().into());
        }
        row.push(stored.key.name.as_str().into());
        row.extend(shown.clone().map(|column| (column.cell)(&stored.document).into()));
        if wide || kind.is_none() {
            row.push(stored.revision.to_string().into());
            row.push(age(&stored.document, now).into());
        }
        sheet.row(row);
    }
    sheet.draw(paint, 0)
}

/// A column of a kind's table.
struct Column {
    header: &'static str,
    wide: bool,
    cell: fn(&Value) -> String,
}

const fn column(header: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { header, wide: false, cell }
}

const fn wide(header: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { header, wide: true, cell }
}

fn columns(kind: Kind) -> Vec<Column> {
    match kind {
        Kind::Node => vec![
            column("IPV4", |d| field(d, "/spec/bgp/ipv4Address").unwrap_or_default()),
            column("IPV6", |d| field(d, "/spec/bgp/ipv6Address").unwrap_or_default()),
            column("AS", |d| field(d, "/spec/bgp/asNumber").unwrap_or_else(|| "(default)".into())),
            wide("REFLECTOR", |d| field(d, "/spec/bgp/routeReflectorClusterID").unwrap_or_default()),
            wide("LABELS", labels),
        ],
        Kind::WorkloadEndpoint => vec![
            column("NODE", |d| field(d, "/spec/node").unwrap_or_default()),
            column("ADDRESSES", |d| list(elements(d, "/spec/ipNetworks"))),
            column("LINK", |d| field(d, "/spec/interfaceName").unwrap_or_default()),
            wide("MAC", |d| field(d, "/spec/mac").unwrap_or_default()),
            wide("LABELS", labels),
        ],
        Kind::IpPool => vec![
            column("CIDR", |d| field(d, "/spec/cidr").unwrap_or_default()),
            column("NAT", |d| field(d, "/spec/natOutgoing").unwrap_or_else(|| "false".into())),
            column("DISABLED", |d| field(d, "/spec/disabled").unwrap_or_else(|| "false".into())),
            wide("BGP EXPORT", |d| match field(d, "/spec/disableBGPExport").as_deref() {
                Some("true") => "no".into(),
                _ => "yes".into(),
            }),
        ],
        Kind::BgpConfiguration | Kind::BgpPeer | Kind::BgpFilter => bgp_columns(kind),
        Kind::FelixConfiguration => vec![column("SETTINGS", |d| {
            let spec = d.pointer("/spec").and_then(Value::as_object);
            list(spec.into_iter().flatten().map(|(name, value)| format!("{name}={}", plain(value))))
        })],
        Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => vec![
            column("TIER", |d| field(d, "/spec/tier").unwrap_or_else(|| "default".into())),
            column("ORDER", |d| field(d, "/spec/order").unwrap_or_else(|| "(last)".into())),
            column("SELECTOR", |d| field(d, "/spec/selector").unwrap_or_else(|| "all()".into())),
            wide("RULES", rule_counts),
        ],
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => vec![
            column("PODS", |d| label_selector(d.pointer("/spec/podSelector"))),
            column("TYPES", |d| list(elements(d, "/spec/policyTypes"))),
            wide("RULES", rule_counts),
        ],
        Kind::ClusterNetworkPolicy => vec![
            column("TIER", |d| field(d, "/spec/tier").unwrap_or_default()),
            column("PRIORITY", |d| field(d, "/spec/priority").unwrap_or_default()),
            wide("RULES", rule_counts),
        ],
        Kind::Tier => vec![
            column("ORDER", |d| field(d, "/spec/order").unwrap_or_else(|| "(last)".into())),
            column("DEFAULT", |d| field(d, "/spec/defaultAction").unwrap_or_else(|| "Deny".into())),
            column("BUILT-IN", |d| {
                let name = field(d, "/metadata/name").unwrap_or_default();
                if Tier::built_in(&name).is_some() { "yes".into() } else { "-".into() }
            }),
        ],
        Kind::Profile => vec![column("RULES", rule_counts)],
        Kind::NetworkSet | Kind::GlobalNetworkSet => {
            vec![column("NETS", |d| elements(d, "/spec/nets").len().to_string()), wide("LABELS", labels)]
        }
        Kind::HostEndpoint => vec![
            column("NODE", |d| field(d, "/spec/node").unwrap_or_default()),
            column("INTERFACE", |d| field(d, "/spec/interfaceName").unwrap_or_else(|| "(by address)".into())),
            column("ADDRESSES", |d| list(elements(d, "/spec/expectedIPs"))),
            wide("LABELS", labels),
        ],
        Kind::Namespace | Kind::ServiceAccount => vec![column("LABELS", labels)],
        Kind::Rollout => vec![
            column("UNTIL", |d| field(d, "/spec/until").unwrap_or_default()),
            column("CHANGES", |d| elements(d, "/spec/changes").len().to_string()),
        ],
        Kind::RolloutReport => vec![
            column("NODE", |d| field(d, "/spec/node").unwrap_or_default()),
            column("REFUSED", |d| {
                let refused = d.pointer("/spec/refused").and_then(|refused| refused.as_object());
                refused.map_or(0, |refused| refused.len()).to_string()
            }),
        ],
        Kind::EndpointSlice => vec![
            column("SERVICE", |d| {
                let name = d.pointer("/metadata/labels/kubernetes.io~1service-name");
                name.map(plain).unwrap_or_default()
            }),
            column("ENDPOINTS", |d| elements(d, "/endpoints").len().to_string()),
        ],
    }
}

/// How many rules a policy has for each direction.
fn rule_counts(document: &Value) -> String {
    let count = |path: &str| elements(document, path).len();
    format!("{} in, {} out", count("/spec/ingress"), count("/spec/egress"))
}

/// A label selector of Kubernetes on one line.
fn label_selector(selector: Option<&Value>) -> String {
    let labels = selector.and_then(|selector| selector.get("matchLabels")?.as_object()).into_iter().flatten();
    let tests = selector.and_then(|selector| selector.get("matchExpressions")?.as_array()).into_iter().flatten();
    let mut parts: Vec<String> = labels.map(|(key, value)| format!("{key}={}", plain(value))).collect();
    parts.extend(tests.map(|test| {
        let part = |name: &str| test.get(name).map(plain).unwrap_or_default();
        format!("{} {}", part("key"), part("operator"))
    }));
    if parts.is_empty() { "(all)".into() } else { list(parts) }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The value at a path, unless it is not set.
fn bgp_columns(kind: Kind) -> Vec<Column> {
    match kind {
        Kind::BgpConfiguration => vec![
            column("AS", |d| field(d, "/spec/asNumber").unwrap_or_else(|| "64512".into())),
            column("MESH", |d| field(d, "/spec/nodeToNodeMeshEnabled").unwrap_or_else(|| "true".into())),
            wide("PORT", |d| field(d, "/spec/listenPort").unwrap_or_else(|| "179".into())),
        ],
        Kind::BgpPeer => vec![
            column("PEER", |d| field(d, "/spec/peerIP").or_else(|| field(d, "/spec/peerSelector")).unwrap_or_default()),
            column("AS", |d| field(d, "/spec/asNumber").unwrap_or_default()),
            column("NODES", |d| {
                field(d, "/spec/node").or_else(|| field(d, "/spec/nodeSelector")).unwrap_or_else(|| "all()".into())
            }),
        ],
        _ => vec![
            column("IMPORT", |d| count(d, ["/spec/importV4", "/spec/importV6"])),
            column("EXPORT", |d| count(d, ["/spec/exportV4", "/spec/exportV6"])),
        ],
    }
}

/// How many entries lists have together.
fn count(document: &Value, lists: [&str; 2]) -> String {
    let length = |path| document.pointer(path).and_then(Value::as_array).map_or(0, Vec::len);
    lists.into_iter().map(length).sum::<usize>().to_string()
}

fn field(document: &Value, path: &str) -> Option<String> {
    document.pointer(path).filter(|value| !value.is_null() && *value != "").map(plain)
}

fn elements(document: &Value, path: &str) -> Vec<String> {
    document.pointer(path).and_then(Value::as_array).into_iter().flatten().map(plain).collect()
}

fn labels(document: &Value) -> String {
    let labels = document.pointer("/metadata/labels").and_then(Value::as_object);
    list(labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value))))
}

/// How long ago a document was created.
fn age(document: &Value, now: Now) -> String {
    let created = field(document, "/metadata/creationTimestamp").and_then(|text| seconds(&text));
    created.map(|at| span(Duration::from_secs(now.0.saturating_sub(at)))).unwrap_or_default()
}

/// Seconds since 1970 of a time as the store writes it: `2026-11-22T18:06:37Z`.
fn seconds(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum::<u64>()
        + lengths.iter().take(usize::try_from(month).ok()? - 1).sum::<u64>()
        + day
        - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_store::Revision;
    use serde_json::json;

    fn stored(kind: Kind, name: &str, spec: Value) -> Stored {
        let namespace = kind.is_namespaced().then(|| "default".to_owned());
        let document = json!({
            "apiVersion": kind.api_version(), "kind": kind.written(), "spec": spec,
            "metadata": {"name": name, "creationTimestamp": "2026-11-22T18:06:37Z", "resourceVersion": "7"},
        });
        let key = Key { kind, namespace, name: name.to_owned() };
        Stored { key, document, revision: Revision(7), created_revision: Revision(7) }
    }

    #[test]
    fn a_table_has_the_columns_of_its_kind() {
        let now = Now(seconds("2026-11-22T18:09:49Z").unwrap());
        let draw = |kind, items: &[Stored], format| resources(kind, items, (format, now, Paint::OFF));
        let pool = stored(Kind::IpPool, "pool-1", json!({"cidr": "10.65.0.0/16", "natOutgoing": true}));
        let endpoint = stored(
            Kind::WorkloadEndpoint,
            "vm1",
            json!({"node": "compute-1", "ipNetworks": ["10.65.0.24/32", "fd65::24/128"], "interfaceName": "tap1"}),
        );
        assert_eq!(
            draw(Some(Kind::IpPool), std::slice::from_ref(&pool), Format::Table),
            "NAME    CIDR          NAT   DISABLED\npool-1  10.65.0.0/16  true  false\n"
        );
        assert_eq!(
            draw(Some(Kind::IpPool), std::slice::from_ref(&pool), Format::Wide),
            "NAME    CIDR          NAT   DISABLED  BGP EXPORT  REVISION  AGE\n\
             pool-1  10.65.0.0/16  true  false     yes         7         3m12s\n"
        );
        assert_eq!(
            draw(Some(Kind::WorkloadEndpoint), std::slice::from_ref(&endpoint), Format::Table),
            "NAMESPACE  NAME  NODE       ADDRESSES                   LINK\n\
             default    vm1   compute-1  10.65.0.24/32,fd65::24/128  tap1\n"
        );
        assert_eq!(
            draw(None, &[pool, endpoint], Format::Table),
            "KIND              NAMESPACE  NAME    REVISION  AGE\n\
             IPPool            -          pool-1  7         3m12s\n\
             WorkloadEndpoint  default    vm1     7         3m12s\n"
        );
        assert_eq!(draw(Some(Kind::Node), &[], Format::Table), "no nodes\n");
    }

    #[test]
    fn every_kind_can_be_drawn() {
        for kind in Kind::ALL {
            let text = resources(Some(kind), &[stored(kind, "a", json!({}))], (Format::Wide, Now(0), Paint::OFF));
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }

    #[test]
    fn yaml_documents_read_back_as_they_were() {
        let items = [
            stored(Kind::IpPool, "a", json!({"cidr": "10.65.0.0/16"})),
            stored(Kind::Node, "n", json!({"bgp": {"ipv4Address": "172.18.203.10/24", "asNumber": "1.10"}})),
        ];
        let text = yaml_documents(&items);
        let back: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(back, items.map(|stored| stored.document).to_vec(), "{text}");
    }

    #[test]
    fn deeds_are_lines() {
        let key = |kind, namespace: Option<&str>, name: &str| Key {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        let done = [
            Done::new(&key(Kind::IpPool, None, "pool-1"), Deed::Created, Some(1)),
            Done::new(&key(Kind::WorkloadEndpoint, Some("blue"), "vm1"), Deed::Unchanged, Some(2)),
        ];
        assert_eq!(deeds(&done, Paint::OFF), "IPPool pool-1 created\nWorkloadEndpoint blue/vm1 unchanged\n");
    }

    #[test]
    fn a_time_is_read_as_the_store_writes_it() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("yesterday", None),
            ("2026-13-01T00:00:00Z", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}

//! The whole main table of a host, ours and others' routes, each with who made it and, for ours, because of what.

use super::{Cell, Format, Paint, Sheet, Tone};
use lasthop_agent::api::RouteState;
use lasthop_kernel::routes::{ListedRoute, protocol_name};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A route of the main table, or one that ought to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostRoute {
    prefix: String,
    kind: String,
    ways: Vec<HostWay>,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<u32>,
    in_kernel: bool,
    /// Why it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    /// Why it is not, or not wholly, as wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct HostWay {
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// Puts together what the kernel has and what the agent wants.
pub(crate) fn merge(listed: &[ListedRoute], wanted: &[RouteState]) -> Vec<HostRoute> {
    let wanted: BTreeMap<&str, &RouteState> = wanted.iter().map(|route| (route.prefix.as_str(), route)).collect();
    let mut there = BTreeSet::new();
    let mut merged: Vec<HostRoute> = Vec::new();
    for route in listed {
        let prefix = route.prefix.to_string();
        let reason = wanted.get(prefix.as_str()).filter(|_| route.protocol.is_ours());
        if reason.is_some() {
            there.insert(prefix.clone());
        }
        let ways = route.ways.iter().map(|way| HostWay {
            gateway: way.gateway.map(|gateway| gateway.to_string()),
            link: way.link.as_ref().map(ToString::to_string),
        });
        merged.push(HostRoute {
            prefix,
            kind: route.kind.to_owned(),
            ways: ways.collect(),
            protocol: protocol_name(route.protocol).map_or_else(|| route.protocol.0.to_string(), str::to_owned),
            metric: Some(route.metric),
            in_kernel: true,
            because: reason.map(|route| route.because.clone()),
            pending: reason.and_then(|route| route.pending.clone().or_else(|| route.yields.clone())),
        });
    }
    for route in wanted.into_values().filter(|route| !there.contains(&route.prefix)) {
        let gateways = route.next_hops.iter().map(|hop| HostWay { gateway: Some(hop.to_string()), link: None });
        let why = route.pending.clone().or_else(|| route.yields.clone());
        let link = route.link.iter().map(|link| HostWay { gateway: None, link: Some(link.clone()) });
        merged.push(HostRoute {
            prefix: route.prefix.clone(),
            kind: route.kind.clone(),
            ways: gateways.chain(link).collect(),
            protocol: "lasthop".into(),
            metric: None,
            in_kernel: false,
            because: Some(route.because.clone()),
            pending: Some(why.unwrap_or_else(|| "not in the kernel yet".into())),
        });
    }
    merged
}

/// Draws the table: what ought to be there and is not comes last.
pub(crate) fn host_routes(routes: &[HostRoute], format: Format, paint: Paint) -> String {
    if routes.is_empty() {
        return "the main table is empty\n".to_owned();
    }
    let wide = format == Format::Wide;
    let mut headers = vec!["PREFIX", "VIA", "LINK", "MADE BY"];
    if wide {
        headers.push("METRIC");
    }
    headers.extend(["KERNEL", "BECAUSE OF", "WHY NOT"]);
    let mut sheet = Sheet::new(&headers);
    for route in routes {
        let of = |part: fn(&HostWay) -> Option<&String>| {
            let parts: BTreeSet<&String> = route.ways.iter().filter_map(part).collect();
            parts.into_iter().cloned().collect::<Vec<_>>().join(",")
        };
        let via = if route.ways.is_empty() { route.kind.clone() } else { of(|way| way.gateway.as_ref()) };
        let mut row: Vec<Cell> = vec![
            route.prefix.as_str().into(),
            via.into(),
            of(|way| way.link.as_ref()).into(),
            route.protocol.as_str().into(),
        ];
        if wide {
            row.push(route.metric.map(|metric| metric.to_string()).unwrap_or_default().into());
        }
        row.push(match (route.in_kernel, &route.pending) {
            (true, None) => Cell::new(Tone::Good, "yes"),
            (true, Some(_)) => Cell::new(Tone::Wait, "other"),
            (false, _) => Cell::new(Tone::Wait, "no"),
        });
        row.push(route.because.as_deref().unwrap_or_default().into());
        row.push(route.pending.as_deref().unwrap_or_default().into());
        sheet.row(row);
    }
    sheet.draw(paint, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_kernel::routes::Way;
    use lasthop_net::RouteProtocol;

    fn listed(prefix: &str, protocol: RouteProtocol, gateway: Option<&str>, link: &str) -> ListedRoute {
        let way = Way { gateway: gateway.map(|g| g.parse().unwrap()), link: Some(link.parse().unwrap()) };
        ListedRoute { prefix: prefix.parse().unwrap(), protocol, metric: 0, kind: "unicast", ways: vec![way] }
    }

    fn wanted(prefix: &str, because: &str, pending: Option<&str>) -> RouteState {
        RouteState {
            prefix: prefix.into(),
            kind: "remote".into(),
            link: None,
            next_hops: vec!["172.18.203.126".parse().unwrap()],
            because: because.into(),
            in_kernel: pending.is_none(),
            pending: pending.map(str::to_owned),
            yields: None,
            advertised: false,
        }
    }

    #[test]
    fn ours_and_others_stand_in_one_table() {
        let mut unreachable = listed("10.65.0.0/16", RouteProtocol::LEARNED, None, "lo");
        (unreachable.kind, unreachable.ways) = ("unreachable", vec![]);
        let kernel = [
            listed("0.0.0.0/0", RouteProtocol(3), Some("172.18.203.1"), "eth0"),
            unreachable,
            listed("10.65.0.21/32", RouteProtocol::LEARNED, Some("172.18.203.126"), "eth0"),
            listed("10.65.0.22/32", RouteProtocol(4), Some("172.18.203.9"), "eth0"),
            listed("10.99.0.0/16", RouteProtocol(250), None, "eth1"),
        ];
        let agent = [
            wanted("10.65.0.0/16", "rest of pool p", None),
            wanted("10.65.0.21/32", "learned by BGP", None),
            wanted("10.65.0.22/32", "learned by BGP", Some("a foreign route (static) is in place")),
        ];
        let expected = "\
PREFIX         VIA             LINK  MADE BY  KERNEL  BECAUSE OF      WHY NOT
0.0.0.0/0      172.18.203.1    eth0  boot     yes     -               -
10.65.0.0/16   unreachable     -     lasthop  yes     rest of pool p  -
10.65.0.21/32  172.18.203.126  eth0  lasthop  yes     learned by BGP  -
10.65.0.22/32  172.18.203.9    eth0  static   yes     -               -
10.99.0.0/16   -               eth1  250      yes     -               -
10.65.0.22/32  172.18.203.126  -     lasthop  no      learned by BGP  a foreign route (static) is in place
";
        assert_eq!(host_routes(&merge(&kernel, &agent), Format::Table, Paint::OFF), expected);
        assert_eq!(merge(&[], &[]), vec![]);
    }
}

//! The routes of a host: where to, through what, whose, and why not.

use super::{Cell, Format, Paint, Sheet, Tone, list};
use lasthop_agent::api::RouteState;

/// Draws the routes.
pub(crate) fn routes(routes: &[RouteState], format: Format, paint: Paint) -> String {
    let wide = format == Format::Wide;
    let mut headers = vec!["PREFIX", "KIND", "VIA", "BECAUSE OF", "KERNEL"];
    if wide {
        headers.push("ADVERTISED");
    }
    headers.push("WHY NOT");
    let mut sheet = Sheet::new(&headers);
    for route in routes {
        let mut row: Vec<Cell> = vec![
            route.prefix.as_str().into(),
            route.kind.as_str().into(),
            via(route).into(),
            route.because.as_str().into(),
            kernel(route),
        ];
        if wide {
            row.push(if route.advertised { "yes" } else { "no" }.into());
        }
        row.push(route.pending.as_deref().or(route.yields.as_deref()).unwrap_or_default().into());
        sheet.row(row);
    }
    if sheet.is_empty() { "no routes: no workload here, and none learned\n".to_owned() } else { sheet.draw(paint, 0) }
}

fn via(route: &RouteState) -> String {
    match &route.link {
        Some(link) => format!("dev {link}"),
        None => list(&route.next_hops),
    }
}

fn kernel(route: &RouteState) -> Cell {
    match (&route.pending, route.in_kernel) {
        _ if route.yields.is_some() => Cell::new(Tone::Good, "yields"),
        (None, true) => Cell::new(Tone::Good, "yes"),
        // Something of ours is there, but not what is wanted.
        (Some(_), true) => Cell::new(Tone::Wait, "other"),
        (_, false) => Cell::new(Tone::Wait, "pending"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, kind: &str) -> RouteState {
        RouteState {
            prefix: prefix.into(),
            kind: kind.into(),
            link: None,
            next_hops: vec![],
            because: String::new(),
            in_kernel: true,
            pending: None,
            yields: None,
            advertised: false,
        }
    }

    #[test]
    fn every_route_says_where_to_and_why() {
        let all = [
            RouteState {
                link: Some("tapa429fb36-04".into()),
                because: "default/vm1".into(),
                advertised: true,
                ..route("10.65.0.24/32", "direct")
            },
            RouteState {
                next_hops: vec!["172.18.203.126".parse().unwrap(), "172.18.203.129".parse().unwrap()],
                because: "BGP".into(),
                ..route("10.65.0.21/32", "remote")
            },
            RouteState {
                next_hops: vec!["fd00::7e".parse().unwrap()],
                because: "BGP".into(),
                in_kernel: false,
                yields: Some("a foreign route (static) is in place".into()),
                ..route("fd65::21/128", "remote")
            },
            RouteState {
                link: Some("tap9".into()),
                because: "default/vm9".into(),
                in_kernel: false,
                pending: Some("link tap9 is absent".into()),
                ..route("10.65.0.9/32", "direct")
            },
        ];
        let table = "\
PREFIX         KIND    VIA                            BECAUSE OF   KERNEL   WHY NOT
10.65.0.24/32  direct  dev tapa429fb36-04             default/vm1  yes      -
10.65.0.21/32  remote  172.18.203.126,172.18.203.129  BGP          yes      -
fd65::21/128   remote  fd00::7e                       BGP          yields   a foreign route (static) is in place
10.65.0.9/32   direct  dev tap9                       default/vm9  pending  link tap9 is absent
";
        assert_eq!(routes(&all, Format::Table, Paint::OFF), table);
        let wide = routes(&all[..1], Format::Wide, Paint::OFF);
        assert!(wide.contains("ADVERTISED") && wide.contains("yes     yes"), "{wide}");
    }
}

//! Workloads of a host.

use super::{Cell, Format, Paint, Sheet, Tone, list};
use lasthop_agent::api::{Attached, Workload};
use std::time::Duration;

/// Draws a table of workloads.
pub(crate) fn workloads(workloads: &[Workload], format: Format, paint: Paint) -> String {
    let wide = format == Format::Wide;
    let mut headers = vec!["WORKLOAD", "ADDRESSES", "LINK", "LINK STATE", "STATE"];
    if wide {
        headers.extend(["MAC", "RECORD", "LABELS"]);
    }
    let mut sheet = Sheet::new(&headers);
    for one in workloads {
        let up = if one.link_state == "up" { Tone::Good } else { Tone::Bad };
        let mut row: Vec<Cell> = vec![
            one.endpoint.as_str().into(),
            list(&one.addresses).into(),
            one.link.as_str().into(),
            Cell::new(up, one.link_state.as_str()),
            state(one),
        ];
        if wide {
            row.push(one.mac.as_deref().unwrap_or_default().into());
            row.push(one.source.as_str().into());
            row.push(labels(one).into());
        }
        sheet.row(row);
    }
    if sheet.is_empty() {
        return "no workloads here; 'lasthop workload add --help' says how to add one\n".to_owned();
    }
    sheet.draw(paint, 0)
}

fn state(one: &Workload) -> Cell {
    match one.pending.len() {
        0 => Cell::new(Tone::Good, "in force"),
        1 => Cell::new(Tone::Wait, one.pending.values().next().map(String::as_str).unwrap_or_default()),
        many => Cell::new(Tone::Wait, format!("{many} things pending")),
    }
}

fn labels(one: &Workload) -> String {
    list(one.labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// Draws one workload, line by line.
pub(crate) fn workload(one: &Workload, paint: Paint) -> String {
    let mut text = format!("{}\n", paint.paint(Tone::Strong, &one.endpoint));
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<12}{value}\n"));
    line("addresses", &list(&one.addresses));
    line("link", &format!("{}, {}", one.link, one.link_state));
    line("mac", one.mac.as_deref().unwrap_or("not known"));
    line("labels", &labels(one));
    line("record", &one.source);
    line("in force", &list(&one.programmed));
    for (object, why) in &one.pending {
        line("pending", &format!("{object}: {why}"));
    }
    text
}

/// Says what an attach has done.
pub(crate) fn attached(name: &str, done: &Attached, paint: Paint) -> String {
    let took = Duration::from_micros(done.elapsed_us);
    let state = match done.pending.is_empty() {
        true => paint.paint(Tone::Good, "in force"),
        false => paint.paint(Tone::Wait, "recorded, not yet in force"),
    };
    let mut text = format!("workload {name}: {state}, in {:.1} ms\n", took.as_secs_f64() * 1000.0);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12}{value}\n"));
    line("addresses", list(&done.addresses));
    let mtu = done.mtu.map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
    line("link", format!("{}{mtu}", done.link));
    if let Some(mac) = &done.workload_mac {
        line("mac", mac.clone());
    }
    let gateways: Vec<_> = done
        .gateway_v4
        .iter()
        .map(ToString::to_string)
        .chain(done.gateway_v6.iter().map(ToString::to_string))
        .collect();
    let host = done.host_mac.as_ref().map(|mac| format!(" at {mac}")).unwrap_or_default();
    line("gateways", format!("{}{host}", list(gateways)));
    line("in force", list(&done.programmed));
    for (object, why) in &done.pending {
        line("pending", format!("{object}: {why}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn vm1() -> Workload {
        Workload {
            endpoint: "default/vm1".into(),
            link: "tapa429fb36-04".into(),
            link_state: "up".into(),
            addresses: BTreeSet::from(["10.65.0.24".parse().unwrap(), "fd65::24".parse().unwrap()]),
            mac: Some("fa:16:3e:00:00:01".into()),
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            source: "attached here".into(),
            programmed: BTreeSet::from(["10.65.0.24/32".to_owned(), "fd65::24/128".to_owned()]),
            pending: BTreeMap::new(),
        }
    }

    #[test]
    fn workloads_are_listed_with_their_state() {
        let mut vm2 = vm1();
        vm2.endpoint = "default/vm2".into();
        vm2.link_state = "absent".into();
        vm2.pending.insert("10.65.0.24/32".into(), "link is absent".into());
        let table = "\
WORKLOAD     ADDRESSES            LINK            LINK STATE  STATE
default/vm1  10.65.0.24,fd65::24  tapa429fb36-04  up          in force
default/vm2  10.65.0.24,fd65::24  tapa429fb36-04  absent      link is absent
";
        assert_eq!(workloads(&[vm1(), vm2], Format::Table, Paint::OFF), table);
        let wide = workloads(&[vm1()], Format::Wide, Paint::OFF);
        assert!(wide.ends_with("fa:16:3e:00:00:01  attached here  role=web\n"), "{wide}");
    }

    #[test]
    fn one_workload_is_told_line_by_line() {
        let expected = "\
default/vm1
  addresses   10.65.0.24,fd65::24
  link        tapa429fb36-04, up
  mac         fa:16:3e:00:00:01
  labels      role=web
  record      attached here
  in force    10.65.0.24/32,fd65::24/128
";
        assert_eq!(workload(&vm1(), Paint::OFF), expected);
    }

    #[test]
    fn an_attach_says_what_was_programmed_and_how_long_it_took() {
        let done = Attached {
            link: "lh0a1b".into(),
            ifindex: Some(7),
            host_mac: Some("ee:ee:ee:ee:ee:ee".into()),
            workload_mac: None,
            mtu: Some(1500),
            addresses: BTreeSet::from(["10.65.0.24".parse().unwrap()]),
            gateway_v4: Some("169.254.1.1".parse().unwrap()),
            gateway_v6: None,
            programmed: BTreeSet::from(["10.65.0.24/32".to_owned()]),
            pending: BTreeMap::new(),
            elapsed_us: 1234,
        };
        let expected = "\
workload default/vm1: in force, in 1.2 ms
  addresses   10.65.0.24
  link        lh0a1b, MTU 1500
  gateways    169.254.1.1 at ee:ee:ee:ee:ee:ee
  in force    10.65.0.24/32
";
        assert_eq!(attached("default/vm1", &done, Paint::OFF), expected);
    }
}

//! Looking at a lab: what runs, what its hosts say, who reaches whom.

use crate::control;
use crate::ping::{self, Outcome, Patience, Source, Target};
use crate::state::{LabDirectory, Manifest};
use crate::topology::WorkloadKind;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A lab on one screen.
#[derive(Clone, Debug, Serialize)]
pub struct LabStatus {
    /// Its name.
    pub lab: String,
    /// Whether `up` came to its end.
    pub complete: bool,
    /// The hosts.
    pub hosts: Vec<HostStatus>,
    /// The workloads.
    pub workloads: Vec<WorkloadStatus>,
}

/// A host of a lab.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is a reflector.
    pub reflector: bool,
    /// Its processes: the process id, or none if it has ended.
    pub processes: BTreeMap<String, Option<i32>>,
    /// Sessions established, of all.
    pub sessions: Option<(usize, usize)>,
    /// Direct and learned routes in the kernel.
    pub routes: Option<(usize, usize)>,
    /// Why its agent says nothing.
    pub error: Option<String>,
}

/// A workload of a lab.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: String,
    /// The host it is on.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is behind.
    pub kind: WorkloadKind,
    /// The host's link, as asked for.
    pub link: Option<String>,
}

/// A lab on one screen.
///
/// # Errors
/// If there is no such lab.
pub fn status(directory: &LabDirectory) -> Result<LabStatus> {
    let manifest = directory.manifest()?;
    let records = directory.records();
    let hosts = manifest.topology.hosts.iter().map(|host| {
        let own = records.iter().filter_map(|(key, record)| {
            let role = key.strip_prefix(host.name.as_str())?.strip_prefix('.')?;
            Some((role.to_owned(), record.is_running().then_some(record.pid)))
        });
        let said = control::status(&directory.agent_socket(&host.name));
        let (sessions, routes, error) = match said {
            Ok(status) => {
                let sessions = status.speaker.sessions;
                let routes = (status.direct_routes.ready, status.learned_routes.ready);
                (Some((sessions.ready, sessions.total)), Some(routes), None)
            }
            Err(error) => (None, None, Some(error.to_string())),
        };
        let processes = own.collect();
        let (name, addresses) = (host.name.clone(), host.addresses.clone());
        HostStatus { name, addresses, reflector: host.reflector, processes, sessions, routes, error }
    });
    let hosts = hosts.collect();
    let workloads = manifest.topology.workloads.iter().map(|workload| WorkloadStatus {
        name: workload.name.clone(),
        host: manifest.places.get(&workload.name).unwrap_or(&workload.host).clone(),
        addresses: workload.addresses.clone(),
        kind: workload.kind,
        link: workload.link.as_ref().map(ToString::to_string),
    });
    let workloads = workloads.collect();
    Ok(LabStatus { lab: directory.name.to_string(), complete: manifest.complete, hosts, workloads })
}

/// Pings between all pairs: from every workload and host to every workload, and from them to the Internet.
///
/// # Errors
/// If there is no such lab or a namespace cannot be entered.
pub fn ping_all(directory: &LabDirectory, patience: Patience) -> Result<Vec<Outcome>> {
    let manifest = directory.manifest()?;
    ping::all_pairs(&sources(directory, &manifest), &targets(&manifest), patience)
}

fn sources(directory: &LabDirectory, manifest: &Manifest) -> Vec<Source> {
    let workloads = manifest.topology.workloads.iter().filter(|w| w.kind != WorkloadKind::Vm).map(|w| &w.name);
    let hosts = manifest.topology.hosts.iter().filter(|host| !host.reflector).map(|host| &host.name);
    let named = workloads.chain(hosts);
    named.map(|name| Source { name: name.clone(), namespace: directory.name.namespace(name) }).collect()
}

fn targets(manifest: &Manifest) -> Vec<Target> {
    let workloads = manifest.topology.workloads.iter();
    let each = workloads.flat_map(|w| w.addresses.iter().map(|a| Target { name: w.name.clone(), address: *a }));
    let internet = manifest.topology.fabric.internet.iter();
    each.chain(internet.map(|a| Target { name: "internet".to_owned(), address: *a })).collect()
}

/// Round-trip times as a matrix: a line for each source, a column for each target.
#[must_use]
pub fn matrix(outcomes: &[Outcome]) -> String {
    let mut columns: Vec<(&str, IpAddr)> = Vec::new();
    let mut rows: Vec<&str> = Vec::new();
    for outcome in outcomes {
        if !columns.contains(&(&outcome.to, outcome.address)) {
            columns.push((&outcome.to, outcome.address));
        }
        if !rows.contains(&outcome.from.as_str()) {
            rows.push(&outcome.from);
        }
    }
    let cells: BTreeMap<(&str, IpAddr), String> = outcomes
        .iter()
        .map(|o| ((o.from.as_str(), o.address), o.rtt_us.map_or("LOST".to_owned(), milliseconds)))
        .collect();
    let widths: Vec<usize> = columns.iter().map(|(name, at)| name.len().max(at.to_string().len()).max(8)).collect();
    let first = rows.iter().map(|name| name.len()).max().unwrap_or(0).max("from \\ to".len());
    let mut text = format!("{:<first$}", "from \\ to");
    for ((name, _), width) in columns.iter().zip(&widths) {
        let _ = write!(text, "  {name:>width$}");
    }
    let _ = write!(text, "\n{:<first$}", "");
    for ((_, address), width) in columns.iter().zip(&widths) {
        let _ = write!(text, "  {:>width$}", address.to_string());
    }
    for row in rows {
        let _ = write!(text, "\n{row:<first$}");
        for ((_, address), width) in columns.iter().zip(&widths) {
            let _ = write!(text, "  {:>width$}", cells.get(&(row, *address)).map_or("", String::as_str));
        }
    }
    text.push('\n');
    text
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10)
}

/// A lab on one screen, for people.
#[must_use]
pub fn status_text(status: &LabStatus) -> String {
    let mut text = format!("lab {}{}\n\n", status.lab, if status.complete { "" } else { "  (did not come up wholly)" });
    let _ = writeln!(text, "{:<16} {:<32} {:<10} {:<16} processes", "host", "addresses", "sessions", "routes");
    for host in &status.hosts {
        let of =
            |pair: Option<(usize, usize)>, join: &str| pair.map_or("?".to_owned(), |(a, b)| format!("{a}{join}{b}"));
        let routes = host.routes.map_or("?".to_owned(), |(direct, learned)| format!("{direct} own {learned} learned"));
        let process =
            |(role, pid): (&String, &Option<i32>)| pid.map_or(format!("{role} ENDED"), |pid| format!("{role} {pid}"));
        let processes: Vec<String> = host.processes.iter().map(process).collect();
        let _ = writeln!(
            text,
            "{:<16} {:<32} {:<10} {routes:<16} {}",
            host.name,
            addresses(&host.addresses),
            of(host.sessions, "/"),
            processes.join(", ")
        );
        if let Some(error) = &host.error {
            let _ = writeln!(text, "{:<16} {error}", "");
        }
    }
    let _ = writeln!(text, "\n{:<16} {:<32} {:<16} behind", "workload", "addresses", "host");
    for workload in &status.workloads {
        let behind = match workload.kind {
            WorkloadKind::Veth => "veth",
            WorkloadKind::Tap => "TAP",
            WorkloadKind::Vm => "TAP (QEMU)",
        };
        let behind = workload.link.as_ref().map_or(behind.to_owned(), |link| format!("{behind} {link}"));
        let _ = writeln!(
            text,
            "{:<16} {:<32} {:<16} {behind}",
            workload.name,
            addresses(&workload.addresses),
            workload.host
        );
    }
    text
}

fn addresses(all: &[IpAddr]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_shows_times_and_losses() {
        let outcome = |from: &str, to: &str, address: &str, rtt_us| Outcome {
            from: from.into(),
            to: to.into(),
            address: address.parse().unwrap(),
            rtt_us,
            tries: 1,
        };
        let text = matrix(&[
            outcome("w1", "w2", "10.65.0.2", Some(1_234)),
            outcome("w1", "internet", "198.51.100.1", None),
            outcome("host-1", "w2", "10.65.0.2", Some(80)),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].contains("1.23 ms") && lines[2].ends_with("LOST"), "{text}");
        assert!(lines[3].contains("0.08 ms"), "{text}");
    }
}

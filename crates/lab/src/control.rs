//! What is done to a lab that is up: attach, move, kill, start, by the agents' own API.

use crate::netns;
use crate::process::Record;
use crate::state::{LabDirectory, Manifest, NotFound};
use crate::topology::{Topology, Workload, WorkloadKind};
use anyhow::{Context, Result, bail};
use lasthop_agent::api::{Attach, Attached, Detach, LinkRequest, Netns, Request, Status};
use lasthop_agent::client::{Client, ClientError};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What an agent says about its host.
///
/// # Errors
/// If the agent cannot be reached.
pub fn status(socket: &Path) -> Result<Status, ClientError> {
    Client::connect(socket)?.call(Request::Status)
}

/// Attaches a workload to a host.
///
/// # Errors
/// If the agent cannot be reached, or refuses.
pub fn attach(directory: &LabDirectory, workload: &Workload, host: &str) -> Result<Attached> {
    let link = match workload.kind {
        WorkloadKind::Veth => LinkRequest::Veth {
            netns: Netns::Path(netns::path(&directory.name.namespace(&workload.name)).display().to_string()),
            ifname: crate::build::ETH0.to_owned(),
            host_ifname: workload.link.as_ref().map(ToString::to_string),
        },
        WorkloadKind::Tap | WorkloadKind::Vm => LinkRequest::Adopt { ifname: workload.tap_name() },
    };
    let request = Attach {
        mac: Some(workload.mac_address().to_string()),
        labels: BTreeMap::from([("lab".to_owned(), directory.name.to_string())]),
        ..Attach::new(&workload.name, link, workload.addresses.iter().copied().collect())
    };
    Ok(Client::connect(&directory.agent_socket(host))?.attach(request)?)
}

/// A workload has moved.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// The workload.
    pub workload: String,
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// Milliseconds from the detach to the last host having its route.
    pub milliseconds: u64,
}

/// Moves a veth workload to another host: its namespace stays, its address stays, the other host takes it.
///
/// # Errors
/// If there is no such workload or host, the workload is behind a TAP, or an agent refuses.
pub fn relocate(directory: &LabDirectory, name: &str, to: &str) -> Result<Moved> {
    let mut manifest = directory.manifest()?;
    let _lock = directory.lock()?;
    let workload = workload_of(&manifest.topology, name)?.clone();
    let hosts: Vec<&str> = manifest.topology.hosts.iter().filter(|h| !h.reflector).map(|h| h.name.as_str()).collect();
    if !hosts.contains(&to) {
        bail!("'{to}' is no host that a workload can be on: choose one of {}", hosts.join(", "));
    }
    if workload.kind != WorkloadKind::Veth {
        bail!("'{name}' is behind a TAP of its host and cannot be moved: move a veth workload");
    }
    let from = manifest.places.get(name).cloned().unwrap_or_default();
    if from == to {
        bail!("'{name}' is on '{to}' already: choose another host");
    }
    let begun = Instant::now();
    let detach = Detach { namespace: "default".to_owned(), name: name.to_owned() };
    let mut agent = Client::connect(&directory.agent_socket(&from))?;
    agent.detach(detach).with_context(|| format!("detaching '{name}' from '{from}'"))?;
    attach(directory, &workload, to).with_context(|| format!("attaching '{name}' to '{to}'"))?;
    manifest.places.insert(name.to_owned(), to.to_owned());
    directory.write_manifest(&manifest)?;
    crate::ready::wait_routes(directory, &manifest, Duration::from_secs(15))?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Moved { workload: name.to_owned(), from, to: to.to_owned(), milliseconds })
}

fn workload_of<'a>(topology: &'a Topology, name: &str) -> Result<&'a Workload> {
    match topology.workload(name) {
        Some(workload) => Ok(workload),
        None => {
            let known: Vec<&str> = topology.workloads.iter().map(|w| w.name.as_str()).collect();
            bail!(NotFound(format!("there is no workload '{name}': there is {}", known.join(", "))))
        }
    }
}

/// Ends a process of the lab with a signal.
///
/// # Errors
/// If there is no such process, or it does not run.
pub fn kill(directory: &LabDirectory, owner: &str, role: &str, signal: Signal) -> Result<Record> {
    let record = record_of(directory, owner, role)?;
    if !record.signal(signal) {
        bail!("the {role} of '{owner}' does not run: 'lasthop lab start {owner} {role}' starts it");
    }
    if signal == Signal::SIGKILL && !record.wait_gone(Duration::from_secs(10)) {
        bail!("the {role} of '{owner}' (process {}) does not end", record.pid);
    }
    Ok(record)
}

/// Starts a process of the lab again, as it was started before.
///
/// # Errors
/// If there was no such process, or it runs.
pub fn start(directory: &LabDirectory, owner: &str, role: &str) -> Result<Record> {
    let record = record_of(directory, owner, role)?;
    if record.is_running() {
        bail!("the {role} of '{owner}' runs already (process {})", record.pid);
    }
    record.task.start(&directory.record_file(owner, role))
}

fn record_of(directory: &LabDirectory, owner: &str, role: &str) -> Result<Record> {
    directory.manifest()?;
    directory.record(owner, role).with_context(|| {
        let known: Vec<String> = directory.records().keys().map(|key| key.replacen('.', " ", 1)).collect();
        format!("there is no {role} of '{owner}': there is {}", known.join(", "))
    })
}

/// The namespace of a host, workload or other part, and its configuration file if it is a host.
///
/// # Errors
/// If there is no such part, or it has no namespace (a virtual machine).
pub fn place(directory: &LabDirectory, manifest: &Manifest, part: &str) -> Result<String> {
    let namespace = directory.name.namespace(part);
    if manifest.namespaces.contains(&namespace) {
        return Ok(namespace);
    }
    if manifest.topology.workload(part).is_some_and(|w| w.kind == WorkloadKind::Vm) {
        bail!(
            "'{part}' is a virtual machine, no command can run inside: its console is {}",
            directory.log(part, "guest").display()
        );
    }
    let known = crate::build::parts(&manifest.topology);
    let hint = crate::topology::suggestion(part, known.iter().copied());
    let hint = if hint.is_empty() { format!(": there is {}", known.join(", ")) } else { hint };
    bail!(NotFound(format!("there is no host or workload '{part}' in the lab '{}'{hint}", directory.name)))
}

//! The network of the loss matrix: two hosts of ours with a workload each, and at the edge one or two speakers that
//! reflect between them and are where the outside begins.

use super::peers::{self, Edge, Kind};
use anyhow::{Context, Result, bail, ensure};
use lasthop_lab::process::{Record, Task};
use lasthop_lab::progress::Progress;
use lasthop_lab::state::{LabDirectory, LabName};
use lasthop_lab::topology::{Topology, Workload, WorkloadKind};
use lasthop_lab::up::{UpOptions, up};
use lasthop_lab::{control, down, netns};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Networks of this process so far.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The hosts, and what they are addressed by.
pub(super) const HOSTS: [(&str, &str); 2] = [("one", "172.18.203.11"), ("two", "172.18.203.12")];
/// The workloads, one on each.
pub(super) const WORKLOADS: [(&str, Ipv4Addr); 2] =
    [("w1", Ipv4Addr::new(10, 65, 0, 21)), ("w2", Ipv4Addr::new(10, 65, 0, 22))];
/// How long sessions and routes may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many speakers there are at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edges {
    /// All hangs by it.
    One,
    /// Each of them knows the other's way.
    Two,
}

/// A network that goes with this value.
pub(super) struct Network {
    pub(super) kind: Kind,
    pub(super) directory: LabDirectory,
    pub(super) edges: Vec<Edge>,
    /// The program that hosts run: a copy, so that it can be replaced.
    program: PathBuf,
}

impl Network {
    /// Brings it up.
    pub(super) fn up(program: &Path, kind: Kind, edges: Edges) -> Result<Self> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let text = format!("res{}x{number}", std::process::id());
        let name: LabName = text.parse().map_err(anyhow::Error::msg)?;
        let copy = std::env::temp_dir().join(format!("{text}-lasthop"));
        std::fs::copy(program, &copy).with_context(|| format!("cannot copy the program to {}", copy.display()))?;
        let edges = match edges {
            Edges::One => vec![Edge::FIRST],
            Edges::Two => vec![Edge::FIRST, Edge::SECOND],
        };
        let directory = LabDirectory::of(&name);
        let network = Self { kind, directory, edges, program: copy.clone() };
        let topology = Topology::parse("the network of the loss matrix", &peers::topology(kind, &network.edges))?;
        up(&UpOptions { name, topology, program: copy, patience: PATIENCE }, &Progress::silent())?;
        for edge in &network.edges {
            peers::prepare(&network, edge)?;
        }
        for ((name, address), (host, _)) in WORKLOADS.into_iter().zip(HOSTS) {
            network.further(name)?;
            let workload = Workload {
                name: name.to_owned(),
                host: host.to_owned(),
                addresses: vec![address.into()],
                kind: WorkloadKind::Veth,
                link: None,
                mac: None,
            };
            control::attach(&network.directory, &workload, host)?;
        }
        network.settled()?;
        Ok(network)
    }

    /// The namespace of a part.
    pub(super) fn namespace(&self, part: &str) -> String {
        self.directory.name.namespace(part)
    }

    /// Makes a further namespace, which goes with the lab.
    pub(super) fn further(&self, part: &str) -> Result<()> {
        let name = self.namespace(part);
        let mut manifest = self.directory.manifest()?;
        manifest.namespaces.push(name.clone());
        self.directory.write_manifest(&manifest)?;
        netns::create(&name)
    }

    /// Runs a program inside a part; what it printed.
    pub(super) fn inside(&self, part: &str, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        let output = netns::within(&self.namespace(part), || command.output())??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{part}: {}: {said}", words.join(" "));
        Ok(said)
    }

    /// Puts documents into the store.
    pub(super) fn apply(&self, documents: &str) -> Result<()> {
        let file = self.directory.root().join("further.yaml");
        std::fs::write(&file, documents)?;
        let config = self.directory.config("store").display().to_string();
        let program = self.program.display().to_string();
        self.inside("store", &[&program, "apply", "-f", &file.display().to_string(), "--config", &config]).map(drop)
    }

    /// Starts a program inside a part's namespace; it ends with the lab.
    pub(super) fn start(&self, part: &str, role: &str, command: &[String]) -> Result<Record> {
        let log = self.directory.log(part, role);
        let task = Task { namespace: self.namespace(part), command: command.to_vec(), log };
        task.start(&self.directory.record_file(part, role))
    }

    /// Ends processes of a host, all of them before any is waited for, and waits until they are gone.
    pub(super) fn end(&self, part: &str, roles: &[&str], signal: Signal) -> Result<()> {
        let ended: Vec<Record> =
            roles.iter().map(|role| control::kill(&self.directory, part, role, signal)).collect::<Result<_>>()?;
        for record in ended {
            ensure!(record.wait_gone(Duration::from_secs(20)), "process {} does not end", record.pid);
        }
        Ok(())
    }

    /// Starts processes of a host again.
    pub(super) fn again(&self, part: &str, roles: &[&str]) -> Result<()> {
        roles.iter().try_for_each(|role| control::start(&self.directory, part, role).map(drop))
    }

    /// Puts another file in the place of the program, as a package does.
    pub(super) fn replace_program(&self) -> Result<()> {
        let beside = self.program.with_extension("new");
        std::fs::copy(&self.program, &beside)?;
        std::fs::rename(&beside, &self.program)?;
        Ok(())
    }

    /// Waits until every session is up and every kernel knows every workload.
    pub(super) fn settled(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.missing()? {
                None => return Ok(()),
                Some(missing) if Instant::now() > end => bail!("waited {PATIENCE:?} for {missing}"),
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn missing(&self) -> Result<Option<String>> {
        for (host, _) in HOSTS {
            let Ok(status) = control::status(&self.directory.agent_socket(host)) else {
                return Ok(Some(format!("the agent of {host}")));
            };
            let sessions = status.speaker.sessions;
            if sessions.ready != self.edges.len() || !status.speaker.in_sync {
                return Ok(Some(format!("sessions of {host}: {} of {}", sessions.ready, self.edges.len())));
            }
        }
        let at = |(workload, address): (&str, Ipv4Addr), part: &str| -> Result<Option<String>> {
            let shown = self.inside(part, &["ip", "route", "show", &address.to_string()])?;
            // Routes by nexthop objects are shown with those alone.
            Ok((!shown.contains("via") && !shown.contains("nhid"))
                .then(|| format!("the route of {part} to {workload}")))
        };
        let mut missing = at(WORKLOADS[1], "one")?.or(at(WORKLOADS[0], "two")?);
        for edge in &self.edges {
            missing = missing.or(at(WORKLOADS[0], edge.name)?).or(at(WORKLOADS[1], edge.name)?);
        }
        Ok(missing)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.directory.exists()
            && let Err(error) = down::down(&self.directory)
        {
            eprintln!("the lab '{}' stays: {error:#}", self.directory.name);
        }
        let _ = std::fs::remove_file(&self.program); // it may never have been made
    }
}

//! A lab for one bench, and further namespaces on its fabric.

use super::Plan;
use anyhow::{Context, Result, bail, ensure};
use lasthop_agent::api::Status;
use lasthop_agent::client::Client;
use lasthop_lab::links::{End, Inside, veth};
use lasthop_lab::process::{Record, Task};
use lasthop_lab::progress::Progress;
use lasthop_lab::state::{LabDirectory, LabName};
use lasthop_lab::topology::Topology;
use lasthop_lab::up::{UpOptions, up};
use lasthop_lab::{control, down, netns};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Sites of this process so far.
static SITES: AtomicU32 = AtomicU32::new(0);
/// Ports of fabrics that were plugged into so far.
static PORTS: AtomicU32 = AtomicU32::new(0);

/// Fabric and pool that all topologies here have.
pub(super) const COMMON: &str = "
fabric: { subnets: [172.18.203.0/24], gateway: [172.18.203.1], internet: [198.51.100.1], store: [172.18.203.4] }
pools: [{ name: workloads, cidr: 10.65.0.0/16 }]
";

/// A lab that goes with this value.
pub(super) struct Site {
    pub(super) directory: LabDirectory,
}

impl Site {
    /// Brings a lab up: [`COMMON`] and what is given.
    pub(super) fn up(plan: &Plan, topology: &str) -> Result<Self> {
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let name: LabName = format!("bench{}x{number}", std::process::id()).parse().map_err(anyhow::Error::msg)?;
        let topology = Topology::parse("the bench's topology", &format!("{COMMON}{topology}"))?;
        let site = Self { directory: LabDirectory::of(&name) };
        let patience = Duration::from_secs(60);
        up(&UpOptions { name, topology, program: plan.program.clone(), patience }, &Progress::silent())?;
        Ok(site)
    }

    /// The namespace of a part.
    pub(super) fn namespace(&self, part: &str) -> String {
        self.directory.name.namespace(part)
    }

    /// A caller of a host's agent.
    pub(super) fn client(&self, host: &str) -> Result<Client> {
        Ok(Client::connect(&self.directory.agent_socket(host))?)
    }

    /// What a host's agent says.
    pub(super) fn status(&self, host: &str) -> Result<Status> {
        Ok(control::status(&self.directory.agent_socket(host))?)
    }

    /// The process of a host.
    pub(super) fn process(&self, host: &str, role: &str) -> Result<Record> {
        self.directory.record(host, role).with_context(|| format!("there is no {role} of {host}"))
    }

    /// Puts a resource into the store as an operator would: `lasthop apply -f`.
    pub(super) fn apply(&self, plan: &Plan, document: &str) -> Result<()> {
        let file = self.directory.root().join("further.yaml");
        std::fs::write(&file, document)?;
        let mut apply = Command::new(&plan.program);
        apply.args(["apply", "-f"]).arg(&file).arg("--config").arg(self.directory.config("store"));
        let output = netns::within(&self.namespace("store"), || apply.output())??;
        ensure!(output.status.success(), "lasthop apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Makes a further namespace, which goes with the lab.
    pub(super) fn further(&self, part: &str) -> Result<String> {
        let name = self.namespace(part);
        let mut manifest = self.directory.manifest()?;
        manifest.namespaces.push(name.clone());
        self.directory.write_manifest(&manifest)?;
        netns::create(&name)?;
        Ok(name)
    }

    /// Makes a further namespace with an address on the fabric.
    pub(super) fn on_fabric(&self, part: &str, address: &str) -> Result<String> {
        let name = self.further(part)?;
        let fabric = self.namespace("fabric");
        let port = format!("more{}", PORTS.fetch_add(1, Ordering::Relaxed));
        veth(&End { namespace: &name, name: "eth0", mac: None }, &End { namespace: &fabric, name: &port, mac: None })?;
        Inside::run(&fabric, |inside| inside.plug(&port, "br0"))?;
        Inside::run(&name, |inside| {
            inside.address("eth0", address.parse().map_err(anyhow::Error::msg)?)?;
            inside.up("eth0")
        })?;
        Ok(name)
    }

    /// Starts a program inside a part's namespace; it ends with the lab.
    pub(super) fn start(&self, part: &str, role: &str, command: Vec<String>) -> Result<Record> {
        let log = self.directory.log(part, role);
        let task = Task { namespace: self.namespace(part), command, log };
        task.start(&self.directory.record_file(part, role))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.directory.exists()
            && let Err(error) = down::down(&self.directory)
        {
            eprintln!("the lab '{}' stays: {error:#}", self.directory.name);
        }
    }
}

/// Waits until something is so, asking every few milliseconds; how long it took.
pub(super) fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        if is_so()? {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

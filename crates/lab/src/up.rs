//! Bringing a lab up, step by step: namespaces, wires, store, hosts, workloads; then waiting until all of it
//! is true in the kernels' own tables.

use crate::build::{STORE, Wires, parts};
use crate::documents::{self, HostFiles};
use crate::process::{Record, Task};
use crate::progress::Progress;
use crate::ready;
use crate::state::{LabDirectory, LabName, Manifest};
use crate::topology::{Topology, Workload, WorkloadKind};
use crate::{control, netns};
use anyhow::{Context, Result, anyhow, bail};
use lasthop_store::certs::{self, Files, Role};
use serde::Serialize;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What to bring up.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Name of the lab.
    pub name: LabName,
    /// The network.
    pub topology: Topology,
    /// The `lasthop` binary that the hosts run.
    pub program: PathBuf,
    /// How long to wait for everything to be true.
    pub patience: Duration,
}

/// A lab is up.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub lab: String,
    /// Hosts, reflectors counted.
    pub hosts: usize,
    /// Workloads.
    pub workloads: usize,
    /// Seconds until all was true.
    pub seconds: f32,
}

struct Up<'a> {
    options: &'a UpOptions,
    directory: LabDirectory,
    progress: &'a Progress,
}

/// How many steps a bar has.
#[must_use]
pub fn steps(topology: &Topology) -> u64 {
    6 + topology.hosts.len() as u64 + topology.workloads.len() as u64
}

/// Brings a lab up.
///
/// # Errors
/// What did not work and where its log is; what was made stays for looking at, until `down`.
pub fn up(options: &UpOptions, progress: &Progress) -> Result<Summary> {
    let begun = Instant::now();
    let directory = LabDirectory::of(&options.name);
    let up = Up { options, directory, progress };
    let _lock = up.begin()?;
    let done = up.all();
    progress.finish();
    done.with_context(|| {
        let name = &options.name;
        format!("the lab '{name}' did not come up ('lasthop lab down --name {name}' takes away what there is)")
    })?;
    Ok(Summary {
        lab: options.name.to_string(),
        hosts: options.topology.hosts.len(),
        workloads: options.topology.workloads.len(),
        seconds: begun.elapsed().as_secs_f32(),
    })
}

impl Up<'_> {
    fn topology(&self) -> &Topology {
        &self.options.topology
    }

    fn wires(&self) -> Wires<'_> {
        Wires { lab: &self.options.name, topology: self.topology() }
    }

    /// Writes down what will be made, before it is.
    fn begin(&self) -> Result<fs::File> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab makes network namespaces, which needs root: run it with sudo");
        }
        let namespaces: Vec<String> = parts(self.topology()).iter().map(|p| self.options.name.namespace(p)).collect();
        let there = netns::names()?;
        if let Some(taken) = namespaces.iter().find(|name| there.contains(name)) {
            if self.directory.exists() {
                bail!("{}", self.directory.taken());
            }
            bail!(
                "there is a network namespace '{taken}' already, which no lab has written down: choose another --name"
            );
        }
        let places = self.topology().workloads.iter().map(|w| (w.name.clone(), w.host.clone())).collect();
        let topology = self.topology().clone();
        self.directory.create(&Manifest { topology, namespaces, complete: false, places })?;
        self.directory.lock()
    }

    fn all(&self) -> Result<()> {
        self.stage("making namespaces", |up| {
            parts(up.topology()).iter().try_for_each(|part| netns::create(&up.options.name.namespace(part)))
        })?;
        self.stage("connecting the fabric", |up| up.wires().connect())?;
        self.stage("making certificates", Self::certificates)?;
        self.stage("starting the store", Self::store)?;
        self.stage("starting the hosts", Self::hosts)?;
        self.attach_all()?;
        let manifest = self.directory.manifest()?;
        ready::wait(&self.directory, &manifest, self.options.patience, self.progress)?;
        self.directory.write_manifest(&Manifest { complete: true, ..manifest })?;
        self.progress.step();
        Ok(())
    }

    fn stage(&self, words: &str, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.progress.stage(words);
        work(self).with_context(|| words.to_owned())?;
        self.progress.step();
        Ok(())
    }

    /// An authority; every host gets its own certificate when it is configured.
    fn certificates(&self) -> Result<()> {
        Ok(certs::init(&self.directory.certificates())?)
    }

    fn certificate(&self, role: Role, name: &str) -> Result<Files> {
        Ok(certs::issue(&self.directory.certificates(), role, name)?)
    }

    fn store(&self) -> Result<()> {
        let home = self.home(STORE)?;
        let (run, state) = (home.join("run"), home.join("state"));
        let files = HostFiles { run: &run, state: &state, files: &self.certificate(Role::Server, STORE)? };
        crate::state::write_json(&self.directory.config(STORE), &documents::server_config(&files))?;
        let server = self.daemon(STORE, "server")?;
        let socket = run.join("store.sock");
        wait_for("the store to listen", &[&server], || Ok(UnixStream::connect(&socket).is_ok()))?;
        self.put_documents()
    }

    /// Puts the resources into the store as a user would: `lasthop apply -f`.
    fn put_documents(&self) -> Result<()> {
        let file = self.directory.root().join("resources.yaml");
        fs::write(&file, documents::file(self.topology()))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut apply = Command::new(&self.options.program);
        apply.args(["apply", "-f"]).arg(&file).arg("--config").arg(self.directory.config(STORE));
        let output = netns::within(&self.options.name.namespace(STORE), || apply.output())?;
        let output = output.with_context(|| format!("cannot start {}", self.options.program.display()))?;
        if !output.status.success() {
            bail!("the resources were refused: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn hosts(&self) -> Result<()> {
        let mut started = Vec::new();
        for host in &self.topology().hosts {
            let home = self.home(&host.name)?;
            let (run, state) = (home.join("run"), home.join("state"));
            let files = HostFiles { run: &run, state: &state, files: &self.certificate(Role::Node, &host.name)? };
            let config = documents::host_config(self.topology(), host, &files);
            crate::state::write_json(&self.directory.config(&host.name), &config)?;
            let speaker = self.daemon(&host.name, "bgp")?;
            let agent = self.daemon(&host.name, "agent")?;
            started.push((&host.name, speaker, agent));
        }
        for (host, speaker, agent) in &started {
            let socket = self.directory.agent_socket(host);
            wait_for(&format!("the agent of '{host}'"), &[agent, speaker], || Ok(control::status(&socket).is_ok()))?;
            self.progress.step();
        }
        Ok(())
    }

    fn home(&self, host: &str) -> Result<PathBuf> {
        let home = self.directory.host(host);
        for sub in ["run", "state"] {
            let path = home.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(home)
    }

    fn daemon(&self, host: &str, role: &str) -> Result<Record> {
        let program = self.options.program.display().to_string();
        let config = self.directory.config(host).display().to_string();
        let task = Task {
            namespace: self.options.name.namespace(host),
            command: vec![program, role.to_owned(), "--config".to_owned(), config],
            log: self.directory.log(host, role),
        };
        task.start(&self.directory.record_file(host, role))
    }

    /// Workloads of one host one after the other, hosts side by side.
    fn attach_all(&self) -> Result<()> {
        self.progress.stage("attaching workloads");
        std::thread::scope(|scope| {
            let hosts = self.topology().hosts.iter().map(|host| {
                scope.spawn(move || {
                    let here = self.topology().workloads.iter().filter(|w| w.host == host.name);
                    here.into_iter().try_for_each(|workload| {
                        self.attach(workload)
                            .with_context(|| format!("attaching '{}' to '{}'", workload.name, host.name))?;
                        self.progress.step();
                        anyhow::Ok(())
                    })
                })
            });
            let threads: Vec<_> = hosts.collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow!("attaching panicked"))?)
        })
    }

    fn attach(&self, workload: &Workload) -> Result<()> {
        if workload.kind != WorkloadKind::Veth {
            self.wires().tap(workload)?;
            self.guest_task(workload)?.start(&self.directory.record_file(&workload.name, "guest"))?;
        }
        let attached = control::attach(&self.directory, workload, &workload.host)?;
        if workload.kind == WorkloadKind::Tap {
            self.wires().configure_guest(workload, attached.gateway_v6)?;
        }
        Ok(())
    }

    fn guest_task(&self, workload: &Workload) -> Result<Task> {
        let name = &self.options.name;
        let log = self.directory.log(&workload.name, "guest");
        let namespace = name.namespace(&workload.host);
        if workload.kind == WorkloadKind::Vm {
            let directory = self.directory.host(&workload.name);
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
            let command = crate::vm::command(self.topology(), workload, &directory)?;
            return Ok(Task { namespace, command, log });
        }
        let program = self.options.program.display().to_string();
        let mut command = vec![program];
        command.extend(["lab", "guest", "--tap"].map(str::to_owned));
        command.extend([workload.tap_name(), "--guest".to_owned(), name.namespace(&workload.name)]);
        Ok(Task { namespace, command, log })
    }
}

/// Waits until something is true, as long as the processes that it takes run.
fn wait_for(what: &str, processes: &[&Record], mut is_true: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if is_true()? {
            return Ok(());
        }
        if let Some(dead) = processes.iter().find(|record| !record.is_running()) {
            bail!("waiting for {what}: {} ended; {}", role_of(&dead.task.command), tail(dead));
        }
        if Instant::now() > end {
            bail!("waited 20 s for {what}; {}", processes.first().map(|record| tail(record)).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn role_of(command: &[String]) -> String {
    let program = command.first().and_then(|p| Path::new(p).file_name()).unwrap_or_default().to_string_lossy();
    format!("'{program} {}'", command.get(1).map_or("", String::as_str))
}

fn tail(record: &Record) -> String {
    format!("its log {} ends with:\n{}", record.task.log.display(), record.log_tail(5))
}

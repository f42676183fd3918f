//! The speakers that are measured: each is started as the one route reflector of an AS, with every peer a passive client,
//! nothing programmed into the kernel, and no policy but "all".

use super::swarm::{LOCAL, peer_address};
use anyhow::{Context, Result, bail, ensure};
use lasthop_agent::speaker::ToSpeaker;
use lasthop_agent::speaker::protocol::{self, Frames, ToAgent};
use lasthop_bgp::config::{ConnectMode, Drain, PeerConfig, ReflectMode, SpeakerConfig};
use lasthop_net::{Asn, Family};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The AS of everybody here.
pub(super) const AS: u32 = 65000;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ours,
    Bird,
    Frr,
    OpenBgpd,
    GoBgp,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Ours, Self::Bird, Self::Frr, Self::OpenBgpd, Self::GoBgp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::OpenBgpd => "OpenBGPD",
            Self::GoBgp => "GoBGP",
        }
    }
}

/// A speaker that runs.
pub(super) struct Daemon {
    child: Child,
    pub(super) started: Instant,
    directory: PathBuf,
    /// Our own process is told by an agent, who hangs up once all is said and the sessions are up.
    agent: Option<UnixStream>,
}

impl Daemon {
    /// Starts one in this thread's namespace, for so many peers.
    pub(super) fn start(kind: Kind, program: &Path, (peers, family): (usize, Family)) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("lasthop-bench-bgp-{}", std::process::id()));
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        let mut command = match kind {
            Kind::Ours => ours(program, &directory),
            Kind::Bird => bird(&directory, peers, family),
            Kind::Frr => frr(&directory, peers, family),
            Kind::OpenBgpd => openbgpd(&directory, peers, family),
            Kind::GoBgp => gobgp(&directory, peers, family),
        }?;
        let log = std::fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut daemon = Self { child, started, directory, agent: None };
        if kind == Kind::Ours {
            daemon.agent = Some(tell(&daemon.directory.join("bgp.sock"), (peers, family))?);
        }
        Ok(daemon)
    }

    /// The sessions are up: whoever configured it may go.
    pub(super) fn is_up(&mut self) {
        self.agent = None;
    }

    /// Whether it still runs.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            let tail = log.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
            bail!("it ended with {status}: {tail}");
        }
        Ok(())
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(parent) = all.get(next).copied() {
            next += 1;
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            all.extend(children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        all
    }

    /// CPU seconds of all its threads so far.
    pub(super) fn cpu(&self) -> f64 {
        let mut nanoseconds = 0u64;
        for id in self.processes() {
            for thread in std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                nanoseconds += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        nanoseconds as f64 / 1e9
    }

    /// The most memory its processes have had resident, in MB.
    pub(super) fn peak(&self) -> f64 {
        let peak = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0)
        };
        self.processes().iter().map(peak).sum::<f64>() / 1024.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        for id in self.processes() {
            if let Ok(id) = i32::try_from(id) {
                // It may be gone already.
                let _ = kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

fn ours(program: &Path, directory: &Path) -> Result<Command> {
    let file = directory.join("lasthop.yaml");
    let text = directory.display();
    write(
        &file,
        &format!("node: reflector\nrunDirectory: {text}\nstateDirectory: {text}\nlog: {{ level: error }}\n"),
        0o644,
    )?;
    let mut command = Command::new(program);
    command.arg("bgp").arg("--config").arg(file);
    Ok(command)
}

/// Says what the agent of a reflector's host would say.
fn tell(socket: &Path, (peers, family): (usize, Family)) -> Result<UnixStream> {
    let limit = Instant::now() + Duration::from_secs(5);
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > limit => bail!("our speaker does not answer: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let speaker = SpeakerConfig {
        asn: Asn(AS),
        router_id: LOCAL,
        cluster_id: Some(LOCAL),
        port: 179,
        bind: [].into(),
        restart_time: Duration::from_secs(120),
        deferral: Duration::from_secs(30),
        drain: Drain::No,
    };
    let peer = |place| {
        let mut peer = PeerConfig::new(peer_address(place).into(), Asn(AS)).trusted();
        (peer.connect, peer.reflect) = (ConnectMode::Passive, ReflectMode::Client);
        peer.local_address = Some(LOCAL.into());
        peer.families = [family].into();
        peer
    };
    let all = (0..peers).map(peer).collect();
    let mut bytes = Vec::new();
    let hello = ToSpeaker::Hello { version: protocol::VERSION };
    for message in [hello, ToSpeaker::Configure(speaker), ToSpeaker::Peers(all), ToSpeaker::Complete] {
        protocol::encode(&message, &mut bytes)?;
    }
    stream.write_all(&bytes)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut frames, mut buffer) = (Frames::default(), vec![0; 64 << 10]);
    loop {
        while let Some(message) = frames.take::<ToAgent>()? {
            match message {
                ToAgent::Listening { problem: None, .. } => return Ok(stream),
                ToAgent::Listening { problem: Some(problem), .. } => bail!("our speaker does not listen: {problem}"),
                ToAgent::Refused { reason } => bail!("our speaker refuses the bench: {reason}"),
                _ => {}
            }
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "our speaker closed the line");
        frames.room().extend_from_slice(&buffer[..count]);
    }
}

fn word(family: Family, [v4, v6]: [&'static str; 2]) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn bird(directory: &Path, peers: usize, family: Family) -> Result<Command> {
    let mut text = format!(
        "log stderr {{ fatal, bug, error }};\nrouter id {LOCAL};\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\n"
    );
    let channel = word(family, ["ipv4", "ipv6"]);
    for place in 0..peers {
        let peer = peer_address(place);
        writeln!(
            text,
            "protocol bgp p{place} {{ local {LOCAL} as {AS}; neighbor {peer} as {AS}; rr client; strict bind yes; passive; \
             {channel} {{ import all; export where source = RTS_BGP; }}; }}"
        )?;
    }
    let file = directory.join("bird.conf");
    write(&file, &text, 0o644)?;
    let mut command = Command::new("/usr/sbin/bird");
    command.arg("-f").arg("-c").arg(file).arg("-s").arg(directory.join("bird.ctl"));
    command.arg("-P").arg(directory.join("bird.pid"));
    Ok(command)
}

fn frr(directory: &Path, peers: usize, family: Family) -> Result<Command> {
    let mut text = format!(
        "hostname x\nrouter bgp {AS}\n bgp router-id {LOCAL}\n no bgp default ipv4-unicast\n neighbor C peer-group\n \
         neighbor C remote-as {AS}\n neighbor C update-source {LOCAL}\n neighbor C passive\n"
    );
    for place in 0..peers {
        writeln!(text, " neighbor {} peer-group C", peer_address(place))?;
    }
    let family = word(family, ["ipv4", "ipv6"]);
    writeln!(
        text,
        " address-family {family} unicast\n  neighbor C activate\n  neighbor C route-reflector-client\n exit-address-family"
    )?;
    let file = directory.join("bgpd.conf");
    write(&file, &text, 0o644)?;
    // It gives up root.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))?;
    let mut command = Command::new("/usr/lib/frr/bgpd");
    command
        .arg("-f")
        .arg(file)
        .args(["-Z", "-S", "-p", "179", "-A", "127.0.0.1", "-P", "0", "-l"])
        .arg(LOCAL.to_string());
    command.arg("-i").arg(directory.join("bgpd.pid")).arg("--vty_socket").arg(directory);
    Ok(command)
}

fn openbgpd(directory: &Path, peers: usize, family: Family) -> Result<Command> {
    let announce = word(family, ["", " announce IPv4 none\n announce IPv6 unicast\n"]);
    let mut text = format!(
        "AS {AS}\nrouter-id {LOCAL}\nfib-update no\nlisten on {LOCAL}\nsocket \"{}/ctl\"\ngroup \"c\" {{\n remote-as {AS}\n \
         local-address {LOCAL}\n route-reflector\n passive\n{announce}",
        directory.display()
    );
    for place in 0..peers {
        writeln!(text, " neighbor {} {{ descr x }}", peer_address(place))?;
    }
    text.push_str("}\nallow from ibgp\nallow to ibgp\n");
    let file = directory.join("openbgpd.conf");
    write(&file, &text, 0o600)?;
    // Its chroot.
    std::fs::create_dir_all("/run/openbgpd")?;
    let mut command = Command::new("/usr/sbin/bgpd");
    command.arg("-d").arg("-f").arg(file);
    Ok(command)
}

fn gobgp(directory: &Path, peers: usize, family: Family) -> Result<Command> {
    let mut text = format!(
        "[global.config]\n  as = {AS}\n  router-id = \"{LOCAL}\"\n  port = 179\n  local-address-list = [\"{LOCAL}\"]\n"
    );
    let family = word(family, ["ipv4", "ipv6"]);
    for place in 0..peers {
        let peer = peer_address(place);
        write!(
            text,
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{peer}\"\n    peer-as = {AS}\n    local-as = {AS}\n  \
             [neighbors.transport.config]\n    passive-mode = true\n    local-address = \"{LOCAL}\"\n  \
             [neighbors.route-reflector.config]\n    route-reflector-client = true\n    route-reflector-cluster-id = \"{LOCAL}\"\n  \
             [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}-unicast\"\n"
        )?;
    }
    let file = directory.join("gobgp.toml");
    write(&file, &text, 0o644)?;
    let mut command = Command::new("gobgpd");
    command.arg("-f").arg(file).args(["--pprof-disable", "-l", "error", "--api-hosts", "127.0.0.1:50051"]);
    Ok(command)
}

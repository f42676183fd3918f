//! What a test does to a lab beside the program's commands: shell lines, the agents' API, namespaces of its own.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use crate::support::{Lab, text};
use lasthop_agent::api::{Attach, Attached, LinkRequest, Netns, Request, Status, Workload};
use lasthop_agent::client::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a change may take on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Two hosts of both families: a veth workload on each, a TAP one on the first.
pub(crate) const PAIR: &str = "
fabric:
  subnets: [172.31.0.0/24, 'fd00:31::/64']
  gatewayName: x
  gateway: [172.31.0.3, 'fd00:31::3']
  internet: [198.51.100.1, '2001:db8:100::1']
  store: [172.31.0.4, 'fd00:31::4']
peering: mesh
pools:
  - { name: workloads, cidr: 10.65.0.0/16, natOutgoing: true }
  - { name: workloads-v6, cidr: 'fd00:65::/64', natOutgoing: true }
hosts:
  - { name: h1, addresses: [172.31.0.1, 'fd00:31::1'] }
  - { name: h2, addresses: [172.31.0.2, 'fd00:31::2'] }
workloads:
  - { name: w1, host: h1, link: lhw1, addresses: [10.65.0.2, 'fd00:65::2'] }
  - { name: t1, host: h1, kind: tap, link: tapt1, addresses: [10.65.0.4, 'fd00:65::4'] }
  - { name: w3, host: h2, link: lhw3, addresses: [10.65.1.2, 'fd00:65::102'] }
";

/// A lab from the text of a topology.
pub(crate) fn lab_of(topology: &str) -> Lab {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), topology).unwrap();
    Lab::up(&["--topology", file.path().to_str().unwrap()])
}

/// A namespace of the test's own, gone with this value.
pub(crate) struct Space(pub(crate) String);

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

impl Lab {
    /// A namespace beside those of the lab.
    pub(crate) fn space(&self, name: &str) -> Space {
        let space = Space(format!("{}-{name}", self.name));
        let made = Command::new("ip").args(["netns", "add", &space.0]).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        space
    }

    pub(crate) fn directory(&self, host: &str) -> PathBuf {
        Path::new("/run/lasthop-lab").join(&self.name).join("hosts").join(host)
    }

    /// A connection to a host's agent, once it listens.
    pub(crate) fn client(&self, host: &str) -> Client {
        let end = Instant::now() + SOON;
        loop {
            match Client::connect(&self.directory(host).join("run/agent.sock")) {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < end, "{error}\n{}", self.logs()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn status_of(&self, host: &str) -> Status {
        self.client(host).call(Request::Status).unwrap()
    }

    pub(crate) fn workloads_of(&self, host: &str) -> BTreeMap<String, Workload> {
        let all: Vec<Workload> = self.client(host).call(Request::Workloads).unwrap();
        all.into_iter().map(|one| (one.endpoint.clone(), one)).collect()
    }

    /// An attach that must work.
    pub(crate) fn attach(&self, host: &str, attach: &Attach) -> Attached {
        self.client(host).attach(attach.clone()).unwrap_or_else(|error| panic!("{attach:?}: {error}\n{}", self.logs()))
    }

    /// Runs a shell line that must work; what it prints.
    pub(crate) fn shell(&self, part: &str, line: &str) -> String {
        let (ok, said) = self.inside(part, &["sh", "-c", line]);
        assert!(ok, "{part}: {line}: {said}\n{}", self.logs());
        said.trim().to_owned()
    }

    /// Waits until what a shell line prints is right; returns it.
    pub(crate) fn until(&self, part: &str, line: &str, is_so: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let (_, said) = self.inside(part, &["sh", "-c", line]);
            if is_so(&said) {
                return said;
            }
            assert!(Instant::now() < end, "{part}: {line}: still: {said}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an address answers.
    pub(crate) fn answers(&self, from: &str, to: &str) {
        self.until(from, &format!("ping -n -c1 -W1 {to}"), |said| said.contains(" 0% packet loss"));
    }

    /// `apply -f` of documents, in the place where the store is.
    pub(crate) fn apply(&self, documents: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), documents).unwrap();
        self.shell("store", &format!("lasthop apply -f {}", file.path().display()));
    }
}

impl Space {
    /// Runs a shell line inside that must work.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", line]).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{}: {line}: {said}", self.0);
        said.trim().to_owned()
    }

    /// Whether one ping of `count` requests gets an answer.
    pub(crate) fn reaches(&self, to: &str, count: u32) -> bool {
        let line = format!("ping -n -q -i0.1 -W1 -c{count} {to}");
        Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", &line]).output().unwrap().status.success()
    }
}

/// Checks that of what a ping printed no answer is missing before the last one; what was on its way when it was ended
/// does not count.
pub(crate) fn none_lost(said: &str) {
    let numbers = said.split_whitespace().filter_map(|word| word.strip_prefix("icmp_seq="));
    let answered: BTreeSet<u32> = numbers.map(|number| number.parse().unwrap()).collect();
    let last = answered.last().copied().unwrap_or_else(|| panic!("no answer at all: {said}"));
    let lost: Vec<u32> = (1..=last).filter(|number| !answered.contains(number)).collect();
    assert!(lost.is_empty(), "lost of {last}: {lost:?}");
}

/// An attach with nothing but a name, a link and addresses.
pub(crate) fn attach(name: &str, link: LinkRequest, addresses: &[&str]) -> Attach {
    Attach::new(name, link, addresses.iter().map(|address| address.parse().unwrap()).collect())
}

/// A veth into a namespace.
pub(crate) fn veth(space: &Space, ifname: &str) -> LinkRequest {
    LinkRequest::Veth { netns: Netns::Name(space.0.clone()), ifname: ifname.to_owned(), host_ifname: None }
}

/// A link that is there, or will be.
pub(crate) fn adopt(ifname: &str) -> LinkRequest {
    LinkRequest::Adopt { ifname: ifname.to_owned() }
}

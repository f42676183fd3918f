//! A host that moves from nftables to iptables and back, through the driver of all of a host.

mod common;

use common::host::{Everything, Host, Wanted, settle, sync};
use lasthop_kernel::iptables::Backend;
use lasthop_kernel::{Dataplane, KernelEvent};

fn chains(host: &Host, suffix: &str) -> usize {
    let saved = host.sh(&format!("iptables-{suffix}-save 2>/dev/null; ip6tables-{suffix}-save 2>/dev/null; true"));
    saved.lines().filter(|line| line.starts_with(":LASTHOP-")).count()
}

fn tables(host: &Host) -> usize {
    host.sh("nft list tables").lines().filter(|line| *line == "table inet lasthop").count()
}

#[test]
fn a_host_moves_between_dataplanes_and_back() {
    let host = Host::new();
    host.workload("lhw1");
    let wanted = Wanted::default().workload("lhw1", &["10.65.0.2", "fd00:65::2"], "02:00:00:00:00:01");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        settle(&mut kernel, &wanted);
        assert_eq!((tables(&host), chains(&host, "legacy")), (1, 0));
        for (backend, suffix, other) in [(Backend::Legacy, "legacy", "nft"), (Backend::Nft, "nft", "legacy")] {
            kernel.use_dataplane(Dataplane::Iptables(backend)).unwrap();
            assert!(!kernel.is_guarded(), "not by this one");
            let pass = sync(&mut kernel, &wanted, Everything::Yes);
            assert!(pass.failed.is_empty() && kernel.is_guarded(), "{pass:?}");
            settle(&mut kernel, &wanted);
            assert_eq!((tables(&host), chains(&host, other)), (0, 0), "{suffix}");
            assert!(chains(&host, suffix) > 20, "{}", chains(&host, suffix));
            assert!(host.sh("ipset list lh-src4").contains("10.65.0.2,lhw1"));
            assert_eq!(kernel.drops().get("spoofed"), Some(&0));
            // A restart that is told what it was finds everything right.
            drop(std::mem::replace(&mut kernel, host.kernel()));
            kernel.use_dataplane(Dataplane::Iptables(backend)).unwrap();
            kernel.read_back().unwrap();
            let pass = sync(&mut kernel, &wanted, Everything::Yes);
            assert!(pass.failed.is_empty() && pass.writes <= 1, "all but the former dataplane was right: {pass:?}");
            kernel.drain_events();
            // What others do to us is found by the next reading, and put right whatever the pass looks at.
            host.sh(&format!("iptables-{suffix} -F LASTHOP-to; ipset flush lh-src6"));
            kernel.read_back().unwrap();
            assert!(kernel.drain_events().contains(&KernelEvent::Iptables));
            let outcome = kernel.sync_skeleton(&wanted.0);
            assert!(outcome.failed.is_empty(), "{outcome:?}");
            let pass = sync(&mut kernel, &wanted, Everything::No);
            assert!(pass.failed.is_empty() && pass.writes > 0, "{pass:?}");
            assert!(host.sh("ipset list lh-src6").contains("fd00:65::2,lhw1"));
            assert!(host.sh(&format!("iptables-{suffix} -S LASTHOP-to")).contains("-o lhw1"));
            settle(&mut kernel, &wanted);
        }
        kernel.use_dataplane(Dataplane::Nft).unwrap();
        settle(&mut kernel, &wanted);
        assert_eq!((tables(&host), chains(&host, "legacy"), chains(&host, "nft")), (1, 0, 0));
        assert!(!host.sh("ipset list -n").contains("lh-"));
        // Whoever takes everything away need not know what carried it.
        kernel.use_dataplane(Dataplane::Iptables(Backend::Legacy)).unwrap();
        settle_twice(&mut kernel, &wanted);
        let mut another = host.kernel();
        another.remove_all().unwrap();
        assert_eq!((tables(&host), chains(&host, "legacy"), chains(&host, "nft")), (0, 0, 0));
        assert!(!host.sh("ipset list -n").contains("lh-"));
    });
}

/// The first pass over everything takes the former dataplane away.
fn settle_twice(kernel: &mut lasthop_kernel::Kernel, wanted: &Wanted) {
    let pass = sync(kernel, wanted, Everything::Yes);
    assert!(pass.failed.is_empty(), "{pass:?}");
    settle(kernel, wanted);
}

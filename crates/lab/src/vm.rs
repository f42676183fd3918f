//! A workload with a kernel of its own: QEMU on the workload's TAP, Debian's cloud kernel, and a RAM disk of
//! busybox that is made here.
//!
//! The guest configures its card, pings every other workload and the Internet, and writes what it finds to
//! its console, each line beginning with [`MARK`].

use crate::initramfs::Archive;
use crate::topology::{Topology, Workload};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Begins every line of the guest that others look for.
pub const MARK: &str = "LASTHOP-VM";

/// Where a kernel may be that is not this system's own: a Debian package unpacked (scripts/install-deps.sh).
const UNPACKED: &str = "/var/cache/lasthop/vm";

/// The modules that a virtio network card needs, in the order to load them (those that are there).
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// A guest kernel and its modules.
struct GuestKernel {
    image: PathBuf,
    modules: PathBuf,
}

fn guest_kernel() -> Result<GuestKernel> {
    for root in ["/", UNPACKED] {
        let boot = fs::read_dir(Path::new(root).join("boot")).into_iter().flatten().flatten();
        let mut names: Vec<String> = boot.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let newest =
            names.iter().rev().find_map(|name| name.strip_prefix("vmlinuz-").filter(|v| v.ends_with("-cloud-amd64")));
        if let Some(version) = newest {
            let image = Path::new(root).join("boot").join(format!("vmlinuz-{version}"));
            return Ok(GuestKernel {
                image,
                modules: Path::new(root).join("lib/modules").join(version).join("kernel"),
            });
        }
    }
    bail!(
        "there is no guest kernel under /boot or {UNPACKED}: install linux-image-cloud-amd64, or run scripts/install-deps.sh"
    )
}

/// The command that runs the guest; its RAM disk is written to `directory`.
///
/// # Errors
/// If there is no guest kernel or busybox, or the RAM disk cannot be written.
pub fn command(topology: &Topology, workload: &Workload, directory: &Path) -> Result<Vec<String>> {
    let kernel = guest_kernel()?;
    let disk = directory.join("initramfs.cpio");
    fs::write(&disk, ram_disk(&kernel, &script(topology, workload))?)
        .with_context(|| format!("cannot write {}", disk.display()))?;
    let machine = |accelerator: &[&str]| {
        let mut command = vec!["qemu-system-x86_64".to_owned()];
        command.extend(accelerator.iter().map(|word| (*word).to_owned()));
        command.extend(["-m", "256", "-nodefaults", "-display", "none", "-monitor", "none"].map(str::to_owned));
        command
            .extend(["-serial", "stdio", "-no-reboot", "-append", "console=ttyS0 quiet panic=-1"].map(str::to_owned));
        command.extend(["-kernel", &kernel.image.display().to_string()].map(str::to_owned));
        command.extend(["-initrd", &disk.display().to_string()].map(str::to_owned));
        command
    };
    let by_processor = machine(&["-machine", "q35,accel=kvm", "-cpu", "host"]);
    let mut command =
        if boots(&by_processor) { by_processor } else { machine(&["-machine", "q35,accel=tcg", "-cpu", "max"]) };
    let card = format!("tap,id=card,ifname={},script=no,downscript=no", workload.tap_name());
    let device = format!("virtio-net-pci,netdev=card,mac={},romfile=", workload.mac_address());
    command.extend(["-netdev", &card, "-device", &device].map(str::to_owned));
    Ok(command)
}

/// Whether this machine boots the guest so: `/dev/kvm` may be there and not work (nested virtualisation), which
/// shows only by trying. Takes a second or two where it works.
fn boots(command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first().filter(|_| Path::new("/dev/kvm").exists()) else {
        return false;
    };
    let mut machine = Command::new(program);
    machine.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut machine) = machine.spawn() else { return false };
    let Some(console) = machine.stdout.take() else { return false };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let up = BufReader::new(console).lines().map_while(Result::ok).any(|line| line.contains(MARK));
        tell.send(up) // nobody listens any more after the time limit
    });
    let up = told.recv_timeout(Duration::from_secs(8)).unwrap_or(false);
    let _ = machine.kill();
    let _ = machine.wait();
    up
}

fn ram_disk(kernel: &GuestKernel, script: &str) -> Result<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").context("there is no /bin/busybox: install busybox-static")?;
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "modules", "proc", "sys"] {
        archive.directory(directory);
    }
    archive.console();
    archive.file("bin/busybox", &busybox);
    archive.file("init", script.as_bytes());
    for (at, module) in MODULES.iter().enumerate() {
        if let Ok(bytes) = fs::read(kernel.modules.join(module)) {
            archive.file(&format!("modules/{at}.ko"), &bytes);
        }
    }
    Ok(archive.finish())
}

/// What the guest does.
fn script(topology: &Topology, workload: &Workload) -> String {
    let mut text = String::from(
        "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         for m in /modules/*.ko; do insmod $m; done\n\
         ip link set lo up; ip link set eth0 up\n",
    );
    for address in &workload.addresses {
        let _ = match address {
            IpAddr::V4(v4) => writeln!(
                text,
                "ip addr add {v4}/32 dev eth0\nip route add 169.254.1.1 dev eth0\nip route add default via 169.254.1.1 dev eth0"
            ),
            IpAddr::V6(v6) => {
                writeln!(text, "ip -6 addr add {v6}/128 dev eth0\nip -6 route add default via fe80::1 dev eth0")
            }
        };
    }
    let _ = writeln!(text, "echo {MARK} up $(uname -r)");
    let others = topology.workloads.iter().filter(|other| other.name != workload.name);
    let addresses = others.flat_map(|other| other.addresses.iter()).chain(&topology.fabric.internet);
    for address in addresses {
        let _ = writeln!(
            text,
            "for try in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 {address} >/dev/null 2>&1 && echo {MARK} reaches {address} && break; done"
        );
    }
    let _ = writeln!(text, "echo {MARK} done\nwhile true; do sleep 3600; done");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reaches_for_everyone_but_itself() {
        let topology = crate::builtin::builtin("vm").unwrap().unwrap();
        let script = script(&topology, topology.workload("vm24").unwrap());
        assert!(script.contains("ip addr add 10.65.0.24/32 dev eth0"));
        for other in ["10.65.0.21", "10.65.0.22", "10.65.0.23", "198.51.100.1"] {
            assert!(script.contains(&format!("reaches {other} ")), "{other}");
        }
        assert!(!script.contains("reaches 10.65.0.24"));
    }
}

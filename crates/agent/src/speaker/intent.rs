//! What the speaker was last told, kept on disk so that it can go on after a crash while nobody is there to tell it.
//!
//! The file is in the run directory: after a reboot there is none, and nothing that was forwarded is forwarded still,
//! so the speaker starts cold (RFC 4724 section 4.1).

use super::protocol::{SpeakerMirror, peers, prefixes};
use lasthop_bgp::config::{PeerConfig, SpeakerConfig};
use lasthop_net::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The first byte of the file: raised with every change of its content.
const VERSION: u8 = 3;

/// What the speaker was last told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    /// Who it is.
    pub(super) speaker: SpeakerConfig,
    /// Its peers.
    pub(super) peers: BTreeMap<IpAddr, PeerConfig>,
    /// Own prefixes.
    pub(super) own: BTreeSet<Prefix>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(with = "SpeakerMirror")]
    speaker: SpeakerConfig,
    #[serde(with = "peers")]
    peers: Vec<PeerConfig>,
    #[serde(with = "prefixes")]
    own: BTreeSet<Prefix>,
}

impl Intent {
    /// Where to listen.
    pub(super) fn doors(&self) -> BTreeSet<SocketAddr> {
        let SpeakerConfig { port, bind, .. } = &self.speaker;
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let bind = if bind.is_empty() { all.into() } else { bind.clone() };
        bind.into_iter().map(|address| SocketAddr::new(address, *port)).collect()
    }

    /// The intent in this file; `None` if there is no file.
    ///
    /// # Errors
    /// If it cannot be read or is no intent of this version.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let Some((&VERSION, content)) = bytes.split_first() else {
            return Err(invalid(format!("not of version {VERSION}")));
        };
        let content: Content = postcard::from_bytes(content).map_err(|error| invalid(error.to_string()))?;
        let peers = content.peers.into_iter().map(|peer| (peer.address, peer)).collect();
        Ok(Some(Self { speaker: content.speaker, peers, own: content.own }))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// If it cannot be written; then the old one is still there.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let content = Content {
            speaker: self.speaker.clone(),
            peers: self.peers.values().cloned().collect(),
            own: self.own.clone(),
        };
        let bytes = postcard::to_extend(&content, vec![VERSION]).map_err(io::Error::other)?;
        let next = path.with_extension("intent.new");
        // Anew each time, so that it is nobody else's to read, whatever was there.
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?.write_all(&bytes)?;
        std::fs::rename(&next, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_bgp::config::Drain;
    use lasthop_net::Asn;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn an_intent_survives_and_rubbish_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bgp.intent");
        assert_eq!(Intent::load(&path).unwrap(), None);
        let intent = Intent {
            speaker: SpeakerConfig {
                asn: Asn(64512),
                router_id: "10.0.0.1".parse().unwrap(),
                cluster_id: Some("10.0.0.2".parse().unwrap()),
                port: 179,
                bind: [].into(),
                restart_time: Duration::from_secs(120),
                deferral: Duration::from_millis(1500),
                drain: Drain::No,
            },
            peers: BTreeMap::new(),
            own: ["10.65.0.24/32", "fd00:65::18/128"].map(|text| text.parse().unwrap()).into(),
        };
        intent.save(&path).unwrap();
        intent.save(&path).unwrap();
        assert_eq!(Intent::load(&path).unwrap(), Some(intent));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "who peers with whom is nobody else's to read");
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(Intent::load(&path).is_err(), "cut after {length} bytes");
        }
    }
}

//! The contents of secrets that sessions need: files `<secretDirectory>/<name>/<key>` of this host, as Kubernetes mounts
//! them. They are read when something asks for them and looked at again every few seconds while something does; they
//! go to the speaker and nowhere else.

use crate::run::Agent;
use lasthop_bgp::config::Secret;
use lasthop_compute::Event;
use lasthop_model::SecretRef;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How often files are looked at again.
const EVERY: Duration = Duration::from_secs(5);

/// What was last read.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    known: BTreeMap<SecretRef, Option<Secret>>,
    /// When to look again; never while nothing needs a secret.
    pub(crate) next: Option<Instant>,
}

impl Agent {
    /// Reads what is needed and not known, and, when it is time, all that is needed.
    pub(crate) fn read_secrets(&mut self) {
        let wanted = self.engine.desired().bgp.as_ref().map(|bgp| bgp.secrets.clone()).unwrap_or_default();
        let again = self.secrets.next.is_some_and(|next| next <= Instant::now());
        for (reference, content) in self.secrets.read(&self.config.secret_directory, (&wanted, again)) {
            self.engine.apply(Event::Secret { reference, content });
        }
        match (wanted.is_empty(), self.secrets.next) {
            (true, _) => self.secrets.next = None,
            (false, Some(_)) if !again => {}
            (false, _) => self.secrets.next = Some(Instant::now() + EVERY),
        }
    }
}

impl Secrets {
    /// What differs from what was known.
    fn read(
        &mut self,
        directory: &Path,
        (wanted, again): (&BTreeSet<SecretRef>, bool),
    ) -> Vec<(SecretRef, Option<Secret>)> {
        let mut news = Vec::new();
        let gone: Vec<SecretRef> = self.known.keys().filter(|known| !wanted.contains(known)).cloned().collect();
        for reference in gone {
            if self.known.remove(&reference).flatten().is_some() {
                news.push((reference, None));
            }
        }
        for reference in wanted {
            let known = self.known.get(reference);
            if known.is_some() && !again {
                continue;
            }
            let content = content(directory, reference);
            let before = known.cloned().flatten();
            self.known.insert(reference.clone(), content.clone());
            if before != content {
                news.push((reference.clone(), content));
            }
        }
        news
    }
}

/// A file's content without the line break that editors leave at its end.
fn content(directory: &Path, reference: &SecretRef) -> Option<Secret> {
    let path = directory.join(&reference.name).join(&reference.key);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "a secret cannot be read");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_on_disk_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let reference = SecretRef { name: "tor".to_owned(), key: "password".to_owned() };
        let wanted = BTreeSet::from([reference.clone()]);
        let mut secrets = Secrets::default();
        let mut read = |wanted: &BTreeSet<SecretRef>, again| secrets.read(directory.path(), (wanted, again));
        assert_eq!(read(&wanted, false), [], "a secret that is not there is no news");
        std::fs::create_dir(directory.path().join("tor")).unwrap();
        let path = directory.path().join("tor/password");
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(read(&wanted, false), [], "it is not time");
        assert_eq!(read(&wanted, true), [(reference.clone(), Some(Secret::new("hunter2")))]);
        assert_eq!(read(&wanted, true), []);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&wanted, true), [(reference.clone(), None)]);
        std::fs::write(&path, "hunter3").unwrap();
        assert_eq!(read(&wanted, true), [(reference.clone(), Some(Secret::new("hunter3")))]);
        assert_eq!(read(&BTreeSet::new(), false), [(reference, None)], "what nobody needs is forgotten");
    }
}

//! TLS of both ends: version 1.3, certificates of the installation's own authority required from both sides.

use crate::certs::Files;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key do not go together, or are of no use.
    #[error("certificate {certificate} and key {key} cannot be used: {reason}")]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let read = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    match found {
        Ok(found) if found.is_empty() => Err(error("there is no certificate in it".to_owned())),
        other => other.map_err(|e| error(format!("not a certificate in PEM: {e:?}"))),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let error = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let read = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    PrivateKeyDer::from_pem_slice(&read).map_err(|e| error(format!("not a private key in PEM: {e:?}")))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|e| TlsError::File { path: path.to_owned(), reason: e.to_string() })?;
    }
    Ok(Arc::new(roots))
}

fn pair_error(files: &Files, error: &rustls::Error) -> TlsError {
    let (certificate, key) = (files.certificate.clone(), files.key.clone());
    TlsError::Pair { certificate, key, reason: error.to_string() }
}

/// TLS of a server: clients without a certificate of the authority do not get past the handshake.
///
/// # Errors
/// [`TlsError`], with the file's name.
pub fn server_config(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&files.ca)?, Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|e| TlsError::File { path: files.ca.clone(), reason: e.to_string() })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| pair_error(files, &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(|e| pair_error(files, &e))?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS of a client.
///
/// # Errors
/// [`TlsError`], with the file's name.
pub fn client_config(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| pair_error(files, &e))?
        .with_root_certificates(roots(&files.ca)?)
        .with_client_auth_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(|e| pair_error(files, &e))?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::{Role, init, issue};

    #[test]
    fn files_that_do_not_fit_give_one_line_with_their_name() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        init(directory).unwrap();
        let good = issue(directory, Role::Server, "a").unwrap();
        let other = issue(directory, Role::Server, "b").unwrap();
        server_config(&good).unwrap();
        client_config(&good).unwrap();
        let none = directory.join("none");
        let empty = directory.join("empty");
        std::fs::write(&empty, "").unwrap();
        for (files, word) in [
            (Files { ca: none.clone(), ..good.clone() }, "none: No such file"),
            (Files { ca: empty.clone(), ..good.clone() }, "empty: there is no certificate"),
            (Files { certificate: empty.clone(), ..good.clone() }, "empty: there is no certificate"),
            (Files { key: good.certificate.clone(), ..good.clone() }, "server-a.pem: not a private key"),
            (Files { key: other.key, ..good.clone() }, "server-b-key.pem cannot be used"),
        ] {
            for error in [server_config(&files).unwrap_err(), client_config(&files).unwrap_err()] {
                let line = error.to_string();
                assert!(line.contains(word) && !line.contains('\n'), "{line}");
            }
        }
    }
}

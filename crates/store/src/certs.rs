//! The certificates of an installation: one authority, and what it issues to servers, nodes and admins.
//!
//! A directory holds `ca.pem` and `ca-key.pem`, and for each certificate `<role>-<name>.pem` and `-key.pem`, all
//! readable by their owner only. Servers are verified by one name that only servers' certificates carry, so an
//! installation's servers may change their addresses.

use crate::document::civil;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The name in every server's certificate.
pub(crate) const SERVER_NAME: &str = "server.lasthop.internal";

const AUTHORITY_YEARS: u64 = 20;
const LEAF_YEARS: u64 = 10;

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A `lasthop server`.
    Server,
    /// A host's agent.
    Node,
    /// A person or a program that may write everything.
    Admin,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Nothing is ever overwritten.
    #[error("{0} exists already: move it away, or choose another directory or name")]
    Exists(PathBuf),
    /// There is no authority.
    #[error("{0} does not exist: make an authority first with `lasthop certs init`")]
    NoAuthority(PathBuf),
    /// The name cannot be used.
    #[error("{0}")]
    Name(#[from] lasthop_model::ParseNameError),
    /// The role is none.
    #[error("'{0}' is not a role: use server, node or admin")]
    Role(String),
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// The three files that one end of a connection needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// Our own.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = CertError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Server, Self::Node, Self::Admin]
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or_else(|| CertError::Role(text.to_owned()))
    }
}

/// Makes an authority in a directory, which is made if it is not there.
///
/// # Errors
/// If there is one already, or the files cannot be written.
pub fn init(directory: &Path) -> Result<(), CertError> {
    std::fs::create_dir_all(directory).map_err(|e| file_error(directory, &e))?;
    let (certificate, key) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
    let pair = KeyPair::generate()?;
    // Each has a name of its own, so that a certificate of another one is told as such.
    let number = u32::try_from(crate::random() >> 96).unwrap_or(0);
    let mut params = params(&format!("lasthop authority {number:08x}"), AUTHORITY_YEARS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(&pair)?;
    write_pair([(&certificate, made.pem()), (&key, pair.serialize_pem())])
}

/// Issues a certificate by the authority in `directory`, into the same directory.
///
/// # Errors
/// If there is no authority, the name is not valid, or there is a certificate of that name.
pub fn issue(directory: &Path, role: Role, name: &str) -> Result<Files, CertError> {
    let name: lasthop_model::NodeName = name.parse()?;
    let ca = directory.join("ca.pem");
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CertError::NoAuthority(path.to_owned())),
        other => other.map_err(|e| file_error(path, &e)),
    };
    let authority_key = KeyPair::from_pem(&read(&directory.join("ca-key.pem"))?)?;
    let authority = Issuer::from_ca_cert_pem(&read(&ca)?, authority_key)?;
    let pair = KeyPair::generate()?;
    let mut params = params(&format!("{role}:{name}"), LEAF_YEARS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = match role {
        Role::Server => {
            params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into()?)];
            vec![ExtendedKeyUsagePurpose::ServerAuth]
        }
        Role::Node | Role::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    let made = params.signed_by(&pair, &authority)?;
    let certificate = directory.join(format!("{role}-{name}.pem"));
    let key = directory.join(format!("{role}-{name}-key.pem"));
    write_pair([(&certificate, made.pem()), (&key, pair.serialize_pem())])?;
    Ok(Files { ca, certificate, key })
}

fn params(common_name: &str, years: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()) / 86_400;
    let date = |(year, month, day): (u64, u64, u64)| {
        // Every month has 28 days, every year we live in fits.
        let small = |n: u64| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::try_from(year).unwrap_or(9999), small(month), small(day.min(28)))
    };
    // Clocks of hosts differ; the day before is early enough for all of them.
    params.not_before = date(civil(today.saturating_sub(4)));
    let (year, month, day) = civil(today);
    params.not_after = date((year + years, month, day));
    params
}

fn file_error(path: &Path, error: &std::io::Error) -> CertError {
    CertError::File { path: path.to_owned(), reason: error.to_string() }
}

/// Writes both files or, if either is there already, none.
fn write_pair(files: [(&Path, String); 2]) -> Result<(), CertError> {
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        return Err(CertError::Exists(path.to_path_buf()));
    }
    for (path, text) in files {
        let mut open = std::fs::OpenOptions::new();
        let written = open.write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|e| file_error(path, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_private_and_never_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("certs");
        let missing = issue(&directory, Role::Node, "a").unwrap_err().to_string();
        assert!(missing.contains("ca-key.pem") && missing.contains("certs init"), "{missing}");
        init(&directory).unwrap();
        let files = issue(&directory, Role::Node, "compute-1").unwrap();
        assert_eq!(files.certificate, directory.join("node-compute-1.pem"));
        let before = std::fs::read(&files.key).unwrap();
        for again in [init(&directory), issue(&directory, Role::Node, "compute-1").map(drop)] {
            assert!(again.unwrap_err().to_string().contains("exists already"));
        }
        assert_eq!(std::fs::read(&files.key).unwrap(), before);
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
        let bad = issue(&directory, Role::Admin, "../x").unwrap_err().to_string();
        assert!(bad.contains("../x") && !bad.contains('\n'), "{bad}");
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("server, node or admin"));
    }
}

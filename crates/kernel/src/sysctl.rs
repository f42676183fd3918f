//! Kernel settings under /proc/sys. Those of `net` are the namespace's of the thread that opens the file.

use crate::Error;
use std::path::PathBuf;

/// The file of a setting given as a path under /proc/sys, e.g. `net/ipv4/ip_forward`.
fn path(setting: &str) -> Result<PathBuf, Error> {
    if setting.starts_with('/') || setting.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Error::Invalid(format!("'{setting}' is not a setting: write e.g. net/ipv4/ip_forward")));
    }
    Ok(PathBuf::from("/proc/sys").join(setting))
}

/// Reads a setting; `None` if there is none of this name, e.g. because its link is absent.
pub fn read(setting: &str) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path(setting)?) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {setting}"), &error)),
    }
}

/// Writes a setting.
pub fn write(setting: &str, value: &str) -> Result<(), Error> {
    std::fs::write(path(setting)?, value).map_err(|error| Error::io(format!("set {setting} to {value}"), &error))
}

/// Writes a setting if this kernel and namespace have it and it is not so already.
pub fn write_if_present(setting: &str, value: &str) -> Result<(), Error> {
    match read(setting)? {
        Some(now) if now != value => write(setting, value),
        _ => Ok(()),
    }
}

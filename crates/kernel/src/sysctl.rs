//! Kernel settings under /proc/sys. Those of `net` are the namespace's of the thread that opens the file.

use crate::Error;
use std::fs::File;
use std::io::{Read, Write};
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
    let failed = |error: std::io::Error| Error::io(format!("read {setting}"), &error);
    let mut file = match File::open(path(setting)?) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // One read gives all of a value that fits; what does not is gone on with.
    let mut first = [0; 512];
    let length = file.read(&mut first).map_err(failed)?;
    let mut bytes = first[..length].to_vec();
    if length == first.len() {
        file.read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Writes a setting.
pub fn write(setting: &str, value: &str) -> Result<(), Error> {
    let path = path(setting)?;
    let write = || File::options().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|error| Error::io(format!("set {setting} to {value}"), &error))
}

/// Writes a setting if this kernel and namespace have it and it is not so already.
pub fn write_if_present(setting: &str, value: &str) -> Result<(), Error> {
    match read(setting)? {
        Some(now) if now != value => write(setting, value),
        _ => Ok(()),
    }
}

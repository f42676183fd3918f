//! A RAM disk for a guest kernel: the "newc" form of cpio, as the kernel reads it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; those above it must be there.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    /// Adds an executable file.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    /// Adds `dev/console`, which the kernel opens for the first process.
    pub fn console(&mut self) {
        self.entry_of_device("dev/console", CHARACTER_DEVICE, (5, 1));
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.header(name, mode, (u32::try_from(content.len()).unwrap_or(u32::MAX), 0, 0));
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn entry_of_device(&mut self, name: &str, mode: u32, device: (u32, u32)) {
        self.header(name, mode, (0, device.0, device.1));
    }

    fn header(&mut self, name: &str, mode: u32, (size, major, minor): (u32, u32, u32)) {
        self.inode += 1;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_say_their_sizes() {
        let mut archive = Archive::new();
        archive.directory("bin");
        archive.file("bin/x", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 3);
        assert!(text.contains("hello\x00\x00\x00070701"), "content is padded to four bytes");
        assert_eq!(&bytes[54..62], b"00000000", "size of a directory");
    }
}

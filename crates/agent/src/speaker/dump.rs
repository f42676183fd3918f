//! Tables written to a file while the speaker goes on: it makes a part whenever the file has room for one.

use super::driver::Event;
use lasthop_bgp::{MrtDump, Speaker};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Parts that may wait for the disk.
const WAITING: usize = 8;

/// Parts made in a row before anything else has its turn.
const IN_A_ROW: usize = 4;

/// How long a dump waits for its next turn.
const TURN: Duration = Duration::from_millis(1);

/// A dump on its way to its file.
pub(super) struct Dump {
    dump: MrtDump,
    /// `None` once all is handed on.
    file: Option<mpsc::Sender<Vec<u8>>>,
}

impl Dump {
    /// Begins a dump; [`Event::Dumped`] tells how it ended. The file is there when it is whole, or not at all.
    pub(super) fn begin(path: PathBuf, (id, signals): (u64, mpsc::UnboundedSender<Event>), now: Instant) -> Self {
        let (file, parts) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            let written = write(&path, parts).map_err(|error| format!("cannot write {}: {error}", path.display()));
            // The driver goes only with the process.
            let _ = signals.send(Event::Dumped { id, written });
        });
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { dump: MrtDump::new(u32::try_from(time).unwrap_or(u32::MAX), now), file: Some(file) }
    }

    /// Makes as many parts as there is room for; whether there is more to do.
    pub(super) fn step(&mut self, speaker: &Speaker) -> bool {
        for _ in 0..IN_A_ROW {
            let made = match self.file.as_ref().map(mpsc::Sender::try_reserve) {
                None => return false,
                Some(Ok(room)) => self.dump.part(speaker).map(|part| room.send(part)),
                Some(Err(mpsc::error::TrySendError::Full(()))) => return true,
                // The file could not be written, which is told already.
                Some(Err(mpsc::error::TrySendError::Closed(()))) => None,
            };
            if made.is_none() {
                self.file = None;
            }
        }
        self.file.is_some()
    }

    /// When [`Self::step`] is to be called again.
    pub(super) fn next_turn(now: Instant) -> Instant {
        now + TURN
    }
}

fn write(path: &Path, mut parts: mpsc::Receiver<Vec<u8>>) -> io::Result<u64> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let mut written = 0;
    let result = (|| {
        let mut file = io::BufWriter::new(std::fs::File::create(&beside)?);
        while let Some(part) = parts.blocking_recv() {
            file.write_all(&part)?;
            written += part.len() as u64;
        }
        file.flush()?;
        std::fs::rename(&beside, path)
    })();
    if result.is_err()
        && let Err(error) = std::fs::remove_file(&beside)
    {
        tracing::debug!(%error, "the unfinished dump is not removed");
    }
    result.map(|()| written)
}

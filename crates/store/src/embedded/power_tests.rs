//! Power cuts, simulated below the database: a storage that keeps a journal of every write and sync. Each
//! prefix of the journal is a moment at which the power may go; what was synced is then on the medium, and of
//! what was not, anything from nothing to all, in any order, with the last write torn.

use super::*;
use crate::suite::{Replica, n, options, pool};
use serde_json::json;
use std::collections::BTreeMap;

/// Disks write sectors whole.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
}

#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Medium>>);

#[derive(Debug, Default)]
struct Medium {
    image: Vec<u8>,
    journal: Vec<Op>,
}

fn apply(image: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, bytes) => {
            let end = offset + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[*offset..end].copy_from_slice(bytes);
        }
        Op::SetLen(len) => image.resize(*len, 0),
        Op::Sync => {}
    }
}

impl Disk {
    fn with(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Medium { image, journal: Vec::new() })))
    }

    fn journal_len(&self) -> usize {
        lock(&self.0).journal.len()
    }

    fn record(&self, op: Op) {
        let mut medium = lock(&self.0);
        apply(&mut medium.image, &op);
        medium.journal.push(op);
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = lock(&self.0);
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(medium.image.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Op::SetLen(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Op::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.record(Op::Write(usize::try_from(offset).unwrap(), bytes.to_vec()));
        Ok(())
    }
}

/// What the medium may hold if the power goes after `cut` operations.
fn images(start: &[u8], journal: &[Op], cut: usize) -> Vec<Vec<u8>> {
    let synced = journal[..cut].iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    let mut base = start.to_vec();
    journal[..synced].iter().for_each(|op| apply(&mut base, op));
    let pending = &journal[synced..cut];
    if pending.is_empty() {
        return vec![base];
    }
    let made = |ops: &[&Op]| {
        let mut image = base.clone();
        ops.iter().for_each(|op| apply(&mut image, op));
        image
    };
    let mut images = vec![base.clone(), made(&pending.iter().collect::<Vec<_>>())];
    // The last one alone: reordered before all others.
    images.extend(pending.last().map(|last| made(&[last])));
    // Some of them, backwards; each write torn after some sectors.
    for _ in 0..2 {
        let mut bits = crate::random();
        let mut draw = |n: usize| {
            bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f).wrapping_add(1);
            usize::try_from((bits >> 64) % n as u128).unwrap()
        };
        let torn: Vec<Op> = (pending.iter().rev().filter(|_| draw(2) == 0).cloned().collect::<Vec<_>>().into_iter())
            .map(|op| match op {
                Op::Write(offset, bytes) => {
                    let sectors = draw(bytes.len().div_ceil(SECTOR) + 1) * SECTOR;
                    Op::Write(offset, bytes[..sectors.min(bytes.len())].to_vec())
                }
                other => other,
            })
            .collect();
        images.push(made(&torn.iter().collect::<Vec<_>>()));
    }
    images
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An acknowledged state: the journal's length when the answer came, and what each key then had.
type Ack = (usize, BTreeMap<Key, u64>);

/// An empty store's image, and what a history on it acknowledged and wrote.
async fn past() -> (Vec<u8>, Vec<Ack>, Vec<Op>) {
    let fresh = Disk::default();
    drop(Embedded::open_on(fresh.clone(), options()).unwrap());
    let start = lock(&fresh.0).image.clone();
    let disk = Disk::with(start.clone());
    let acks = history(&disk).await;
    let journal = lock(&disk.0).journal.clone();
    (start, acks, journal)
}

/// A history of writes over a fresh disk: the image at its start, the journal, and the acknowledgements.
async fn history(disk: &Disk) -> Vec<Ack> {
    let store = Embedded::open_on(disk.clone(), Options { history: 4, ..options() }).unwrap();
    let mut held: BTreeMap<Key, u64> =
        store.list(None).await.unwrap().items.iter().map(|s| (s.key.clone(), n(s))).collect();
    let mut acks = vec![(disk.journal_len(), held.clone())];
    for i in 0..36u64 {
        let key = pool(&format!("k{}", i * 7 % 5));
        let document = json!({"spec": {"n": i, "filler": "x".repeat((i as usize * 331) % 3000)}});
        if i % 6 == 5 {
            store.delete(&key, Expect::Any).await.ok();
            held.remove(&key);
        } else if held.insert(key.clone(), i).is_some() {
            store.update(key, document, Expect::Any).await.unwrap();
        } else {
            store.create(key, document).await.unwrap();
        }
        acks.push((disk.journal_len(), held.clone()));
    }
    acks
}

/// Opens what is left and compares: the last acknowledged state, or one that was being written after it.
async fn survives(image: Vec<u8>, acks: &[Ack], cut: usize) -> Disk {
    let disk = Disk::with(image);
    let store = Embedded::open_on(disk.clone(), options()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
    let listing = store.list(None).await.unwrap();
    let found: BTreeMap<Key, u64> = listing.items.iter().map(|s| (s.key.clone(), n(s))).collect();
    let last = acks.partition_point(|(at, _)| *at <= cut).saturating_sub(1);
    let allowed = &acks[last..acks.len().min(last + 2)];
    assert!(allowed.iter().any(|(_, held)| *held == found), "cut at {cut}: {found:?} is none of {allowed:?}");
    let mut replica = Replica::default();
    let mut watch = store.watch(None).await.unwrap();
    replica.until(&mut watch, |r| r.synced).await;
    replica.equals(&store).await;
    // It takes writes again.
    store.create(pool("after"), json!({"spec": {"n": 1}})).await.unwrap();
    disk
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    runtime().block_on(async {
        let (start, acks, journal) = past().await;
        let syncs = journal.iter().filter(|op| matches!(op, Op::Sync)).count();
        assert!(syncs >= 36, "{syncs} syncs for 36 writes");
        let mut opened = 0;
        for cut in 0..=journal.len() {
            for image in images(&start, &journal, cut) {
                survives(image, &acks, cut).await;
                opened += 1;
            }
        }
        assert!(opened > journal.len(), "{opened} images of {} operations", journal.len());
    });
}

#[test]
fn a_power_cut_while_the_last_one_is_repaired_loses_nothing_either() {
    runtime().block_on(async {
        let (start, acks, journal) = past().await;
        for cut in (0..=journal.len()).step_by(23) {
            let Some(first) = images(&start, &journal, cut).pop() else { continue };
            let repaired = Disk::with(first.clone());
            drop(Embedded::open_on(repaired.clone(), options()).unwrap());
            let repair = lock(&repaired.0).journal.clone();
            for second in 0..=repair.len() {
                for image in images(&first, &repair, second) {
                    survives(image, &acks, cut).await;
                }
            }
        }
    });
}

//! `lasthop bgp`: the process around the [`Driver`](super::driver::Driver): runtime, sockets to listen on, signals.

use super::driver::{Driver, Event, Listening};
use super::link::{self, Channels};
use super::socket::{self, ListenTerms};
use crate::config::Config;
use crate::lock;
use lasthop_bgp::StopMode;
use lasthop_net::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events that may wait. With 8 KiB a read this bounds what peers can make us hold.
const EVENTS: usize = 128;

/// Events handled before what they lead to is carried out: what came together goes out together.
const BATCH: usize = 64;

/// How often a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What peers are told when the speaker is stopped by a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// Nothing: by graceful restart they keep our routes until we are back.
    #[default]
    KeepRoutes,
    /// That we are gone: they drop our routes at once.
    Withdraw,
}

/// Why the speaker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A directory, file or socket cannot be used.
    #[error("{what} {}: {error}{}", path.display(), if error.kind() == io::ErrorKind::PermissionDenied { "; run as root" } else { "" })]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// Another speaker is there.
    #[error("another speaker runs with {}: stop it, or use another runDirectory", .0.display())]
    Running(PathBuf),
    /// The runtime cannot be set up.
    #[error("cannot set up the speaker's event loop: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs the speaker of this host until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start.
pub fn serve(config: &Config, on_stop: OnStop) -> Result<(), ServeError> {
    crate::memory::one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(config, on_stop, stop).await
    })
}

/// Runs the speaker on the runtime at hand until `stop`.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: &Config, on_stop: OnStop, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let directory = &config.run_directory;
    std::fs::create_dir_all(directory).map_err(failed("cannot make the directory", directory))?;
    let path = directory.join("bgp.lock");
    let locked = lock::take(&path).map_err(failed("cannot lock", &path))?;
    let Some(_lock) = locked else { return Err(ServeError::Running(path)) };
    let (data, mut events) = mpsc::channel(EVENTS);
    let (signals, mut signalled) = mpsc::unbounded_channel();
    let mut driver = Driver::new(directory.join("bgp.intent"), Channels { data: data.clone(), signals });
    if let Some(bmp) = config.bmp {
        driver.report_to(bmp, config.node.to_string());
    }
    let socket = config.speaker_socket();
    let listener = lasthop_store::local::listen(&socket, None).map_err(failed("cannot make the socket", &socket))?;
    let agents = tokio::spawn(greet_agents(listener, data.clone()));
    let mut port = Port::new(data);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "the service manager is not told");
    }
    tokio::pin!(stop);
    loop {
        if let Some(listening) = port.follow(driver.doors()) {
            driver.set_listening(listening);
        }
        if let Some(terms) = driver.listen_terms() {
            port.secure(terms);
        }
        driver.carry_out();
        let due = [driver.next_timeout(), port.retry_at].into_iter().flatten().min();
        let first = tokio::select! {
            () = &mut stop => break,
            event = events.recv() => event,
            event = signalled.recv() => event,
            () = sleep_until(due) => None,
        };
        let waiting = std::iter::from_fn(|| signalled.try_recv().or_else(|_| events.try_recv()).ok());
        let mut received = 0;
        for event in first.into_iter().chain(waiting).take(BATCH) {
            received += event.size();
            driver.handle(event);
            // The agent works on what it is told by now, while we go on.
            if received >= driver.batch() {
                break;
            }
        }
        driver.timeout(Instant::now());
    }
    agents.abort();
    port.close();
    driver
        .stop(match on_stop {
            OnStop::KeepRoutes => StopMode::KeepRoutes,
            OnStop::Withdraw => StopMode::Cease,
        })
        .await;
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the socket is not removed");
    }
    Ok(())
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ServeError + 'a {
    move |error| ServeError::File { what, path: path.to_owned(), error }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn greet_agents(listener: UnixListener, events: mpsc::Sender<Event>) {
    let mut next = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                next += 1;
                tokio::spawn(link::greet(next, stream, events.clone()));
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Accepting fails when file descriptors run out, and then fails again at once.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Where we listen: everywhere, once for each family, or at single addresses.
struct Port {
    events: mpsc::Sender<Event>,
    wanted: Option<BTreeSet<SocketAddr>>,
    tasks: BTreeMap<SocketAddr, (Arc<TcpListener>, JoinHandle<()>)>,
    terms: ListenTerms,
    retry_at: Option<Instant>,
}

impl Port {
    fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, wanted: None, tasks: BTreeMap::new(), terms: ListenTerms::default(), retry_at: None }
    }

    /// Listens there from now on; says how it went if anything was done.
    fn follow(&mut self, wanted: Option<BTreeSet<SocketAddr>>) -> Option<Listening> {
        let retry = self.retry_at.is_some_and(|at| at <= Instant::now());
        if self.wanted == wanted && !retry {
            return None;
        }
        if self.wanted != wanted {
            // What is open everywhere is in the way of one address, and the reverse.
            self.close();
        }
        self.wanted.clone_from(&wanted);
        let doors = wanted?;
        let mut problem = None;
        for at in &doors {
            if self.tasks.contains_key(at) {
                continue;
            }
            match socket::listen(*at) {
                Ok(listener) => {
                    let listener = Arc::new(listener);
                    self.terms.apply(&listener, Family::of(at.ip()), &ListenTerms::default());
                    let task = tokio::spawn(accept(Arc::clone(&listener), self.events.clone()));
                    self.tasks.insert(*at, (listener, task));
                }
                Err(error) if at.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && is_absent(&error) => {
                    tracing::debug!(%error, "not listening for IPv6 peers");
                }
                Err(error) => {
                    let hint = match error.kind() {
                        io::ErrorKind::AddrInUse => "; does another BGP speaker run on this host?",
                        io::ErrorKind::PermissionDenied => "; run as root",
                        io::ErrorKind::AddrNotAvailable => "; bindMode says NodeIP: is it an address of this host?",
                        _ => "",
                    };
                    let of = match at.ip() {
                        ip if ip.is_unspecified() => Family::of(ip).to_string(),
                        ip => ip.to_string(),
                    };
                    problem = Some(format!("{of} port {}: {error}{hint}", at.port()));
                }
            }
        }
        self.retry_at = problem.is_some().then(|| Instant::now() + RETRY);
        let port = doors.first().map_or(0, SocketAddr::port);
        Some(Listening { port, problem })
    }

    /// Makes the listening sockets as the peers need them.
    fn secure(&mut self, terms: ListenTerms) {
        if self.terms != terms {
            for (at, (listener, _)) in &self.tasks {
                terms.apply(listener, Family::of(at.ip()), &self.terms);
            }
            self.terms = terms;
        }
    }

    fn close(&mut self) {
        self.retry_at = None;
        for (_, task) in std::mem::take(&mut self.tasks).into_values() {
            task.abort();
        }
    }
}

/// Whether this host has no such family.
fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let absent = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|code| absent.contains(&code))
}

async fn accept(listener: Arc<TcpListener>, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if events.send(Event::Accepted(stream, peer)).await.is_err() {
                    return;
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

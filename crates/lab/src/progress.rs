//! What a long command shows while it works: a bar on a terminal, plain lines elsewhere, nothing for `-o json`.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where progress goes.
#[derive(Debug)]
pub struct Progress {
    kind: Kind,
    begun: Instant,
    last: Mutex<String>,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    /// Steps on standard error: a bar if that is a terminal.
    #[must_use]
    pub fn on_stderr(steps: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::new(Kind::Lines);
        }
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::new(Kind::Bar(bar))
    }

    /// Shows nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Kind::Silent)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, begun: Instant::now(), last: Mutex::new(String::new()) }
    }

    /// A new stage begins.
    pub fn stage(&self, words: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.set_message(words.to_owned()),
            Kind::Lines => eprintln!("{:5.1}s  {words}", self.begun.elapsed().as_secs_f32()),
            Kind::Silent => {}
        }
    }

    /// What is being waited for; said once each.
    pub fn waiting(&self, words: &str) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != words {
            words.clone_into(&mut last);
            self.stage(words);
        }
    }

    /// One step is done.
    pub fn step(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.inc(1);
        }
    }

    /// All is done; the bar goes.
    pub fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

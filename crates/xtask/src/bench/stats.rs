//! Medians and percentiles, and how busy the machine was.

use serde::Serialize;
use std::time::Duration;

/// Many measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn add_ms(&mut self, duration: Duration) {
        self.add(duration.as_secs_f64() * 1e3);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The measurement of this number.
    pub(super) fn at(&self, number: usize) -> f64 {
        self.0.get(number).copied().unwrap_or(f64::NAN)
    }

    /// The value that this share of all is not above (nearest rank).
    pub(super) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    pub(super) fn max(&self) -> f64 {
        self.percentile(1.0)
    }

    /// Median and quartiles.
    pub(super) fn middle(&self) -> Figure {
        Figure { value: self.median(), low: self.percentile(0.25), high: self.percentile(0.75), n: self.len() }
    }

    /// The 99th percentile, between the median and the greatest.
    pub(super) fn p99(&self) -> Figure {
        Figure { value: self.percentile(0.99), low: self.median(), high: self.max(), n: self.len() }
    }
}

/// A number and its spread.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Figure {
    /// What counts: a median, or a percentile.
    pub(super) value: f64,
    /// Lower quartile; the median for a percentile.
    pub(super) low: f64,
    /// Upper quartile; the greatest for a percentile.
    pub(super) high: f64,
    /// Of so many measurements.
    pub(super) n: usize,
}

impl Figure {
    /// A number that was read once.
    pub(super) fn single(value: f64) -> Self {
        Self { value, low: value, high: value, n: 1 }
    }
}

/// CPU time of the machine so far, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    busy: u64,
    all: u64,
}

impl Load {
    pub(super) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
        let all: u64 = ticks.iter().take(8).sum();
        let idle = ticks.get(3).unwrap_or(&0) + ticks.get(4).unwrap_or(&0);
        Self { busy: all - idle, all }
    }

    /// The share of all CPUs that was busy since, everything counted.
    pub(super) fn since(self) -> f64 {
        let now = Self::now();
        (now.busy - self.busy) as f64 / (now.all - self.all).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut samples = Samples::default();
        (1..=100).rev().for_each(|n| samples.add(f64::from(n)));
        for (share, expect) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0), (0.25, 25.0)] {
            assert_eq!(samples.percentile(share), expect, "{share}");
        }
        assert!(Samples::default().median().is_nan());
    }
}

//! Runs case files of the shared form (conformance/) against an engine, and says what failed and why.

mod evaluator;
mod kernel;
mod node;
mod packet;
mod policy;
mod selectors;
mod validation;
mod wire;

pub use evaluator::Evaluator;
pub use kernel::{Dataplane, Kernel, Tamper};
pub use policy::{Answer, Case, Engine, Probe, cases, run as policy_cases};

use anyhow::Context;
use clap::{Args, ValueEnum};
use lasthop_kernel::iptables::Backend;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `cargo xtask conformance KIND FILE [--engine ENGINE]`.
#[derive(Args)]
pub struct Options {
    /// What the cases are about.
    kind: Topic,
    /// The case file.
    file: PathBuf,
    /// Who answers the cases about policy.
    #[arg(long, default_value = "evaluator")]
    engine: EngineName,
    /// Only cases whose id begins with this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What cases are about.
#[derive(Clone, Copy, ValueEnum)]
enum Topic {
    /// Selectors over labels.
    Selectors,
    /// Whole resources.
    Validation,
    /// Verdicts.
    Policy,
    /// Address management.
    Ipam,
}

/// Who answers.
#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    /// `policy::decide`.
    Evaluator,
    /// A kernel with nftables.
    Nft,
    /// A kernel with the iptables that is this machine's default.
    Iptables,
    /// A kernel with the original iptables.
    IptablesLegacy,
    /// A kernel with iptables on top of nftables.
    IptablesNft,
}

/// What failed, and how many did not.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Cases that passed.
    pub passed: usize,
    /// A line for each that did not: id, expected, actual, why.
    pub failed: Vec<String>,
    /// A line for each probe that the engine cannot try, and why.
    pub untried: Vec<String>,
    /// Cases that are not judged: of low confidence, or with nothing that the engine can try.
    pub unjudged: usize,
}

impl Outcome {
    fn note(&mut self, complaints: Vec<String>) {
        if complaints.is_empty() {
            self.passed += 1;
        } else {
            self.failed.extend(complaints);
        }
    }
}

/// Runs a case file and prints what failed.
///
/// # Errors
/// If the file is not a case file, or a case failed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let file = read(&options.file)?;
    let outcome = match options.kind {
        Topic::Selectors => selectors::run(&file, &options.only),
        Topic::Validation => validation::run(&file, &options.only),
        Topic::Policy => {
            let kernel = |dataplane| Box::new(Kernel::new(dataplane));
            let mut engine: Box<dyn Engine> = match options.engine {
                EngineName::Evaluator => Box::new(Evaluator),
                EngineName::Nft => kernel(Dataplane::Nft),
                EngineName::Iptables => kernel(Dataplane::Iptables(Backend::Auto)),
                EngineName::IptablesLegacy => kernel(Dataplane::Iptables(Backend::Legacy)),
                EngineName::IptablesNft => kernel(Dataplane::Iptables(Backend::Nft)),
            };
            policy::run(&file, &options.only, engine.as_mut())
        }
        Topic::Ipam => anyhow::bail!("there is no address management yet that these cases could be held against"),
    };
    for line in &outcome.failed {
        println!("{line}");
    }
    for line in &outcome.untried {
        println!("not tried: {line}");
    }
    if outcome.unjudged > 0 {
        println!("{} cases not judged: of low confidence, or with nothing that the engine can try", outcome.unjudged);
    }
    println!("{} passed, {} failed", outcome.passed, outcome.failed.len());
    anyhow::ensure!(outcome.failed.is_empty(), "{} failed", options.file.display());
    Ok(())
}

/// Reads a case file.
///
/// # Errors
/// If it cannot be read, or is no JSON.
pub fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

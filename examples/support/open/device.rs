//! Devices as command lines name them.

use std::str::FromStr;
use std::sync::Arc;

use maquette::cpu::Cpu;
use maquette::cuda::{self, Plan};
use serde_json::{Value, json};

use super::Res;
use super::folder::told;
use crate::shard::local_rank;

/// A device that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Cpu,
    Auto,
    /// A GPU by its number, or the one that falls to this process.
    Cuda(Option<usize>),
    /// The same, its large products through cuBLASLt.
    Cublaslt(Option<usize>),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "cpu" => Self::Cpu,
            "auto" => Self::Auto,
            "cuda" => Self::Cuda(None),
            "cublaslt" => Self::Cublaslt(None),
            _ => match text.split_once(':').map(|(kind, n)| (kind, n.parse())) {
                Some(("cuda", Ok(number))) => Self::Cuda(Some(number)),
                Some(("cublaslt", Ok(number))) => Self::Cublaslt(Some(number)),
                _ => {
                    return Err(
                        "a device is cpu, cuda, cuda:N, cublaslt, cublaslt:N or auto".into(),
                    );
                }
            },
        })
    }
}

/// A device that is there.
pub enum Device {
    Cpu(Arc<Cpu>),
    Cuda(Arc<cuda::Device>),
}

impl Device {
    /// What will be held on a GPU by what is made there, before any of it is loaded; nothing of a CPU.
    ///
    /// # Errors
    /// What the making returns, and more than the GPU has room for.
    pub fn plan<T>(&self, make: impl FnOnce(&Self) -> Res<T>) -> Res<Option<Plan>> {
        let Self::Cuda(gpu) = self else {
            return Ok(None);
        };
        let planner = Arc::new(gpu.planner()?);
        // It is counted while it lives.
        let made = make(&Self::Cuda(Arc::clone(&planner)))?;
        let plan = planner.plan();
        planner.fits()?;
        drop(made);
        Ok(Some(plan))
    }
}

impl Choice {
    /// Whether it is a GPU, as far as can be told before it is opened.
    pub fn is_gpu(self) -> bool {
        match self {
            Self::Cpu => false,
            Self::Auto => cuda::Device::count().is_ok_and(|n| n > 0),
            Self::Cuda(_) | Self::Cublaslt(_) => true,
        }
    }

    /// The device, and what runs record of it.
    pub fn open(self, threads: Option<usize>) -> Res<(Device, Value)> {
        match self {
            Self::Cpu => cpu(threads),
            Self::Cuda(number) => {
                Ok(gpu(number, false).map_err(|e| format!("{e}; --device cpu runs without"))?)
            }
            Self::Cublaslt(number) => {
                Ok(gpu(number, true)
                    .map_err(|e| format!("{e}; --device cuda needs no cuBLASLt"))?)
            }
            Self::Auto => match gpu(None, false) {
                Ok(found) => Ok(found),
                Err(why) => {
                    eprintln!("no GPU, so it runs on the CPU: {why}");
                    cpu(threads)
                }
            },
        }
    }
}

fn cpu(threads: Option<usize>) -> Res<(Device, Value)> {
    let cpu = match threads {
        Some(n) => Cpu::with_threads(n)?,
        None => Cpu::new(),
    };
    let told =
        json!({ "backend": "cpu", "threads": cpu.threads(), "instructions": cpu.instructions() });
    Ok((Device::Cpu(Arc::new(cpu)), told))
}

fn gpu(number: Option<usize>, cublaslt: bool) -> Result<(Device, Value), String> {
    let words = |e: maquette::Error| told(&e);
    let number = match number {
        Some(number) => number,
        // Some launchers show each process its own GPU alone, others all of them.
        None => {
            local_rank(|name| std::env::var(name).ok())?
                % cuda::Device::count().map_err(words)?.max(1)
        }
    };
    let mut gpu = cuda::Device::new(number).map_err(words)?;
    if cublaslt {
        gpu = gpu.with_cublaslt().map_err(words)?;
    }
    let (major, minor) = gpu.capability();
    let shown = json!({
        "backend": if cublaslt { "cublaslt" } else { "cuda" }, "gpu": number, "name": gpu.name(), "capability": format!("{major}.{minor}"),
    });
    Ok((Device::Cuda(Arc::new(gpu)), shown))
}

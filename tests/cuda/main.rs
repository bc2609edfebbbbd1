//! The GPU as a device: what `tests/ops` does not ask. Without a GPU its kernels are interpreted. One program, so that
//! the models are compiled once for all of it.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../bundled"]
mod bundled {
    pub mod drawing;
    pub mod files;
    pub mod janus;
    pub mod judging;
}
#[cfg(feature = "align")]
mod backward;
mod counters;
#[cfg(feature = "cublaslt")]
mod cublaslt;
mod device;
#[path = "../gpu/mod.rs"]
mod gpu;
mod hopper;
mod memory;
mod models;
mod products;
#[path = "../tiny_janus/mod.rs"]
mod tiny_janus;
#[cfg(feature = "align")]
mod training;
mod wide;

use maquette::rng;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| rng::philox([seed, 1], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

//! What the machine could do at most, for reports that compare kernels with it.

use std::time::Instant;

use super::Cpu;
use super::grow;
use super::simd::{Dots, DotsJob, Job, Lanes};
use crate::error::Result;

/// A limit of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Roof {
    /// Bytes that all threads read from memory in a second.
    Read,
    /// Multiplications and additions of floats in a second, each counted, with the instructions of the kernels: without
    /// fusing the two.
    Floats,
    /// Multiplications and additions of bytes in a second, each counted.
    Integers,
}

/// Floats that are read: more than caches hold.
const FLOATS: usize = 1 << 26;
/// Rounds of arithmetic: some 10 ms.
const ROUNDS: usize = 1 << 20;
/// Sums side by side: enough to hide that an instruction takes several cycles, few enough for all registers.
const SUMS: usize = 12;

struct Reading<'a>(&'a [f32]);

impl Job for Reading<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let mut sums = [V::splat(0.0); 8];
        for x in self.0.chunks_exact(8 * V::N) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(V::load(&x[i * V::N..]));
            }
        }
        first(sums)
    }
}

struct Multiplying;

impl Job for Multiplying {
    /// Operations, and something that depends on all of them.
    type Out = (usize, f32);

    #[inline(always)]
    fn run<V: Lanes>(self) -> (usize, f32) {
        // One for each sum, or sums would share products.
        let factors: [V; SUMS] =
            core::array::from_fn(|i| V::splat(core::hint::black_box(1.0 / (1 << i) as f32)));
        let mut sums = [V::splat(0.0); SUMS];
        for _ in 0..ROUNDS {
            // Numbers that may change from round to round, or products would be taken out of the loop.
            let x: &[f32; 16] = core::hint::black_box(&[1.0; 16]);
            let x = V::load(x);
            for (sum, factor) in sums.iter_mut().zip(&factors) {
                *sum = sum.add(x.mul(*factor));
            }
        }
        (2 * ROUNDS * SUMS * V::N, first(sums))
    }
}

struct Dotting;

impl DotsJob for Dotting {
    type Out = (usize, f32);

    #[inline(always)]
    fn run<D: Dots>(self) -> (usize, f32) {
        // As many sums as the kernels keep in registers.
        match D::ROWS {
            SUMS => dotting::<D, SUMS>(),
            _ => dotting::<D, 4>(),
        }
    }
}

#[inline(always)]
fn dotting<D: Dots, const N: usize>() -> (usize, f32) {
    // One for each sum, or sums would share products.
    let x: [u32; N] = core::array::from_fn(|i| core::hint::black_box(1 << (2 * i)));
    let mut sums = [D::splat(0); N];
    for _ in 0..ROUNDS {
        // Quads that may change from round to round, as above.
        let w: &[u8; 64] = core::hint::black_box(&[3; 64]);
        let w = D::load_quads(w);
        for (sum, x) in sums.iter_mut().zip(&x) {
            *sum = sum.dot(w, *x);
        }
    }
    let mut floats = [D::Floats::splat(0.0); N];
    for (float, sum) in floats.iter_mut().zip(sums) {
        *float = sum.floats();
    }
    (8 * ROUNDS * N * D::N, first(floats))
}

/// The first float of a sum of vectors.
#[inline(always)]
fn first<V: Lanes, const N: usize>(sums: [V; N]) -> f32 {
    let mut all = V::splat(0.0);
    for sum in sums {
        all = all.add(sum);
    }
    let mut out = [0.0; 16];
    all.store(&mut out);
    out[0]
}

impl Cpu {
    /// Measures a limit on all threads of this device: the best of `times` tries.
    ///
    /// # Errors
    /// No memory.
    pub fn roof(&self, roof: Roof, times: usize) -> Result<f64> {
        let isa = self.isa;
        let mut floats = alloc::vec::Vec::new();
        if roof == Roof::Read {
            grow(&mut floats, FLOATS, 1)?;
            // Pages that were never written are all the same one.
            floats.fill(1.0);
        }
        let part = FLOATS / self.threads();
        let mut best = 0.0_f64;
        for _ in 0..times {
            let begin = Instant::now();
            let amount = match roof {
                Roof::Read => {
                    self.pool.each(usize::MAX, floats.chunks(part), |part| {
                        core::hint::black_box(isa.run(Reading(part)));
                    });
                    4 * FLOATS
                }
                Roof::Floats => self.counted(|| isa.run(Multiplying)),
                Roof::Integers => self.counted(|| isa.run_dots(Dotting)),
            };
            best = best.max(amount as f64 / begin.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Operations of one task a thread.
    fn counted(&self, task: impl Fn() -> (usize, f32) + Sync) -> usize {
        let operations = core::sync::atomic::AtomicUsize::new(0);
        self.pool.each(usize::MAX, 0..self.threads(), |_| {
            let (done, sum) = task();
            core::hint::black_box(sum);
            operations.fetch_add(done, core::sync::atomic::Ordering::Relaxed);
        });
        operations.into_inner()
    }
}

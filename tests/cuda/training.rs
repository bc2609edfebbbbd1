//! Training on a device that runs out of memory.

use std::sync::Arc;

use maquette::align::{AdamWConfig, LatentBatch, LatentTrainer, Schedule, TrainerConfig};
use maquette::model::latent::LatentConfig;
use maquette::model::latent::backward::LatentViews;
use maquette::{Error, Judgement};

use super::{gpu, numbers};

#[test]
fn a_head_takes_no_step_that_memory_lacks_for() {
    if !gpu::emulated() {
        return;
    }
    let mut head = LatentConfig::new(3, 2);
    (head.width, head.mlp_width) = (2, 3);
    (head.pool_heads, head.pool_head_dim) = (1, 2);
    head.questions = vec![Judgement::Clarity];
    let optimiser = AdamWConfig::default().with_rate(0.1);
    let config = TrainerConfig::new(optimiser, Schedule::Constant);
    let hidden = numbers(2 * 3 * 2, 4);
    let batch = LatentBatch {
        views: LatentViews::new(&hidden, &[]),
        p_yes: &[0.9, 0.2],
    };
    let device = Arc::new(gpu::device());
    let begun = || {
        let device = Arc::clone(&device);
        let mut run = LatentTrainer::new(device, head.clone(), config, 3, 2).unwrap();
        run.step(&batch).unwrap();
        run
    };
    let mut run = begun();
    let before = run.checkpoint().unwrap();
    run.step(&batch).unwrap();
    let after = run.checkpoint().unwrap();
    let mut failures = 0;
    for allowed in 0.. {
        let mut run = begun();
        gpu::fail_allocations_after(allowed);
        let taken = run.step(&batch);
        gpu::fail_allocations_after(u64::MAX);
        match taken {
            Ok(_) => break,
            Err(Error::OutOfMemory { .. }) => failures += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(run.checkpoint().unwrap() == before, "call {allowed}");
        run.step(&batch).unwrap();
        assert!(run.checkpoint().unwrap() == after, "call {allowed}");
    }
    assert!(failures > 3, "{failures} allocations");
}

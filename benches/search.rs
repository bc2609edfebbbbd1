//! What the strategies themselves cost: fakes whose step is nearly free, N = 20, 18 steps.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use maquette::reward::Verdict;
use maquette::rng::Stream;
use maquette::search::{
    Adaptive, BestOfN, Budget, Correction, Halving, Parm, ParmForm, Plain, Prm, Reflect,
};
use maquette::testing::{ScriptedGenerator, ScriptedReward};
use maquette::{CodeGrid, Flow, Generator, Judgement, Prompt, SearchStrategy};

const STEPS: u32 = 18;

fn fakes() -> (ScriptedGenerator, ScriptedReward) {
    let generator = ScriptedGenerator::new(STEPS).with_grid(CodeGrid::new(1, 1, 2));
    let reward = ScriptedReward::new(|judgement, key, _| match judgement {
        Judgement::Clarity if key.step < 11 => Verdict::new(0.1, 0.9),
        Judgement::Potential if key.candidate.0 % 2 == 0 => Verdict::new(0.2, 0.8),
        _ => Verdict::new(0.9, 0.1),
    });
    (generator, reward)
}

fn one(
    bench: &mut Criterion,
    name: &str,
    mut strategy: impl SearchStrategy<ScriptedGenerator, ScriptedReward>,
) {
    let (mut generator, mut reward) = fakes();
    let prompt = Prompt::new("a red car");
    let mut search = |seed| {
        let found = strategy.search(
            &mut generator,
            &mut reward,
            &prompt,
            &mut Stream::new(seed),
            &mut |_| Flow::Continue,
        );
        let found = found.expect("the fakes do not fail");
        generator
            .prune(&[found.winner])
            .expect("the winner is alive");
        found.cost.steps
    };
    let steps = search(0);
    let mut group = bench.benchmark_group("search");
    group.throughput(Throughput::Elements(steps));
    group.bench_function(name, |bench| bench.iter(|| black_box(search(black_box(1)))));
    group.finish();
}

fn strategies(bench: &mut Criterion) {
    one(bench, "plain/n1_s18", Plain);
    one(bench, "best_of_n/n20_s18", BestOfN::new(20));
    one(bench, "prm/n20_s18", Prm::new(20));
    one(bench, "prm_beam4/n20_s18", Prm::new(20).with_width(4));
    one(bench, "halving/n20_s18", Halving::new(20, [4, 8, 12]));
    let rounds = Adaptive::new(BestOfN::new(4), 5).with_confidence(2.0);
    one(bench, "adaptive/n4x5_s18", rounds);
    one(
        bench,
        "budget/n4x5_s18",
        Budget::new(rounds).with_steps(360),
    );
    for (name, correction) in [
        (
            "reflect_scattered/n1x3_s18",
            Correction::Scattered { from: 9 },
        ),
        ("reflect_region/n1x3_s18", Correction::Region { from: 9 }),
    ] {
        let corrected = Reflect::new(Plain, correction).with_confidence(2.0);
        one(bench, name, corrected);
    }
    one(bench, "parm_pruned/n20_s18", Parm::new(20));
    one(
        bench,
        "parm_released/n20_s18",
        Parm::new(20).with_form(ParmForm::Released),
    );
}

criterion_group!(benches, strategies);
criterion_main!(benches);

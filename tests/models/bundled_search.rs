//! Laws of search on the bundled generator and judge: what the fakes promise holds for real weights.

use std::sync::Arc;
use std::thread;

use crate::bundled::drawing::Drawing;
use crate::bundled::judging::Judging;
use maquette::codes::Code;
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Views};
use maquette::model::llava::{JudgeOptions, LlavaSession};
use maquette::model::show_o::{ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::rng::Stream;
use maquette::search::{
    Adaptive, BestOfN, Budget, Halving, MultiplyAdds, Parm, ParmForm, Plain, Prm, SearchStrategy,
};
use maquette::{Cost, Flow, Generator, Judgement, Prompt};
use proptest::prelude::*;

const N: usize = 3;
/// Half of what the models take by themselves.
const STEPS: u32 = 9;
const PROMPTS: [&str; 3] = [
    "a photo of a red car",
    "a photo of two cups",
    "a photo of a boat left of a kite",
];

type Draws = ShowOSession<Cpu, Words>;
type Judges = LlavaSession<Cpu>;
type Strategy = Box<dyn SearchStrategy<Draws, Judges>>;

/// Weights that any number of sessions share.
struct Models(Drawing<Cpu>, Judging<Cpu>);

impl Models {
    fn load(cpu: &dyn Fn() -> Cpu) -> Self {
        Self(
            Drawing::load(cpu(), Format::F32),
            Judging::load(cpu(), Format::F32),
        )
    }

    fn sessions(&self) -> (Draws, Judges) {
        let mut options = ShowOOptions::default();
        (options.candidates, options.batch, options.steps) = (N, N, STEPS);
        let judge = JudgeOptions::default().with_views(N).with_tokens(32);
        (self.0.session(options), self.1.session(judge))
    }
}

#[derive(Debug, PartialEq)]
struct Found {
    codes: Vec<Code>,
    p_yes: Option<u32>,
    fallback: bool,
    cost: Cost,
}

fn found(
    strategy: &mut Strategy,
    (draws, judges): &mut (Draws, Judges),
    prompt: &str,
    seed: u64,
) -> Found {
    let decision = strategy
        .search(
            draws,
            judges,
            &Prompt::new(prompt),
            &mut Stream::new(seed),
            &mut |_| Flow::Continue,
        )
        .unwrap();
    let mut codes = vec![0; draws.grid().len()];
    draws
        .observe(
            &[decision.winner],
            Needs::CODES,
            &mut Views::codes(&mut codes),
        )
        .unwrap();
    draws.prune(&[decision.winner]).unwrap();
    // What earlier searches left in a session is not computed again.
    let mut cost = decision.cost;
    cost.multiply_adds = MultiplyAdds::default();
    Found {
        codes,
        p_yes: decision.verdict.map(|v| v.p_yes.to_bits()),
        fallback: decision.fallback,
        cost,
    }
}

fn strategies(n: u32) -> [Strategy; 6] {
    let two = n.min(2);
    let rounds = Adaptive::new(BestOfN::new(two), two);
    [
        Box::new(BestOfN::new(n)),
        Box::new(Prm::new(n).with_judged_steps([2, 5, 7])),
        Box::new(Parm::new(n)),
        Box::new(Prm::new(n).with_judged_steps([2, 6]).with_width(two)),
        Box::new(Halving::new(n, [3, 6]).with_judgement(Judgement::Potential)),
        Box::new(Budget::new(rounds).with_steps(27)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_pruned_parm_draws_what_released_parm_draws(seed: u64, at in 0..PROMPTS.len(), clear_from in 1..6u32) {
        let mut sessions = Models::load(&Cpu::new).sessions();
        let parm = Parm::new(N as u32).with_min_clarity_step(clear_from);
        let [pruned, released] = [ParmForm::Pruned, ParmForm::Released].map(|form| {
            let mut strategy: Strategy = Box::new(parm.with_form(form));
            found(&mut strategy, &mut sessions, PROMPTS[at], seed)
        });
        prop_assert!(pruned.cost.steps <= released.cost.steps);
        prop_assert_eq!(pruned.cost.judged(), released.cost.judged());
        prop_assert_eq!((pruned.codes, pruned.p_yes, pruned.fallback), (released.codes, released.p_yes, released.fallback));
    }
}

#[test]
fn one_candidate_is_plain_generation() {
    let mut sessions = Models::load(&Cpu::new).sessions();
    let mut plain: Strategy = Box::new(Plain);
    for prompt in PROMPTS {
        let want = found(&mut plain, &mut sessions, prompt, 11).codes;
        for mut strategy in strategies(1) {
            assert_eq!(found(&mut strategy, &mut sessions, prompt, 11).codes, want);
        }
    }
}

#[test]
fn threads_and_neighbours_change_nothing() {
    let one = Models::load(&Cpu::new);
    let mut sessions = one.sessions();
    let tasks: Vec<(usize, &str, u64)> = (0..6)
        .map(|strategy| {
            (
                strategy,
                PROMPTS[strategy % PROMPTS.len()],
                5 + strategy as u64,
            )
        })
        .collect();
    let want: Vec<Found> = tasks
        .iter()
        .map(|&(at, prompt, seed)| {
            found(&mut strategies(N as u32)[at], &mut sessions, prompt, seed)
        })
        .collect();
    // A device with worker threads.
    let mut threaded = Models::load(&|| Cpu::with_threads(3).unwrap()).sessions();
    for (&(at, prompt, seed), want) in tasks.iter().zip(&want) {
        assert_eq!(
            &found(&mut strategies(N as u32)[at], &mut threaded, prompt, seed),
            want
        );
    }
    // Two pairs of sessions over the same weights, at the same time.
    let one = Arc::new(one);
    let halves = [0, 1].map(|half| {
        let (one, tasks) = (Arc::clone(&one), tasks.clone());
        thread::spawn(move || {
            let mut sessions = one.sessions();
            let mine = tasks.into_iter().skip(half).step_by(2);
            mine.map(|(at, prompt, seed)| {
                found(&mut strategies(N as u32)[at], &mut sessions, prompt, seed)
            })
            .collect::<Vec<Found>>()
        })
    });
    for (half, got) in halves.into_iter().enumerate() {
        let want: Vec<&Found> = want.iter().skip(half).step_by(2).collect();
        assert_eq!(got.join().unwrap().iter().collect::<Vec<_>>(), want);
    }
}

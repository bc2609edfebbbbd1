//! The laws of the contracts, for checking an implementation of one's own.
//!
//! Every law prunes what it started, unless the implementation breaks it. A generator needs room for six candidates
//! and at least two steps. One whose pictures have no size is looked at by its codes alone.

use alloc::vec;
use alloc::vec::Vec;

use crate::codes::Code;
use crate::error::Error;
use crate::generator::{CandidateId, Generator, Needs, Partial, Views};
use crate::image::ImageBatch;
use crate::prompt::Prompt;
use crate::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};

/// A law that an implementation breaks.
#[derive(Debug, thiserror::Error)]
#[error("the contract is broken: {law}")]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: &'static str,
    /// The error that came where none should, if that is how it was broken.
    #[source]
    pub source: Option<Error>,
}

type Lawful<T = ()> = Result<T, Violation>;

fn holds(truth: bool, law: &'static str) -> Lawful {
    if truth {
        Ok(())
    } else {
        Err(Violation { law, source: None })
    }
}

fn broken(law: &'static str) -> impl FnOnce(Error) -> Violation {
    move |source| Violation {
        law,
        source: Some(source),
    }
}

const CALL: &str = "a call that the contract allows succeeds";

/// Checks every law of a generator.
///
/// # Errors
/// The first law that is broken.
pub fn generator<G: Generator + ?Sized>(g: &mut G, prompt: &Prompt<'_>) -> Lawful {
    holds(
        g.steps() >= 2,
        "a generator to be checked has at least two steps",
    )?;
    ids_are_new(g, prompt)?;
    batch_equals_one_by_one(g, prompt)?;
    pruning_leaves_the_rest_alone(g, prompt)?;
    a_fork_with_the_same_seed_has_the_same_future(g, prompt)?;
    resuming_equals_going_on(g, prompt)?;
    misuse_is_an_error_and_harms_nobody(g, prompt)
}

fn begin<G: Generator + ?Sized>(
    g: &mut G,
    prompt: &Prompt<'_>,
    seeds: &[u64],
) -> Lawful<Vec<CandidateId>> {
    let mut ids = vec![CandidateId::default(); seeds.len()];
    g.start(prompt, seeds, &mut ids).map_err(broken(CALL))?;
    Ok(ids)
}

fn run<G: Generator + ?Sized>(g: &mut G, ids: &[CandidateId], steps: u32) -> Lawful {
    (0..steps)
        .try_for_each(|_| g.step(ids))
        .map_err(broken(CALL))
}

fn settled<G: Generator + ?Sized>(g: &G, id: CandidateId) -> Lawful<Vec<Code>> {
    let mut codes = vec![0; g.grid().len()];
    g.save(id, &mut codes).map_err(broken(CALL))?;
    Ok(codes)
}

fn free<G: Generator + ?Sized>(g: &mut G, ids: &[CandidateId]) -> Lawful {
    g.prune(ids).map_err(broken(CALL))
}

/// Pixels, where there are any, and predicted codes.
fn look<G: Generator + ?Sized>(g: &mut G, ids: &[CandidateId]) -> Lawful<(Vec<u8>, Vec<Code>)> {
    let mut pixels = vec![0; ids.len() * g.image_size().len_bytes()];
    let mut codes = vec![0; ids.len() * g.grid().len()];
    let mut views = Views {
        pixels: Some(&mut pixels),
        codes: Some(&mut codes),
        hidden: None,
    };
    let needs = match g.image_size().len_bytes() {
        0 => Needs::CODES,
        _ => Needs::PIXELS.or(Needs::CODES),
    };
    g.observe(ids, needs, &mut views).map_err(broken(CALL))?;
    Ok((pixels, codes))
}

/// An id is never given twice.
///
/// # Errors
/// The law, if it is broken.
pub fn ids_are_new<G: Generator + ?Sized>(g: &mut G, prompt: &Prompt<'_>) -> Lawful {
    let first = begin(g, prompt, &[1, 2])?;
    holds(first[0] != first[1], "ids of one start differ")?;
    free(g, &first)?;
    let second = begin(g, prompt, &[1, 2])?;
    holds(
        !second.iter().any(|id| first.contains(id)),
        "an id is never used again",
    )?;
    free(g, &second)
}

/// What a candidate becomes and looks like does not depend on its batch mates.
///
/// # Errors
/// The law, if it is broken.
pub fn batch_equals_one_by_one<G: Generator + ?Sized>(g: &mut G, prompt: &Prompt<'_>) -> Lawful {
    let seeds = [11, 12, 13];
    let (steps, places, bytes) = (g.steps(), g.grid().len(), g.image_size().len_bytes());
    let together = begin(g, prompt, &seeds)?;
    let alone = begin(g, prompt, &seeds)?;
    for step in 1..=steps {
        run(g, &together, 1)?;
        let (pixels, codes) = look(g, &together)?;
        for (i, &id) in alone.iter().enumerate() {
            run(g, &[id], 1)?;
            let (own_pixels, own_codes) = look(g, &[id])?;
            holds(
                codes[i * places..(i + 1) * places] == own_codes,
                "a batch draws what each draws alone",
            )?;
            holds(
                pixels[i * bytes..(i + 1) * bytes] == own_pixels,
                "a batch is observed as each alone",
            )?;
            let taken = g.taken(id).map_err(broken(CALL))?;
            holds(
                taken == step,
                "a candidate has taken as many steps as it was stepped",
            )?;
        }
    }
    for (&a, &b) in together.iter().zip(&alone) {
        let codes = settled(g, a)?;
        holds(
            codes == settled(g, b)?,
            "a batch settles what each settles alone",
        )?;
        holds(
            codes.iter().all(|&code| code < g.grid().codebook),
            "a finished grid holds codes of its codebook",
        )?;
    }
    free(g, &together)?;
    free(g, &alone)
}

/// Pruning a candidate changes no other one.
///
/// # Errors
/// The law, if it is broken.
pub fn pruning_leaves_the_rest_alone<G: Generator + ?Sized>(
    g: &mut G,
    prompt: &Prompt<'_>,
) -> Lawful {
    let all = begin(g, prompt, &[21, 22, 23])?;
    let control = begin(g, prompt, &[22])?;
    let steps = g.steps();
    run(g, &all, 1)?;
    free(g, &[all[0], all[2]])?;
    run(g, &all[1..2], steps - 1)?;
    run(g, &control, steps)?;
    holds(
        settled(g, all[1])? == settled(g, control[0])?,
        "pruning leaves the rest alone",
    )?;
    holds(g.taken(all[0]).is_err(), "a pruned candidate is not alive")?;
    free(g, &[all[1], control[0]])
}

/// A fork with its parent's seed becomes what the parent becomes, and leaves the parent alone.
///
/// # Errors
/// The law, if it is broken.
pub fn a_fork_with_the_same_seed_has_the_same_future<G: Generator + ?Sized>(
    g: &mut G,
    prompt: &Prompt<'_>,
) -> Lawful {
    let steps = g.steps();
    let parents = begin(g, prompt, &[31, 31])?;
    run(g, &parents, steps / 2)?;
    let mut forks = [CandidateId::default(); 2];
    g.fork(parents[0], &[31, 32], &mut forks)
        .map_err(broken(CALL))?;
    holds(
        settled(g, forks[1])? == settled(g, parents[0])?,
        "a fork begins with its parent's codes",
    )?;
    run(g, &forks, steps - steps / 2)?;
    run(g, &parents, steps - steps / 2)?;
    let want = settled(g, parents[1])?;
    holds(
        settled(g, parents[0])? == want,
        "forking leaves the parent alone",
    )?;
    holds(
        settled(g, forks[0])? == want,
        "a fork with the same seed has the same future",
    )?;
    free(g, &[parents[0], parents[1], forks[0], forks[1]])
}

/// A state that was saved goes on elsewhere as if never interrupted.
///
/// # Errors
/// The law, if it is broken.
pub fn resuming_equals_going_on<G: Generator + ?Sized>(g: &mut G, prompt: &Prompt<'_>) -> Lawful {
    let steps = g.steps();
    let whole = begin(g, prompt, &[41])?;
    run(g, &whole, steps / 2)?;
    let mut codes = vec![0; g.grid().len()];
    let (taken, anneal) = {
        let state = g.save(whole[0], &mut codes).map_err(broken(CALL))?;
        (state.step, state.anneal)
    };
    holds(taken == steps / 2, "a saved state knows its steps")?;
    let mut again = [CandidateId::default()];
    let from = Partial::new(taken, &codes).with_anneal(anneal);
    g.resume(prompt, &from, &[41], &mut again)
        .map_err(broken(CALL))?;
    run(g, &whole, steps - taken)?;
    run(g, &again, steps - taken)?;
    holds(
        settled(g, whole[0])? == settled(g, again[0])?,
        "resuming equals going on",
    )?;
    free(g, &[whole[0], again[0]])
}

/// Unknown, repeated and finished candidates and short buffers are errors that change nothing.
///
/// # Errors
/// The law, if it is broken.
pub fn misuse_is_an_error_and_harms_nobody<G: Generator + ?Sized>(
    g: &mut G,
    prompt: &Prompt<'_>,
) -> Lawful {
    let steps = g.steps();
    let ids = begin(g, prompt, &[51, 52])?;
    let (a, b) = (ids[0], ids[1]);
    let gone = begin(g, prompt, &[53])?[0];
    free(g, &[gone])?;
    let mut one = [CandidateId::default()];
    holds(
        g.start(prompt, &[1, 2], &mut one).is_err(),
        "a short buffer for ids is an error",
    )?;
    holds(
        g.step(&[a, gone]).is_err(),
        "stepping an unknown candidate is an error",
    )?;
    holds(
        g.step(&[a, a]).is_err(),
        "stepping a candidate twice in one batch is an error",
    )?;
    holds(
        g.prune(&[a, a]).is_err(),
        "pruning a candidate twice in one batch is an error",
    )?;
    holds(
        g.prune(&[b, gone]).is_err(),
        "pruning an unknown candidate is an error",
    )?;
    holds(
        g.fork(gone, &[1], &mut one).is_err(),
        "forking an unknown candidate is an error",
    )?;
    holds(
        g.observe(&[a], Needs::CODES, &mut Views::default())
            .is_err(),
        "observing before a step is an error",
    )?;
    holds(
        g.taken(a).ok() == Some(0) && g.taken(b).ok() == Some(0),
        "a failed call moves and frees nobody",
    )?;
    run(g, &ids, 1)?;
    let mut short = vec![0; g.grid().len().saturating_sub(1)];
    holds(
        g.save(a, &mut short).is_err(),
        "saving into a short buffer is an error",
    )?;
    holds(
        g.observe(&[a], Needs::CODES, &mut Views::codes(&mut short))
            .is_err(),
        "observing into a short buffer is an error",
    )?;
    run(g, &[a], steps - 1)?;
    holds(
        g.step(&[b, a]).is_err(),
        "stepping a finished candidate is an error",
    )?;
    holds(g.taken(b).ok() == Some(1), "a failed step moves nobody")?;
    let control = begin(g, prompt, &[52])?;
    run(g, &[b], steps - 1)?;
    run(g, &control, steps)?;
    holds(
        settled(g, b)? == settled(g, control[0])?,
        "failed calls change no candidate",
    )?;
    free(g, &[a, b, control[0]])
}

/// Checks a judge on views that a generator draws: a batch is judged as one by one, verdicts are in range, an `out` of
/// another length and a view that is missing are errors.
///
/// # Errors
/// The first law that is broken.
pub fn reward<R: RewardModel + ?Sized, G: Generator + ?Sized>(
    reward: &mut R,
    g: &mut G,
    prompt: &Prompt<'_>,
    judgement: Judgement,
) -> Lawful {
    const N: usize = 3;
    let needs = reward.needs(judgement);
    let (places, bytes, width) = (
        g.grid().len(),
        g.image_size().len_bytes(),
        g.grid().len() * g.hidden_width(),
    );
    let size = g.image_size();
    let ids = begin(g, prompt, &[61, 62, 63])?;
    let steps = g.steps();
    run(g, &ids, steps)?;
    let (mut pixels, mut codes, mut hidden) = (
        vec![0; N * bytes],
        vec![0; N * places],
        vec![0.0; N * width],
    );
    let mut views = Views {
        pixels: Some(&mut pixels),
        codes: Some(&mut codes),
        hidden: Some(&mut hidden),
    };
    g.observe(&ids, needs, &mut views)
        .map_err(broken("a generator shows what a judge needs"))?;
    free(g, &ids)?;

    let keys: Vec<ViewKey> = ids
        .iter()
        .map(|&candidate| ViewKey {
            candidate,
            step: steps,
        })
        .collect();
    let question = |rows: core::ops::Range<usize>| -> Lawful<Ask<'_>> {
        let mut ask = Ask::new(judgement, prompt, &keys[rows.clone()]);
        if needs.pixels {
            let shown = ImageBatch::new(
                rows.len(),
                size,
                &pixels[rows.start * bytes..rows.end * bytes],
            );
            ask.pixels = Some(shown.map_err(broken(CALL))?);
        }
        ask.codes = needs
            .codes
            .then(|| &codes[rows.start * places..rows.end * places]);
        ask.hidden = needs
            .hidden
            .then(|| &hidden[rows.start * width..rows.end * width]);
        Ok(ask)
    };

    let mut together = [Verdict::malformed(); N];
    reward
        .judge(&question(0..N)?, &mut together)
        .map_err(broken(CALL))?;
    for (row, verdict) in together.iter().enumerate() {
        verdict
            .check(row)
            .map_err(broken("both probabilities of a verdict lie in [0, 1]"))?;
    }
    reward.forget(&keys);
    for (row, want) in together.iter().enumerate() {
        let mut alone = [Verdict::malformed()];
        reward
            .judge(&question(row..row + 1)?, &mut alone)
            .map_err(broken(CALL))?;
        reward.forget(&keys[row..=row]);
        holds(alone[0] == *want, "a batch is judged as each view alone")?;
    }
    let mut short = [Verdict::malformed(); N - 1];
    holds(
        reward.judge(&question(0..N)?, &mut short).is_err(),
        "an `out` of another length is an error",
    )?;
    if needs != Needs::NOTHING {
        let blind = Ask::new(judgement, prompt, &keys);
        holds(
            reward.judge(&blind, &mut together).is_err(),
            "a view that is needed and missing is an error",
        )?;
    }
    reward.forget(&keys);
    Ok(())
}

//! What the head learns from: hidden rows and codes on the way to a picture, and what the judge says of them.
//!
//! A file a prompt, which holds nothing but numbers, so that a killed run goes on with the next prompt.

use std::error::Error;
use std::fs;
use std::path::Path;

use half::bf16;
use maquette::generator::{Needs, Views};
use maquette::image::ImageBatch;
use maquette::model::files::safetensors::{Entry, SafetensorsSource, header};
use maquette::model::weights::{Tensor, WeightSource};
use maquette::reward::{Answer, Ask, ViewKey};
use maquette::{CandidateId, Generator, Judgement, Prompt, RewardModel, Verdict};
use support::open::told;
use support::png_file::write_whole;

/// The questions, in the order of the head's answers.
pub const QUESTIONS: [Judgement; 4] = [
    Judgement::Outcome,
    Judgement::Process,
    Judgement::Clarity,
    Judgement::Potential,
];

/// Looks at the pictures of one prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Looks {
    /// Places of a grid and width of a hidden row.
    pub size: [usize; 2],
    /// `[looks, places, width]`.
    pub hidden: Vec<bf16>,
    /// `[looks, places]`.
    pub codes: Vec<u32>,
    /// `[looks, 2]`: picture and step.
    pub steps: Vec<u32>,
    /// `[looks, 5]`: P(yes) of the judge's answers to [`QUESTIONS`] about the view, then of the outcome of the finished
    /// picture; NaN where it was not asked.
    pub answers: Vec<f32>,
}

/// Answers of a look.
pub const ANSWERS: usize = QUESTIONS.len() + 1;

/// Which pictures are looked at, and when.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    pub seeds: &'a [u64],
    /// Every so many-th step, each picture at others, and the last one.
    pub every: u32,
    /// Every so many-th look the judge is asked, and at the last one.
    pub asked: u32,
}

impl Looks {
    pub fn len(&self) -> usize {
        self.steps.len() / 2
    }

    /// Draws one picture a seed and looks at them on their way.
    pub fn draw<'g>(
        generator: &mut (dyn Generator + 'g),
        judge: &mut (dyn RewardModel + 'g),
        prompt: &Prompt<'_>,
        plan: Plan<'_>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut ids = vec![CandidateId::default(); plan.seeds.len()];
        generator.start(prompt, plan.seeds, &mut ids)?;
        let looks = Self::follow(generator, judge, prompt, (plan, &ids));
        generator.prune(&ids)?;
        looks
    }

    fn follow<'g>(
        generator: &mut (dyn Generator + 'g),
        judge: &mut (dyn RewardModel + 'g),
        prompt: &Prompt<'_>,
        (plan, ids): (Plan<'_>, &[CandidateId]),
    ) -> Result<Self, Box<dyn Error>> {
        let steps = generator.steps();
        let mut looks = Self {
            size: [generator.grid().len(), generator.hidden_width()],
            ..Self::default()
        };
        for step in 1..=steps {
            generator.step(ids)?;
            let due =
                |at: u32, every: u32| step == steps || (step + at).is_multiple_of(every.max(1));
            let all = (0..).take(ids.len()).filter(|&at| due(at, plan.every));
            let apart = plan.every.saturating_mul(plan.asked);
            let (asked, others): (Vec<u32>, Vec<u32>) = all.partition(|&at| due(at, apart));
            for (seen, judge) in [(asked, Some(&mut *judge)), (others, None)] {
                if !seen.is_empty() {
                    looks.look(generator, judge, prompt, (ids, &seen, step))?;
                }
            }
        }
        let mut ends = vec![f32::NAN; ids.len()];
        for (at, answers) in looks.steps.chunks(2).zip(looks.answers.chunks(ANSWERS)) {
            if at[1] == steps {
                ends[at[0] as usize] = answers[0];
            }
        }
        for (at, answers) in looks.steps.chunks(2).zip(looks.answers.chunks_mut(ANSWERS)) {
            answers[QUESTIONS.len()] = ends[at[0] as usize];
        }
        Ok(looks)
    }

    /// Looks at some candidates after a step.
    fn look<'g>(
        &mut self,
        generator: &mut (dyn Generator + 'g),
        judge: Option<&mut (dyn RewardModel + 'g)>,
        prompt: &Prompt<'_>,
        (ids, seen, step): (&[CandidateId], &[u32], u32),
    ) -> Result<(), Box<dyn Error>> {
        let (n, size) = (seen.len(), generator.image_size());
        let ids: Vec<CandidateId> = seen.iter().map(|&at| ids[at as usize]).collect();
        let [places, width] = self.size;
        let (mut codes, mut hidden) = (vec![0; n * places], vec![0.0; n * places * width]);
        let mut views = Views::codes(&mut codes);
        views.hidden = Some(&mut hidden);
        generator.observe(&ids, Needs::CODES.or(Needs::HIDDEN), &mut views)?;
        let mut answers = vec![f32::NAN; n * ANSWERS];
        self.steps.extend(seen.iter().flat_map(|&at| [at, step]));
        self.hidden
            .extend(hidden.iter().map(|&v| bf16::from_f32(v)));
        self.codes.extend(codes);
        let Some(judge) = judge else {
            self.answers.extend(answers);
            return Ok(());
        };
        let mut pixels = vec![0; n * size.len_bytes()];
        generator.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
        let keys: Vec<ViewKey> = ids
            .iter()
            .map(|&candidate| ViewKey { candidate, step })
            .collect();
        for (place, &question) in QUESTIONS.iter().enumerate() {
            if question == Judgement::Outcome && step != generator.steps() {
                continue;
            }
            let mut verdicts = vec![Verdict::malformed(); n];
            let pixels = ImageBatch::new(n, size, &pixels)?;
            let ask = Ask::new(question, prompt, &keys).with_pixels(pixels);
            judge.judge(&ask, &mut verdicts)?;
            for (row, (verdict, answers)) in
                verdicts.iter().zip(answers.chunks_mut(ANSWERS)).enumerate()
            {
                verdict.check(row)?;
                answers[place] = p_yes(verdict);
            }
        }
        judge.forget(&keys);
        self.answers.extend(answers);
        Ok(())
    }

    /// Writes a file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let ([places, width], n) = (self.size, self.len());
        let entry = |name: &str, dtype, size, shape: &[usize]| Entry {
            name: name.into(),
            dtype,
            size,
            shape: shape.into(),
        };
        let mut file = header(
            &[
                entry("hidden", "BF16", 2, &[n, places, width]),
                entry("codes", "U32", 4, &[n, places]),
                entry("steps", "U32", 4, &[n, 2]),
                entry("answers", "F32", 4, &[n, ANSWERS]),
            ],
            &[],
        )?;
        file.extend(self.hidden.iter().flat_map(|v| v.to_le_bytes()));
        file.extend(self.codes.iter().flat_map(|v| v.to_le_bytes()));
        file.extend(self.steps.iter().flat_map(|v| v.to_le_bytes()));
        file.extend(self.answers.iter().flat_map(|v| v.to_le_bytes()));
        write_whole(path, &file)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let bytes = fs::read(path).map_err(|e| wrong(&e.to_string()))?;
        let source = SafetensorsSource::new(&bytes).map_err(|e| wrong(&told(&e)))?;
        let tensor = |name: &str| {
            source
                .tensor(name)
                .ok_or_else(|| wrong("is no file of looks"))
        };
        let words = |tensor: Tensor<'_>| -> Vec<u32> {
            let words = tensor.bytes.as_chunks::<4>().0;
            words.iter().map(|&b| u32::from_le_bytes(b)).collect()
        };
        let hidden = tensor("hidden")?;
        let &[n, places, width] = &*hidden.shape else {
            return Err(wrong("has misshapen hidden rows").into());
        };
        let halves = hidden.bytes.as_chunks::<2>().0;
        let looks = Self {
            size: [places, width],
            hidden: halves.iter().map(|&b| bf16::from_le_bytes(b)).collect(),
            codes: words(tensor("codes")?),
            steps: words(tensor("steps")?),
            answers: words(tensor("answers")?)
                .into_iter()
                .map(f32::from_bits)
                .collect(),
        };
        let whole = looks.hidden.len() == n * places * width
            && looks.codes.len() == n * places
            && looks.steps.len() == 2 * n
            && looks.answers.len() == ANSWERS * n;
        if !whole {
            return Err(wrong("is cut off").into());
        }
        Ok(looks)
    }
}

/// The share of "yes" among the two answers; a malformed one is a "no".
fn p_yes(verdict: &Verdict) -> f32 {
    let sum = verdict.p_yes + verdict.p_no;
    if verdict.answer == Answer::Other || sum <= 0.0 {
        0.0
    } else {
        verdict.p_yes / sum
    }
}

//! Candidates of a Show-o model: the masked generation loop.
//!
//! A step is exact, and spends nothing twice: text rows are computed once a prompt, the unconditional text once a
//! session, step 0 once a prompt for all its candidates, and the head runs for image columns and masked places alone.
//! Nothing is allocated after [`ShowOSession::new`].

mod generator;
mod given;
mod hidden;
mod step;
mod text;

pub use given::GivenStep;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::options::{ShowOOptions, TemperaturePolicy};
use super::prompts::Prompts;
use super::{ShowO, ShowOConfig};
use crate::codes::{Code, UNKNOWN};
use crate::error::{Error, Result, covers, product};
use crate::generator::{CandidateId, Partial, Spent};
use crate::model::magvit::{Magvit, MagvitScratch};
use crate::model::session::{filled, made, places, reserved};
use crate::model::transformer::{Cache, Scratch};
use crate::ops::Backend;
use crate::ops::attention::SPAN_WORDS;
use crate::ops::sample::DRAW_WORDS;
use crate::prompt::{TokenId, Tokenize};

#[derive(Debug)]
struct Candidate {
    id: Option<CandidateId>,
    prompt: usize,
    seed: u64,
    step: u32,
    anneal: bool,
    /// Whether it began with every place masked, so that its step 0 is shared.
    blank: bool,
    /// Which of its two places holds the hidden rows of its last step, if they are kept and it took one.
    hidden: Option<usize>,
    codes: Vec<Code>,
    predicted: Vec<Code>,
}

/// Device memory of a session.
#[derive(Debug)]
struct Memory<B: Backend> {
    cache: Cache<B>,
    scratch: Scratch<B>,
    /// Passes of image rows, by their sequences.
    passes: B::Records,
    x: B::Buffer<f32>,
    rows: B::Buffer<f32>,
    normed: B::Buffer<f32>,
    logits: B::Buffer<f32>,
    first: Vec<B::Buffer<f32>>,
    /// Hidden rows, if they are kept.
    hidden: Option<Hidden<B>>,
    ids: B::Buffer<u32>,
    positions: B::Buffer<u32>,
    places: B::Buffer<u32>,
    spans: B::Buffer<u32>,
    index: B::Buffer<u32>,
    keys: B::Buffer<u32>,
    codes: B::Buffer<u32>,
    p: B::Buffer<f32>,
}

/// Hidden rows of the last step. A candidate has two places and writes them in turns, so that a step that fails leaves
/// what it had.
#[derive(Debug)]
struct Hidden<B: Backend> {
    /// `[candidates, 2, places, width]`.
    rows: B::Buffer<f32>,
    /// Those of each prompt's step 0, `[prompts, places, width]`.
    first: B::Buffer<f32>,
    /// On their way from one candidate to another.
    moved: B::Buffer<f32>,
}

/// Host memory of a step: what the device is told and what it answers.
#[derive(Debug, Default)]
struct Host {
    ids: Vec<u32>,
    positions: Vec<u32>,
    places: Vec<u32>,
    spans: Vec<u32>,
    index: Vec<u32>,
    keys: Vec<u32>,
    codes: Vec<u32>,
    p: Vec<f32>,
    /// Of one candidate's places: how sure the draws are, and what the choice of the masks needs.
    sure: Vec<f32>,
    uniform: Vec<f32>,
    confidence: Vec<f32>,
    sorted: Vec<f32>,
    /// Next codes and predictions of each candidate of a step.
    staged: Vec<(Vec<Code>, Vec<Code>)>,
    /// The candidates of a call, and the same in the order of their work.
    batch: Vec<usize>,
    order: Vec<usize>,
    /// A grid without codes.
    blank: Vec<Code>,
    /// Codes on their way to the image tokenizer.
    seen: Vec<Code>,
    /// Words of a prompt, and its text rows.
    words: Vec<TokenId>,
    text: Vec<TokenId>,
}

impl Host {
    fn new(c: &ShowOConfig, o: &ShowOOptions, rows: usize) -> Result<Self> {
        let (n, halves) = (c.num_vq_tokens, if guided(o) { 2 } else { 1 });
        let (sequences, drawn) = (halves * o.batch, o.batch * n);
        let mut staged = reserved(o.candidates)?;
        for _ in 0..o.candidates {
            staged.push((filled(n, UNKNOWN)?, filled(n, UNKNOWN)?));
        }
        Ok(Self {
            ids: reserved(rows)?,
            positions: reserved(rows)?,
            places: reserved(rows)?,
            spans: reserved(sequences * SPAN_WORDS)?,
            index: reserved(halves * drawn)?,
            keys: reserved(drawn * DRAW_WORDS)?,
            codes: filled(drawn, 0)?,
            p: filled(drawn, 0.0)?,
            sure: filled(n, 0.0)?,
            uniform: filled(n, 0.0)?,
            confidence: filled(n, 0.0)?,
            sorted: filled(n, 0.0)?,
            staged,
            batch: reserved(o.candidates)?,
            order: reserved(o.candidates)?,
            blank: filled(n, UNKNOWN)?,
            seen: reserved(product("session", &[o.candidates, n])?)?,
            words: reserved(c.text_rows())?,
            text: reserved(c.text_rows() + 1)?,
        })
    }
}

/// Whose rows go through the model.
#[derive(Debug, Clone, Copy)]
enum Rows<'a> {
    /// A grid without codes, of this prompt.
    Blank(usize),
    /// These candidates as they are.
    Of(&'a [usize]),
}

/// Candidates over one model: a [`Generator`](crate::Generator).
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use maquette::cpu::Cpu;
/// use maquette::generator::{Needs, Views};
/// use maquette::model::files::map::ModelFolder;
/// use maquette::model::magvit::{Magvit, MagvitConfig};
/// use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
/// use maquette::model::words::Words;
/// use maquette::quant::Format;
/// use maquette::{CandidateId, Error, Generator, Prompt};
///
/// // The small model of the repository; a published one is opened in the same way.
/// let weights = Path::new("examples/demo/weights");
/// # if !weights.exists() { return Ok(()); }
/// let (model, pixels) = (ModelFolder::open(weights.join("show-o"))?, ModelFolder::open(weights.join("magvitv2"))?);
/// let words = std::fs::read_to_string(weights.join("show-o/vocab.txt")).map_err(|_| Error::foreign("no words"))?;
/// let cpu = Arc::new(Cpu::new());
/// let config = ShowOConfig::from_json(&model.config)?;
/// let model = model.weights.read(|weights| ShowO::load(cpu.clone(), config, weights, Format::Q8_0))?;
/// let config = MagvitConfig::from_json(&pixels.config)?;
/// let pixels = pixels.weights.read(|weights| Magvit::load(cpu, config, weights, Format::F32))?;
///
/// let options = ShowOOptions::default().with_steps(4).with_candidates(2);
/// let mut session = ShowOSession::new(Arc::new(model), Arc::new(pixels), Words::new(&words)?, options)?;
/// let mut ids = [CandidateId::default(); 2];
/// session.start(&Prompt::new("a photo of a red car"), &[1, 2], &mut ids)?;
/// for _ in 0..session.steps() {
///     session.step(&ids)?;
/// }
/// let mut picture = vec![0; session.image_size().len_bytes()];
/// session.observe(&ids[..1], Needs::PIXELS, &mut Views::pixels(&mut picture))?;
/// assert!(picture.iter().any(|byte| *byte != picture[0]));
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Debug)]
pub struct ShowOSession<B: Backend, T> {
    model: Arc<ShowO<B>>,
    pixels: Option<(Arc<Magvit<B>>, MagvitScratch<B>)>,
    words: T,
    options: ShowOOptions,
    prompts: Prompts,
    candidates: Vec<Candidate>,
    next: u64,
    memory: Memory<B>,
    host: Host,
    spent: Spent,
}

impl<B: Backend, T: Tokenize> ShowOSession<B, T> {
    /// Reserves all memory of a session. Without `pixels`, the image tokenizer, candidates can be seen as codes alone.
    ///
    /// # Errors
    /// Settings out of range, an image tokenizer of another codebook, or no memory.
    pub fn new(
        model: Arc<ShowO<B>>,
        pixels: impl Into<Option<Arc<Magvit<B>>>>,
        words: T,
        options: ShowOOptions,
    ) -> Result<Self> {
        let range = |arg, got: u64, max| {
            Err(Error::Range {
                op: "session",
                arg,
                got,
                min: 1,
                max,
            })
        };
        let o = &options;
        for (arg, got) in [
            ("candidates", o.candidates),
            ("batch", o.batch),
            ("prompts", o.prompts),
        ] {
            if got == 0 || got > 1 << 16 {
                return range(arg, got as u64, 1 << 16);
            }
        }
        if o.steps == 0 || o.steps > 1 << 16 {
            return range("steps", u64::from(o.steps), 1 << 16);
        }
        for (arg, v) in [
            ("guidance_scale", o.guidance_scale),
            ("temperature", o.temperature),
        ] {
            if !v.is_finite() {
                return Err(Error::NotFinite {
                    op: "session",
                    arg,
                    row: 0,
                });
            }
        }
        if o.temperature < 0.0 {
            return Err(Error::Config {
                key: "temperature",
                problem: "is below zero",
            });
        }
        let c = model.config();
        let pixels: Option<Arc<Magvit<B>>> = pixels.into();
        if pixels
            .as_ref()
            .is_some_and(|p| p.config().codebook_size != c.codebook_size)
        {
            return Err(Error::Config {
                key: "codebook_size",
                problem: "differs between generator and tokenizer",
            });
        }
        let (n, width, image) = (c.num_vq_tokens, c.hidden_size, c.image_rows());
        let halves = if guided(o) { 2 } else { 1 };
        let sequences = halves * o.batch;
        let images = product("session", &[sequences, image])?;
        let rows = images.max(c.text_rows());
        // Cache rows: the unconditional text, the prompts, then the image segments of a batch. Their numbers are words.
        let text = product("session", &[c.text_rows(), 1 + o.prompts])?;
        let cache_rows = text.saturating_add(images);
        if u32::try_from(cache_rows).is_err() {
            return Err(Error::Overflow { op: "session" });
        }
        let b = &*model.backend;
        let drawn = product("session", &[sequences, n])?;
        let memory = Memory {
            cache: model.stack.cache_as(b, cache_rows, o.kv)?,
            scratch: model.stack.scratch(b, rows)?,
            passes: B::Records::default(),
            x: b.zeros(product("session", &[rows, width])?)?,
            rows: b.zeros(product("session", &[drawn, width])?)?,
            normed: b.zeros(product("session", &[drawn, width])?)?,
            logits: b.zeros(product("session", &[drawn, c.codebook_size])?)?,
            first: made(o.prompts, || {
                b.zeros(product("session", &[n, c.codebook_size])?)
            })?,
            hidden: o
                .hidden
                .then(|| {
                    let zeros = |count| b.zeros(product("session", &[count, n, width])?);
                    Ok::<_, Error>(Hidden {
                        rows: zeros(product("session", &[o.candidates, 2])?)?,
                        first: zeros(o.prompts)?,
                        moved: zeros(1)?,
                    })
                })
                .transpose()?,
            ids: b.zeros(rows)?,
            positions: b.zeros(rows)?,
            places: b.zeros(rows)?,
            spans: b.zeros(sequences * SPAN_WORDS)?,
            index: b.zeros(drawn)?,
            keys: b.zeros(o.batch * n * DRAW_WORDS)?,
            codes: b.zeros(o.batch * n)?,
            p: b.zeros(o.batch * n)?,
        };
        let mut candidates = reserved(o.candidates)?;
        for _ in 0..o.candidates {
            candidates.push(Candidate {
                id: None,
                prompt: 0,
                seed: 0,
                step: 0,
                anneal: false,
                blank: true,
                hidden: None,
                codes: filled(n, UNKNOWN)?,
                predicted: filled(n, UNKNOWN)?,
            });
        }
        let host = Host::new(c, o, rows)?;
        // Grids of the generator's size, which need not be the tokenizer's own.
        let pixels = pixels
            .map(|p| {
                p.scratch_for(product("session", &[o.batch, n])?)
                    .map(|scratch| (p, scratch))
            })
            .transpose()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "check bounds max_text_len by 2^16"
        )]
        let text_rows = c.text_rows() as u32;
        let prompts = Prompts::new(o.prompts, text_rows, text_rows)?;
        let mut session = Self {
            model,
            pixels,
            words,
            options,
            prompts,
            candidates,
            next: 0,
            memory,
            host,
            spent: Spent::default(),
        };
        if guided(&session.options) {
            let config = session.model.config();
            let mut unconditional = reserved(config.text_rows())?;
            config.write_text(&[], &mut unconditional);
            session.drawing(|session| session.compute_text(&unconditional, 0))?;
        }
        Ok(session)
    }

    /// Settings of this session.
    #[must_use]
    pub const fn options(&self) -> &ShowOOptions {
        &self.options
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<ShowO<B>> {
        &self.model
    }

    /// As [`Generator::start`](crate::Generator::start) and [`Generator::resume`](crate::Generator::resume), for text
    /// rows that are tokens already (task token first, pads left out).
    ///
    /// # Errors
    /// As those.
    pub fn start_tokens(
        &mut self,
        tokens: &[TokenId],
        from: Option<&Partial<'_>>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        let c = self.model.config();
        if tokens.is_empty() || tokens.len() > c.text_rows() {
            return Err(Error::PromptTooLong {
                got: tokens.len(),
                max: c.text_rows(),
            });
        }
        if let Some(&word) = tokens.iter().find(|&&t| t as usize >= c.vocab_size) {
            let max = c.vocab_size as u64 - 1;
            return Err(Error::Range {
                op: "start",
                arg: "token",
                got: u64::from(word),
                min: 0,
                max,
            });
        }
        covers("start", "out", out.len(), seeds.len())?;
        let limit = self.candidates.len();
        if self.candidates.iter().filter(|c| c.id.is_none()).count() < seeds.len() {
            return Err(Error::Full {
                what: "candidates of a session",
                limit,
            });
        }
        if let Some(from) = from {
            self.check_partial(from)?;
        }
        let (place, new) = self.prompt(tokens)?;
        let policy = self.options.temperature_policy;
        for (i, (&seed, out)) in seeds.iter().zip(out).enumerate() {
            let id = CandidateId(self.next);
            self.next += 1;
            if let Some(c) = self.candidates.iter_mut().find(|c| c.id.is_none()) {
                (c.id, c.prompt, c.seed) = (Some(id), place, seed);
                c.hidden = None;
                c.predicted.fill(UNKNOWN);
                if let Some(from) = from {
                    (c.step, c.anneal) = (from.step, from.anneal);
                    c.codes.copy_from_slice(from.codes);
                } else {
                    (c.step, c.anneal) =
                        (0, policy != TemperaturePolicy::Upstream || (new && i == 0));
                    c.codes.fill(UNKNOWN);
                }
                c.blank = c.step == 0 && c.codes.iter().all(|&code| code == UNKNOWN);
                // A state after some steps is at least looked at as far as it is known.
                if c.step > 0 {
                    c.predicted.copy_from_slice(&c.codes);
                }
                self.prompts.entry(place).users += 1;
            }
            *out = id;
        }
        Ok(())
    }

    fn check_partial(&self, from: &Partial<'_>) -> Result<()> {
        let c = self.model.config();
        covers("resume", "codes", from.codes.len(), c.num_vq_tokens)?;
        covers("resume", "codes", c.num_vq_tokens, from.codes.len())?;
        let max = u64::from(self.options.steps);
        if from.step > self.options.steps {
            return Err(Error::Range {
                op: "resume",
                arg: "step",
                got: u64::from(from.step),
                min: 0,
                max,
            });
        }
        let finished = from.step == self.options.steps;
        for &code in from.codes {
            if (code == UNKNOWN && finished)
                || (code != UNKNOWN && code as usize >= c.codebook_size)
            {
                let max = c.codebook_size as u64 - 1;
                return Err(Error::Range {
                    op: "resume",
                    arg: "codes",
                    got: u64::from(code),
                    min: 0,
                    max,
                });
            }
        }
        Ok(())
    }

    fn at(&self, op: &'static str, id: CandidateId) -> Result<usize> {
        self.candidates
            .iter()
            .position(|c| c.id == Some(id))
            .ok_or(Error::UnknownCandidate { op, id: id.0 })
    }

    /// Calls `f` with the places of a batch, each alive and named once.
    fn with_batch(
        &mut self,
        op: &'static str,
        ids: &[CandidateId],
        f: impl FnOnce(&mut Self, &[usize]) -> Result<()>,
    ) -> Result<()> {
        let mut batch = core::mem::take(&mut self.host.batch);
        let result =
            places(op, ids, |id| self.at(op, id), &mut batch).and_then(|()| f(self, &batch));
        self.host.batch = batch;
        result
    }
}

fn guided(options: &ShowOOptions) -> bool {
    (options.guidance_scale - 1.0).abs() > f32::EPSILON
}

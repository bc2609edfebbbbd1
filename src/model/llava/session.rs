//! A run of the judge: batches of views, with the rows they share computed once.

mod judge;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Llava;
use super::options::{JudgeOptions, Reader};
use super::slots::Slots;
use super::templates::Questions;
use super::views::Plan;
use crate::error::{self, Error, Result, product};
use crate::image::ImageBatch;
use crate::model::resize::Resizer;
use crate::model::template::Tokens;
use crate::model::transformer::{Cache, Look, Pass, Scratch};
use crate::model::vision::VisionScratch;
use crate::ops::Backend;
use crate::ops::attention::SPAN_WORDS;
use crate::ops::vq::GatherShape;
use crate::prompt::{TokenId, Tokenize};
use crate::reward::{Ask, Verdict};

/// A view of the running batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// Its place in the question.
    pub(super) view: usize,
    pub(super) slot: usize,
    pub(super) picture: u64,
    /// Tokens whose rows are kept, or none of its rows.
    pub(super) kept: Option<usize>,
}

/// A run of a judge: its memory, reserved at the start. See [`RewardModel`](crate::RewardModel).
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use maquette::cpu::Cpu;
/// use maquette::model::files::map::ModelFolder;
/// use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
/// use maquette::model::words::Words;
/// use maquette::quant::Format;
/// use maquette::reward::{Ask, Judgement, RewardModel, Verdict, ViewKey};
/// use maquette::{CandidateId, Error, ImageBatch, ImageSize, Prompt};
///
/// // The small judge of the repository; a published one is opened in the same way.
/// let folder = Path::new("examples/demo/weights/judge");
/// # if !folder.exists() { return Ok(()); }
/// let words = std::fs::read_to_string(folder.join("vocab.txt")).map_err(|_| Error::foreign("no words"))?;
/// let folder = ModelFolder::open(folder)?;
/// let config = LlavaConfig::from_json(&folder.config)?;
/// let model = folder.weights.read(|weights| Llava::load(Arc::new(Cpu::new()), config, weights, Format::Q8_0))?;
/// let options = JudgeOptions::default().with_views(1);
/// let mut judge = LlavaSession::new(Arc::new(model), Arc::new(Words::new(&words)?), options)?;
///
/// // A grey picture shows no red car.
/// let grey = [127; 64 * 64 * 3];
/// let (prompt, keys) = (Prompt::new("a photo of a red car"), [ViewKey { candidate: CandidateId(0), step: 18 }]);
/// let ask = Ask::new(Judgement::Outcome, &prompt, &keys).with_pixels(ImageBatch::new(1, ImageSize::new(64, 64), &grey)?);
/// let mut out = [Verdict::malformed()];
/// judge.judge(&ask, &mut out)?;
/// assert!(out[0].p_no > out[0].p_yes);
/// # Ok::<(), maquette::Error>(())
/// ```
pub struct LlavaSession<B: Backend> {
    pub(super) model: Arc<Llava<B>>,
    tokenizer: Arc<dyn Tokenize>,
    pub(super) options: JudgeOptions,
    questions: Questions,
    tokens: Tokens,
    /// Tokens that read as yes or no, in any case of letters.
    pub(super) yes_no: [Vec<TokenId>; 2],
    pub(super) resizer: Resizer,
    pub(super) canvas: Vec<u8>,
    pub(super) vision: VisionScratch<B>,
    pub(super) features: Vec<f32>,
    pub(super) merged: Vec<f32>,
    /// Rows of one picture at most.
    pub(super) image_rows: usize,
    /// Tokens before the picture whose rows lie at the cache's start.
    prefix: Vec<TokenId>,
    pub(super) slots: Slots,
    jobs: Vec<Job>,
    words: [Vec<u32>; 3],
    cache: Cache<B>,
    scratch: Scratch<B>,
    pub(super) x: B::Buffer<f32>,
    pub(super) text: B::Buffer<f32>,
    ids: B::Buffer<u32>,
    positions: B::Buffer<u32>,
    places: B::Buffer<u32>,
    spans: B::Buffer<u32>,
    pub(super) last: B::Buffer<f32>,
    pub(super) normed: B::Buffer<f32>,
    pub(super) logits: B::Buffer<f32>,
    pub(super) p: B::Buffer<f32>,
    /// P(yes) and P(no) of each view, over all tokens that read so.
    pub(super) sums: Vec<f32>,
    /// The same of one pair of tokens.
    pub(super) pairs: Vec<f32>,
    pub(super) row: Vec<f32>,
    pub(super) order: Vec<u32>,
    /// Multiply-adds of all judgements.
    spent: u64,
}

impl<B: Backend> core::fmt::Debug for LlavaSession<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LlavaSession")
            .field("options", &self.options)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

pub(super) fn index(i: usize) -> Result<u32> {
    u32::try_from(i).map_err(|_| Error::Overflow { op: "judge" })
}

fn reserved<T>(len: usize) -> Result<Vec<T>> {
    error::reserved("judge", len)
}

pub(super) fn zeroed<T: Default + Clone>(len: usize) -> Result<Vec<T>> {
    let mut v = reserved(len)?;
    v.resize(len, T::default());
    Ok(v)
}

impl<B: Backend> LlavaSession<B> {
    /// Reserves a session's memory.
    ///
    /// # Errors
    /// Options of zero or beyond the model's positions, templates that cannot be asked, or no memory.
    pub fn new(
        model: Arc<Llava<B>>,
        tokenizer: Arc<dyn Tokenize>,
        options: JudgeOptions,
    ) -> Result<Self> {
        let (backend, config) = (&*model.backend, &model.config);
        let o = &options;
        for (arg, got, min) in [
            ("max_views", o.max_views, 1),
            ("remembered", o.remembered, o.max_views),
            ("max_tokens", o.max_tokens, 1),
        ] {
            if got < min || got > 1 << 20 {
                return Err(Error::Range {
                    op: "judge",
                    arg,
                    got: got as u64,
                    min: min as u64,
                    max: 1 << 20,
                });
            }
        }
        let image_rows = if o.image_rows == 0 {
            config.image_rows()
        } else {
            o.image_rows.min(config.image_rows())
        };
        let (d, own) = (config.text.width, image_rows + o.max_tokens);
        if o.max_tokens + own > config.text.positions {
            return Err(Error::Range {
                op: "judge",
                arg: "rows of a question",
                got: (o.max_tokens + own) as u64,
                min: 1,
                max: config.text.positions as u64,
            });
        }
        let rows = product("judge", &[o.max_views, own])?;
        let cache_rows = product("judge", &[o.remembered, own])?.saturating_add(o.max_tokens);
        index(cache_rows)?;
        let tiles = config.views();
        let patches = config.vision.patches();
        let side = config.vision.image_size;
        let head_width = match o.reader {
            Reader::TwoRows => 2,
            _ => config.text.vocab,
        };
        let sampled = if matches!(o.reader, Reader::Upstream { .. }) {
            head_width
        } else {
            0
        };
        let vision_views = o.max_views.max(tiles.min(16));
        let merged = if tiles > 1 {
            product("judge", &[image_rows, d])?
        } else {
            0
        };
        let read_as = |id, side: usize, words: [&str; 2]| {
            let mut ids = reserved(1 + config.other_answers.len() + words.len())?;
            ids.push(id);
            ids.extend(config.other_answers.iter().map(|pair| pair[side]));
            ids.extend(
                words
                    .iter()
                    .filter_map(|w| tokenizer.token(w))
                    .filter(|&other| other != id),
            );
            Ok::<_, Error>(ids)
        };
        Ok(Self {
            questions: Questions::new(&config.templates, &*tokenizer)?,
            tokens: Tokens::reserve(o.max_tokens)?,
            yes_no: [
                read_as(config.yes_id, 0, ["Yes", "YES"])?,
                read_as(config.no_id, 1, ["No", "NO"])?,
            ],
            resizer: Resizer::new(),
            canvas: zeroed(product("judge", &[vision_views.max(tiles), side, side, 3])?)?,
            vision: model.vision.scratch_as(backend, vision_views, o.kv)?,
            features: if tiles > 1 {
                zeroed(product("judge", &[tiles, patches, d])?)?
            } else {
                Vec::new()
            },
            merged: zeroed(merged)?,
            image_rows,
            prefix: reserved(o.max_tokens)?,
            slots: Slots::reserve(o.remembered, o.max_tokens)?,
            jobs: reserved(o.max_views)?,
            words: [
                reserved(rows)?,
                reserved(rows)?,
                reserved(product("judge", &[o.max_views, SPAN_WORDS])?)?,
            ],
            cache: model.stack.cache_as(backend, cache_rows, o.kv)?,
            scratch: model.stack.scratch(backend, rows)?,
            x: backend.zeros(product("judge", &[rows, d])?)?,
            text: backend.zeros(product("judge", &[o.max_tokens, d])?)?,
            ids: backend.zeros(o.max_tokens)?,
            positions: backend.zeros(rows)?,
            places: backend.zeros(rows)?,
            spans: backend.zeros(o.max_views * SPAN_WORDS)?,
            last: backend.zeros(product("judge", &[o.max_views, d])?)?,
            normed: backend.zeros(product("judge", &[o.max_views, d])?)?,
            logits: backend.zeros(product("judge", &[o.max_views, head_width])?)?,
            p: backend.zeros(o.max_views * 2)?,
            sums: zeroed(o.max_views * 2)?,
            pairs: zeroed(o.max_views * 2)?,
            row: zeroed(sampled)?,
            order: zeroed(sampled)?,
            spent: 0,
            tokenizer,
            options,
            model,
        })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Llava<B>> {
        &self.model
    }

    /// Tokens before and after the picture in a question.
    #[cfg(feature = "align")]
    pub(super) fn question(
        &mut self,
        judgement: crate::Judgement,
        prompt: &str,
    ) -> Result<(Vec<TokenId>, Vec<TokenId>)> {
        let limit = self.options.max_tokens;
        let tokens = &mut self.tokens;
        self.questions
            .encode(judgement, prompt, &*self.tokenizer, limit, tokens)?;
        Ok((tokens.before.clone(), tokens.after.clone()))
    }

    /// What turns text into tokens.
    #[cfg(feature = "align")]
    pub(super) fn tokenizer(&self) -> &dyn Tokenize {
        &*self.tokenizer
    }

    /// Embeddings of tokens into `text`.
    pub(super) fn embed(&mut self, ids: &[TokenId]) -> Result<()> {
        let text = &self.model.config.text;
        if ids.iter().any(|&id| id as usize >= text.vocab) {
            return Err(Error::Config {
                key: "vocab_size",
                problem: "is smaller than the tokenizer's vocabulary",
            });
        }
        let backend = &*self.model.backend;
        backend.write(&mut self.ids, 0, ids)?;
        let s = GatherShape {
            rows: ids.len(),
            width: text.width,
            table_rows: text.vocab,
        };
        backend.gather_rows(s, &self.ids, &self.model.embed, &mut self.text)
    }

    /// Sends the rows in x through the language model: each job's `queries` rows behind `start` rows of its own and
    /// `prefix` shared ones.
    pub(super) fn pass(
        &mut self,
        jobs: &[Job],
        prefix: usize,
        start: usize,
        queries: usize,
        look: Look<'_, B>,
    ) -> Result<()> {
        let slot_rows = self.image_rows + self.options.max_tokens;
        let [positions, places, spans] = &mut self.words;
        positions.clear();
        places.clear();
        spans.clear();
        for job in jobs {
            let base = self.options.max_tokens + job.slot * slot_rows;
            for row in start..start + queries {
                positions.push(index(prefix + row)?);
                places.push(index(base + row)?);
            }
            spans.extend([0, index(prefix)?, index(base)?, index(start + queries)?]);
        }
        self.run(jobs.len(), queries, look)
    }

    fn run(&mut self, sequences: usize, queries: usize, look: Look<'_, B>) -> Result<()> {
        let backend = &*self.model.backend;
        let [positions, places, spans] = &self.words;
        backend.write(&mut self.positions, 0, positions)?;
        backend.write(&mut self.places, 0, places)?;
        backend.write(&mut self.spans, 0, spans)?;
        let pass = Pass {
            sequences,
            queries,
            causal: true,
            positions: &self.positions,
            places: &self.places,
            spans: &self.spans,
            pages: 0,
        };
        let memory = (&mut self.cache, &mut self.scratch);
        self.model
            .stack
            .forward_watched(backend, &pass, &mut self.x, memory, look)
    }

    /// Makes the cache's start hold the rows of `tokens.before`.
    fn share_prefix(&mut self) -> Result<()> {
        if self.prefix == self.tokens.before {
            return Ok(());
        }
        self.slots.forget(|_| true);
        self.prefix.clear();
        let before = core::mem::take(&mut self.tokens.before);
        let done = self.embed(&before).and_then(|()| {
            let n = before.len();
            let d = self.model.config.text.width;
            self.model
                .backend
                .copy(&self.text, 0, &mut self.x, 0, n * d)?;
            for list in &mut self.words {
                list.clear();
            }
            self.words[0].extend(0..index(n)?);
            self.words[1].extend(0..index(n)?);
            self.words[2].extend([0, 0, 0, index(n)?]);
            self.run(1, n, &mut |_, _, _| Ok(()))
        });
        if done.is_ok() {
            self.prefix.extend_from_slice(&before);
        }
        self.tokens.before = before;
        done
    }

    /// Judges views `[from, to)` of a question, all of whose keys differ.
    fn batch(
        &mut self,
        ask: &Ask<'_>,
        pixels: ImageBatch<'_>,
        plan: &Plan,
        jobs: &mut [Job],
        out: &mut [Verdict],
    ) -> Result<()> {
        let (prefix, rows) = (self.prefix.len(), self.rows_of(plan));
        let after = core::mem::take(&mut self.tokens.after);
        jobs.sort_unstable_by_key(|job| (job.kept, job.view));
        let mut done = Ok(());
        for group in jobs.chunk_by(|a, b| a.kept == b.kept) {
            done = self.group(ask, pixels, plan, (group, prefix, rows), &after, out);
            if done.is_err() {
                break;
            }
        }
        self.tokens.after = after;
        done
    }

    fn group(
        &mut self,
        ask: &Ask<'_>,
        pixels: ImageBatch<'_>,
        plan: &Plan,
        (group, prefix, image_rows): (&[Job], usize, usize),
        after: &[TokenId],
        out: &mut [Verdict],
    ) -> Result<()> {
        let kept = group.first().and_then(|job| job.kept);
        // Rows of the slot that are there already; tokens that are not; where in a sequence of x they go.
        let (start, new, at) = match kept {
            Some(n) => (image_rows + n, &after[n..], 0),
            None => (0, after, image_rows),
        };
        let queries = at + new.len();
        if kept.is_none() {
            let picture = |view| {
                pixels.picture(view).ok_or(Error::Length {
                    op: "judge",
                    arg: "pixels",
                    got: view,
                    want: view + 1,
                })
            };
            self.see(
                plan,
                group,
                pixels.size(),
                &mut { picture },
                0,
                queries,
                &mut |_, _, _| Ok(()),
            )?;
        }
        self.embed(new)?;
        let d = self.model.config.text.width;
        for j in 0..group.len() {
            self.model.backend.copy(
                &self.text,
                0,
                &mut self.x,
                (j * queries + at) * d,
                new.len() * d,
            )?;
        }
        self.pass(group, prefix, start, queries, &mut |_, _, _| Ok(()))?;
        let view = |j: usize| group.get(j).map_or(j, |job| job.view);
        let place = |error| match error {
            Error::NotFinite { arg, row, .. } => Error::NotFinite {
                op: "judge",
                arg,
                row: view(row),
            },
            other => other,
        };
        self.head(group.len(), queries).map_err(place)?;
        for (j, job) in group.iter().enumerate() {
            let key = ask.keys[job.view];
            out[job.view] = self.read(j, key, ask.judgement).map_err(place)?;
            self.slots.keep(job.slot, key, job.picture, after);
        }
        Ok(())
    }
}

//! A run of the judge: batches of views, with the rows they share computed once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::options::{JudgeOptions, Reader};
use super::slots::{Slots, fingerprint};
use super::templates::{Questions, Tokens};
use super::{Aspect, Llava};
use crate::error::{Error, Result, product};
use crate::generator::Needs;
use crate::image::{ImageBatch, ImageSize};
use crate::model::resize::{Resizer, TileMerge, best_resolution};
use crate::model::transformer::{Cache, Look, Pass, Scratch};
use crate::model::vision::{VisionScratch, VisionStage};
use crate::ops::Backend;
use crate::ops::attention::SPAN_WORDS;
use crate::ops::norm::NormShape;
use crate::ops::reward_head::AnswerShape;
use crate::ops::sample::{Filter, filter, softmax_row};
use crate::ops::vq::GatherShape;
use crate::prompt::{TokenId, Tokenize};
use crate::reward::{Answer, Ask, Judgement, RewardModel, Verdict, ViewKey};
use crate::rng::{self, Purpose};

/// Looks at a stage of the image tower, for so many views.
type ViewsLook<'a, B> =
    &'a mut dyn FnMut(VisionStage, &<B as Backend>::Buffer<f32>, usize) -> Result<()>;

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

/// How this batch's pictures become rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    Pad,
    Tiles { best: ImageSize, merge: TileMerge },
}

/// A run of a judge: its memory, reserved at the start. See [`RewardModel`].
pub struct LlavaSession<B: Backend> {
    pub(super) model: Arc<Llava<B>>,
    tokenizer: Arc<dyn Tokenize>,
    pub(super) options: JudgeOptions,
    questions: Questions,
    tokens: Tokens,
    /// Tokens that read as yes or no, in any case of letters.
    yes_no: [Vec<TokenId>; 2],
    resizer: Resizer,
    canvas: Vec<u8>,
    vision: VisionScratch<B>,
    features: Vec<f32>,
    merged: Vec<f32>,
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
    last: B::Buffer<f32>,
    pub(super) normed: B::Buffer<f32>,
    pub(super) logits: B::Buffer<f32>,
    p: B::Buffer<f32>,
    row: Vec<f32>,
    order: Vec<u32>,
}

impl<B: Backend> core::fmt::Debug for LlavaSession<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LlavaSession")
            .field("options", &self.options)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

fn index(i: usize) -> Result<u32> {
    u32::try_from(i).map_err(|_| Error::Overflow { op: "judge" })
}

fn reserved<T>(len: usize) -> Result<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        what: "judge",
        bytes: len.saturating_mul(size_of::<T>()),
    })?;
    Ok(v)
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
    pub fn new(model: Arc<Llava<B>>, tokenizer: Arc<dyn Tokenize>, options: JudgeOptions) -> Result<Self> {
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
        let read_as = |id, words: [&str; 2]| {
            let mut ids = Vec::from([id]);
            ids.extend(
                words
                    .iter()
                    .filter_map(|w| tokenizer.token(w))
                    .filter(|&other| other != id),
            );
            ids
        };
        Ok(Self {
            questions: Questions::new(&config.templates, &*tokenizer)?,
            tokens: Tokens::reserve(o.max_tokens)?,
            yes_no: [
                read_as(config.yes_id, ["Yes", "YES"]),
                read_as(config.no_id, ["No", "NO"]),
            ],
            resizer: Resizer::new(),
            canvas: zeroed(product("judge", &[vision_views.max(tiles), side, side, 3])?)?,
            vision: model.vision.scratch(backend, vision_views)?,
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
            cache: model.stack.cache(backend, cache_rows)?,
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
            row: zeroed(sampled)?,
            order: zeroed(sampled)?,
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

    pub(super) fn plan(&self, size: ImageSize) -> Result<Plan> {
        let config = &self.model.config;
        let plan = match &config.aspect {
            Aspect::Pad => Plan::Pad,
            Aspect::AnyRes { pinpoints, max } => {
                let side = index(config.vision.image_size)?;
                let none = Error::Config {
                    key: "image_grid_pinpoints",
                    problem: "has none",
                };
                let best = best_resolution(size, pinpoints).ok_or(none)?;
                Plan::Tiles {
                    best,
                    merge: TileMerge::plan(size, best, side, config.vision.grid(), *max)?,
                }
            }
        };
        let rows = self.rows_of(&plan);
        if rows > self.image_rows {
            return Err(Error::Range {
                op: "judge",
                arg: "rows of a picture",
                got: rows as u64,
                min: 1,
                max: self.image_rows as u64,
            });
        }
        Ok(plan)
    }

    pub(super) fn rows_of(&self, plan: &Plan) -> usize {
        match plan {
            Plan::Pad => self.model.config.vision.patches() + 1,
            Plan::Tiles { merge, .. } => merge.len(),
        }
    }

    pub(super) fn head_width(&self) -> usize {
        match self.options.reader {
            Reader::TwoRows => 2,
            _ => self.model.config.text.vocab,
        }
    }

    /// Image rows of new views into x: sequence `j` of `queries` rows gets them from row `at` on.
    #[expect(clippy::too_many_arguments, reason = "a private step with two callers")]
    pub(super) fn see<'a>(
        &mut self,
        plan: &Plan,
        jobs: &[Job],
        size: ImageSize,
        picture: &mut dyn FnMut(usize) -> Result<&'a [u8]>,
        at: usize,
        queries: usize,
        look: ViewsLook<'_, B>,
    ) -> Result<()> {
        let model = &*self.model;
        let (backend, d) = (&*model.backend, model.config.text.width);
        let (patches, side) = (
            model.config.vision.patches(),
            index(model.config.vision.image_size)?,
        );
        let view_bytes = ImageSize::new(side, side).len_bytes();
        match plan {
            Plan::Pad => {
                for (jobs, first) in jobs
                    .chunks(self.vision.views())
                    .zip((0..).step_by(self.vision.views()))
                {
                    for (job, view) in jobs.iter().zip(self.canvas.chunks_exact_mut(view_bytes)) {
                        self.resizer
                            .padded_square(picture(job.view)?, size, side, view)?;
                    }
                    let n = jobs.len();
                    let pixels = &self.canvas[..n * view_bytes];
                    model.vision.forward(
                        backend,
                        n,
                        pixels,
                        &mut self.vision,
                        &mut |stage, x| look(stage, x, n),
                    )?;
                    for j in 0..n {
                        let to = ((first + j) * queries + at) * d;
                        backend.copy(
                            self.vision.out(),
                            j * patches * d,
                            &mut self.x,
                            to,
                            patches * d,
                        )?;
                        backend.write(&mut self.x, to + patches * d, &model.newline)?;
                    }
                }
            }
            Plan::Tiles { best, merge } => {
                let views = 1 + merge.tiles[0] * merge.tiles[1];
                for (j, job) in jobs.iter().enumerate() {
                    self.resizer
                        .tiles(picture(job.view)?, size, *best, side, &mut self.canvas)?;
                    for first in (0..views).step_by(self.vision.views()) {
                        let n = self.vision.views().min(views - first);
                        let pixels = &self.canvas[first * view_bytes..][..n * view_bytes];
                        model.vision.forward(
                            backend,
                            n,
                            pixels,
                            &mut self.vision,
                            &mut |stage, x| look(stage, x, n),
                        )?;
                        let features = &mut self.features[first * patches * d..][..n * patches * d];
                        backend.read(self.vision.out(), 0, features)?;
                    }
                    let merged = &mut self.merged[..merge.len() * d];
                    merge.merge(&self.features, &model.newline, merged)?;
                    backend.write(&mut self.x, (j * queries + at) * d, merged)?;
                }
            }
        }
        Ok(())
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
        backend.gather(s, &self.ids, &self.model.embed, &mut self.text)
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
        };
        let memory = (&mut self.cache, &mut self.scratch);
        self.model
            .stack
            .forward_watched(backend, &pass, &mut self.x, memory, look)
    }

    /// Final norm and head of each sequence's last row: `logits`, and P(yes) and P(no) in `p`.
    pub(super) fn head(&mut self, sequences: usize, queries: usize) -> Result<()> {
        let model = &*self.model;
        let (backend, d) = (&*model.backend, model.config.text.width);
        for j in 0..sequences {
            backend.copy(
                &self.x,
                ((j + 1) * queries - 1) * d,
                &mut self.last,
                j * d,
                d,
            )?;
        }
        let s = NormShape {
            rows: sequences,
            width: d,
            eps: model.config.text.eps,
        };
        model.norm.apply(backend, s, &self.last, &mut self.normed)?;
        let two = matches!(self.options.reader, Reader::TwoRows);
        let head = if two { &model.answers } else { &model.head };
        head.apply(backend, sequences, &self.normed, &mut self.logits)?;
        let (yes, no) = if two {
            (0, 1)
        } else {
            (model.config.yes_id as usize, model.config.no_id as usize)
        };
        backend.answer(
            AnswerShape {
                rows: sequences,
                width: self.head_width(),
                yes,
                no,
            },
            &self.logits,
            &mut self.p,
        )
    }

    /// The verdict of row `j` of the last [`head`](Self::head).
    pub(super) fn read(&mut self, j: usize, key: ViewKey, judgement: Judgement) -> Result<Verdict> {
        let backend = &*self.model.backend;
        let Reader::Upstream { seed } = self.options.reader else {
            let mut p = [0.0; 2];
            backend.read(&self.p, j * 2, &mut p)?;
            // Rounding may carry a probability past 1 by a unit in the last place.
            return Ok(Verdict::new(p[0].min(1.0), p[1].min(1.0)));
        };
        backend.read(&self.logits, j * self.row.len(), &mut self.row)?;
        let upstream = Filter {
            temperature: 1.0,
            top_k: 20,
            top_p: 0.8,
        };
        filter(upstream, &mut self.row, &mut self.order)?;
        if !softmax_row(&mut self.row) {
            return Err(Error::NotFinite {
                op: "judge",
                arg: "logits",
                row: j,
            });
        }
        let drawn = index(draw(seed, key, judgement, &self.row))?;
        let [yes, no] = [self.model.config.yes_id, self.model.config.no_id]
            .map(|id| self.row[id as usize].min(1.0));
        let [says_yes, says_no] = [0, 1].map(|i: usize| self.yes_no[i].contains(&drawn));
        Ok(match judgement {
            _ if says_yes => Verdict::new(yes, no).with_answer(Answer::Yes),
            _ if says_no => Verdict::new(yes, no).with_answer(Answer::No),
            Judgement::Clarity | Judgement::Potential => {
                Verdict::new(yes, no).with_answer(Answer::Other)
            }
            _ => Verdict::malformed(),
        })
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

/// Draws a token, keyed by view and question.
fn draw(seed: u64, key: ViewKey, judgement: Judgement, p: &[f32]) -> usize {
    let question = match judgement {
        Judgement::Outcome => 0,
        Judgement::Process => 1,
        Judgement::Clarity => 2,
        Judgement::Potential => 3,
    };
    // The candidate's number goes into the seed, scattered, so that no two views share their noise.
    let seed = seed ^ (key.candidate.0.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut four = (usize::MAX, [0; 4]);
    let noise = core::cell::RefCell::new(&mut four);
    rng::race(p, |i| {
        let mut four = noise.borrow_mut();
        if four.0 != i / 4 {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a vocabulary has fewer than 2^32 entries"
            )]
            let block = (i / 4) as u32;
            **four = (
                i / 4,
                rng::block(seed, Purpose::Answer, key.step, question, block),
            );
        }
        rng::exponential(four.1[i % 4])
    })
}

impl<B: Backend> RewardModel for LlavaSession<B> {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::PIXELS
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let n = ask.keys.len();
        if out.len() != n {
            return Err(Error::Length {
                op: "judge",
                arg: "out",
                got: out.len(),
                want: n,
            });
        }
        if n == 0 {
            return Ok(());
        }
        let pixels = ask.pixels.ok_or(Error::Length {
            op: "judge",
            arg: "pixels",
            got: 0,
            want: n,
        })?;
        if pixels.len() != n {
            return Err(Error::Length {
                op: "judge",
                arg: "pixels",
                got: pixels.len(),
                want: n,
            });
        }
        let plan = self.plan(pixels.size())?;
        let limit = self.options.max_tokens;
        self.questions.encode(
            ask.judgement,
            ask.prompt.text(),
            &*self.tokenizer,
            limit,
            &mut self.tokens,
        )?;
        if self.tokens.after.is_empty() {
            return Err(Error::Config {
                key: "templates",
                problem: "ask nothing after the picture",
            });
        }
        self.share_prefix()?;
        let mut jobs = core::mem::take(&mut self.jobs);
        let mut next = 0;
        let mut done = Ok(());
        while next < n && done.is_ok() {
            jobs.clear();
            self.slots.begin();
            // A key that comes twice waits for the next batch, where its rows are there.
            while next < n
                && jobs.len() < self.options.max_views
                && !ask.keys[..next]
                    .iter()
                    .rev()
                    .take(jobs.len())
                    .any(|k| *k == ask.keys[next])
            {
                let picture = fingerprint(pixels.size(), pixels.picture(next).unwrap_or_default());
                match self.slots.take(ask.keys[next], picture, &self.tokens.after) {
                    Ok((slot, kept)) => jobs.push(Job {
                        view: next,
                        slot,
                        picture,
                        kept,
                    }),
                    Err(error) => done = Err(error),
                }
                next += 1;
            }
            if done.is_ok() {
                done = self.batch(ask, pixels, &plan, &mut jobs, out);
            }
        }
        self.jobs = jobs;
        done
    }

    fn forget(&mut self, keys: &[ViewKey]) {
        self.slots.forget(|key| keys.contains(&key));
    }
}

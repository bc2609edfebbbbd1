//! A Llama of `candle-transformers` that draws 8 × 8 codes row by row.
//!
//! A state holds candle's own cache of keys and values: a fork clones its handles, pruning frees them, and a step continues it
//! by one token a code.

use std::collections::BTreeMap;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::llama::{Cache, Config, Llama};
use maquette::codes::UNKNOWN;
use maquette::error::Foreign;
use maquette::generator::{Needs, Partial, Views};
use maquette::rng::{self, Purpose};
use maquette::{CandidateId, Code, CodeGrid, Error, Generator, ImageSize, Prompt, Result};

pub const SIDE: usize = 8;
/// Codes are shades.
pub const SHADES: usize = 16;
const PLACES: usize = SIDE * SIDE;
/// Tokens of the prompt are its bytes; codes come behind them.
const BYTES: usize = 256;

fn of_candle(error: candle_core::Error) -> Error {
    Error::Foreign(Foreign::new(error.to_string()))
}

/// A candidate on its way.
#[derive(Clone)]
struct State {
    seed: u64,
    codes: Vec<Code>,
    /// Keys and values of the prompt and all codes.
    cache: Cache,
    /// Tokens in the cache.
    len: usize,
    /// Logits of the next code.
    logits: Vec<f32>,
}

/// The model and its living candidates.
pub struct CandleLlama {
    model: Llama,
    empty: Cache,
    states: BTreeMap<CandidateId, State>,
    next: u64,
}

impl CandleLlama {
    /// A small model with random weights: where a trained one would be loaded, its `VarBuilder` reads files.
    pub fn random() -> Result<Self> {
        let config = Config {
            hidden_size: 64,
            intermediate_size: 128,
            vocab_size: BYTES + SHADES,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            use_flash_attn: false,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: 512,
            tie_word_embeddings: false,
        };
        let load = || -> candle_core::Result<(Llama, Cache)> {
            let device = Device::Cpu;
            let weights = VarMap::new();
            let builder = VarBuilder::from_varmap(&weights, DType::F32, &device);
            let model = Llama::load(builder, &config)?;
            seeded(&weights)?;
            Ok((model, Cache::new(true, DType::F32, &config, &device)?))
        };
        let (model, empty) = load().map_err(of_candle)?;
        Ok(Self {
            model,
            empty,
            states: BTreeMap::new(),
            next: 0,
        })
    }

    /// Goes on with tokens, and keeps what the model says of the next code.
    fn read(&self, state: &mut State, tokens: &[u32]) -> Result<()> {
        let mut forward = || -> candle_core::Result<Vec<f32>> {
            let x = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.model.forward(&x, state.len, &mut state.cache)?;
            logits.i((0, BYTES..))?.to_vec1()
        };
        state.logits = forward().map_err(of_candle)?;
        state.len += tokens.len();
        Ok(())
    }

    /// The state after a prompt and some codes.
    fn after(&self, prompt: &Prompt<'_>, codes: &[Code]) -> Result<State> {
        let mut state = State {
            seed: 0,
            codes: codes.to_vec(),
            cache: self.empty.clone(),
            len: 0,
            logits: Vec::new(),
        };
        let text = prompt.text().bytes().map(u32::from);
        let tokens: Vec<u32> = text.chain(codes.iter().map(|&code| token(code))).collect();
        if tokens.is_empty() {
            return Err(Error::foreign("the prompt is empty"));
        }
        self.read(&mut state, &tokens)?;
        Ok(state)
    }

    fn state(&self, op: &'static str, id: CandidateId) -> Result<&State> {
        self.states
            .get(&id)
            .ok_or(Error::UnknownCandidate { op, id: id.0 })
    }

    fn alive(&self, op: &'static str, ids: &[CandidateId]) -> Result<()> {
        for (i, &id) in ids.iter().enumerate() {
            self.state(op, id)?;
            if ids[..i].contains(&id) {
                return Err(Error::RepeatedCandidate { op, id: id.0 });
            }
        }
        Ok(())
    }

    fn admit(
        &mut self,
        op: &'static str,
        state: &State,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        let (got, want) = (out.len(), seeds.len());
        if got < want {
            return Err(Error::Length {
                op,
                arg: "out",
                got,
                want,
            });
        }
        for (&seed, out) in seeds.iter().zip(out) {
            *out = CandidateId(self.next);
            self.next += 1;
            let state = State {
                seed,
                ..state.clone()
            };
            self.states.insert(*out, state);
        }
        Ok(())
    }

    /// The same candidate one row later.
    fn row(&self, state: &State) -> Result<State> {
        let mut state = state.clone();
        let row = (state.codes.len() / SIDE) as u32;
        for col in 0..SIDE as u32 {
            let p: Vec<f32> = state.logits.iter().map(|v| v.exp()).collect();
            let code = rng::race(&p, |i| {
                let key = rng::block(state.seed, Purpose::Draw, row, col, i as u32);
                rng::exponential(key[0])
            }) as Code;
            state.codes.push(code);
            self.read(&mut state, &[token(code)])?;
        }
        Ok(state)
    }
}

fn token(code: Code) -> u32 {
    BYTES as u32 + code
}

/// The same weights in every run: candle's own random numbers have no seed on a CPU.
fn seeded(weights: &VarMap) -> candle_core::Result<()> {
    let vars = weights.data().lock().unwrap_or_else(|e| e.into_inner());
    let mut names: Vec<&String> = vars.keys().collect();
    names.sort();
    for (n, name) in names.iter().enumerate() {
        let var = &vars[*name];
        if name.contains("norm") {
            continue;
        }
        let scale = if name.contains("lm_head") { 1.0 } else { 0.3 };
        let number = |i: usize| {
            (rng::philox([n as u32, 7], [i as u32, 0, 0, 0])[0] as f32 / 2_147_483_648.0 - 1.0)
                * scale
        };
        let values: Vec<f32> = (0..var.elem_count()).map(number).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}

impl Generator for CandleLlama {
    fn steps(&self) -> u32 {
        SIDE as u32
    }

    fn grid(&self) -> CodeGrid {
        CodeGrid::new(SIDE as u32, SIDE as u32, SHADES as u32)
    }

    fn image_size(&self) -> ImageSize {
        ImageSize::new(SIDE as u32, SIDE as u32)
    }

    fn start(&mut self, prompt: &Prompt<'_>, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        // The prompt is read once for all of them.
        let fresh = self.after(prompt, &[])?;
        self.admit("start", &fresh, seeds, out)
    }

    fn resume(
        &mut self,
        prompt: &Prompt<'_>,
        from: &Partial<'_>,
        seeds: &[u64],
        out: &mut [CandidateId],
    ) -> Result<()> {
        let known = from.codes.get(..from.step as usize * SIDE);
        let fits = |code: &Code| (*code as usize) < SHADES;
        let Some(known) = known.filter(|known| known.iter().all(fits)) else {
            return Err(Error::foreign("the saved state does not fit"));
        };
        let state = self.after(prompt, known)?;
        self.admit("resume", &state, seeds, out)
    }

    fn save<'a>(&self, id: CandidateId, codes: &'a mut [Code]) -> Result<Partial<'a>> {
        let state = self.state("save", id)?;
        let got = codes.len();
        let Some(codes) = codes.get_mut(..PLACES) else {
            return Err(Error::Length {
                op: "save",
                arg: "codes",
                got,
                want: PLACES,
            });
        };
        codes.fill(UNKNOWN);
        codes[..state.codes.len()].copy_from_slice(&state.codes);
        Ok(Partial::new(self.taken(id)?, codes))
    }

    fn fork(&mut self, parent: CandidateId, seeds: &[u64], out: &mut [CandidateId]) -> Result<()> {
        let state = self.state("fork", parent)?.clone();
        self.admit("fork", &state, seeds, out)
    }

    fn step(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.alive("step", ids)?;
        let mut after = Vec::with_capacity(ids.len());
        for &id in ids {
            let state = self.state("step", id)?;
            if state.codes.len() == PLACES {
                return Err(Error::Finished {
                    id: id.0,
                    steps: self.steps(),
                });
            }
            after.push((id, self.row(state)?));
        }
        // All or nothing.
        self.states.extend(after);
        Ok(())
    }

    fn taken(&self, id: CandidateId) -> Result<u32> {
        Ok((self.state("taken", id)?.codes.len() / SIDE) as u32)
    }

    fn observe(&mut self, ids: &[CandidateId], needs: Needs, out: &mut Views<'_>) -> Result<()> {
        self.alive("observe", ids)?;
        if needs.hidden {
            return Err(Error::Unsupported {
                what: "looking at hidden rows",
            });
        }
        let mut seen = Vec::with_capacity(ids.len() * PLACES);
        for &id in ids {
            let codes = &self.state("observe", id)?.codes;
            let Some(&last) = codes.last() else {
                return Err(Error::foreign("nothing is drawn yet"));
            };
            seen.extend(codes);
            // What is not drawn yet is predicted as the last code.
            seen.resize(seen.len().next_multiple_of(PLACES), last);
        }
        let short = |arg, got, want| Error::Length {
            op: "observe",
            arg,
            got,
            want,
        };
        let codes = out.codes.as_deref_mut().unwrap_or_default();
        let pixels = out.pixels.as_deref_mut().unwrap_or_default();
        if needs.codes && codes.len() < seen.len() {
            return Err(short("codes", codes.len(), seen.len()));
        }
        if needs.pixels && pixels.len() < 3 * seen.len() {
            return Err(short("pixels", pixels.len(), 3 * seen.len()));
        }
        if needs.codes {
            codes[..seen.len()].copy_from_slice(&seen);
        }
        if needs.pixels {
            for (pixel, &code) in pixels.chunks_exact_mut(3).zip(&seen) {
                pixel.fill(code as u8 * 17);
            }
        }
        Ok(())
    }

    fn prune(&mut self, ids: &[CandidateId]) -> Result<()> {
        self.alive("prune", ids)?;
        for id in ids {
            self.states.remove(id);
        }
        Ok(())
    }
}

//! A step whose draws are given, for comparison with a reference implementation.

use alloc::vec;
use alloc::vec::Vec;

use super::{PrefixReader, RasterModel, RasterSession};
use crate::codes::Code;
use crate::error::{Error, Result, covers};
use crate::generator::CandidateId;
use crate::ops::Backend;
use crate::ops::sample::{Draw, DrawShape};

/// How one code is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Given<'a> {
    /// With this exponential noise, `[codebook]`.
    Noise(&'a [f32]),
    /// It is this code, whatever the logits say.
    Code(Code),
}

/// One code and everything that led to it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct GivenCode {
    /// Conditional logits `[codebook]`.
    pub conditional: Vec<f32>,
    /// Unconditional logits; empty where the code was not guided.
    pub unconditional: Vec<f32>,
    /// Logits after guidance.
    pub guided: Vec<f32>,
    /// Probabilities after temperature, top-k and top-p.
    pub p: Vec<f32>,
    /// The code.
    pub code: Code,
}

impl<B: Backend, M: RasterModel<B>, P: PrefixReader<B>> RasterSession<B, M, P> {
    /// One step of one candidate with given draws, one a code of the step.
    ///
    /// # Errors
    /// As [`Generator::step`](crate::Generator::step), a draw of another length, or a code outside the codebook.
    pub fn step_given(&mut self, id: CandidateId, draws: &[Given<'_>]) -> Result<Vec<GivenCode>> {
        let at = self.at("step", id)?;
        let v = self.model.codebook();
        let (step, from) = (self.candidates[at].step, self.candidates[at].drawn);
        self.source_of_next(at, 0)?;
        let count = self.layout.drawn(step + 1) - from;
        covers("step", "draws", draws.len(), count)?;
        self.make_room(at, self.layout.halves, from..from + count)?;
        let mut out = Vec::new();
        for (ahead, draw) in draws.iter().enumerate().take(count) {
            let source = self.source_of_next(at, ahead)?;
            // The codes are the caller's, not a step's.
            self.host.owners.clear();
            self.drawing(|s| s.predict(&[at], ahead, source))?;
            let b = &**self.model.backend();
            let mut given = GivenCode {
                conditional: vec![0.0; v],
                guided: vec![0.0; v],
                p: vec![0.0; v],
                ..GivenCode::default()
            };
            b.read(&self.memory.logits, 0, &mut given.conditional)?;
            if self.sequences(source) == 2 {
                given.unconditional = vec![0.0; v];
                b.read(&self.memory.logits, v, &mut given.unconditional)?;
            }
            self.guide(1, source)?;
            let b = &**self.model.backend();
            b.read(&self.memory.logits, 0, &mut given.guided)?;
            self.filter(1)?;
            given.code = self.draw_given(draw)?;
            self.model
                .backend()
                .read(&self.memory.logits, 0, &mut given.p)?;
            self.candidates[at].codes[from + ahead] = given.code;
            out.push(given);
        }
        let c = &mut self.candidates[at];
        (c.step, c.drawn) = (step + 1, from + count);
        Ok(out)
    }

    fn draw_given(&mut self, draw: &Given<'_>) -> Result<Code> {
        let (b, m, v) = (
            &**self.model.backend(),
            &mut self.memory,
            self.model.codebook(),
        );
        let mut noise = b.zeros(v)?;
        match *draw {
            Given::Noise(given) => {
                covers("step", "noise", given.len(), v)?;
                b.write(&mut noise, 0, &given[..v])?;
            }
            Given::Code(code) if code as usize >= v => {
                return Err(Error::Range {
                    op: "step",
                    arg: "code",
                    got: u64::from(code),
                    min: 0,
                    max: v as u64 - 1,
                });
            }
            Given::Code(_) => b.write(&mut noise, 0, &vec![1.0; v])?,
        }
        b.draw(
            DrawShape { rows: 1, width: v },
            &mut m.logits,
            &Draw::Given(&noise),
            &mut m.drawn,
            &mut m.p,
        )?;
        let mut code = [0];
        b.read(&m.drawn, 0, &mut code)?;
        Ok(match *draw {
            Given::Code(code) => code,
            Given::Noise(_) => code[0],
        })
    }
}

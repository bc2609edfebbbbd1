//! Generators that draw code after code as models to be trained, and their examples.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::parameters::zeros;
use crate::codes::Code;
use crate::error::{Error, Result, covers, product};
use crate::model::learner::{Example, Head, Input, Learner, Scope};
use crate::model::raster::{PrefixReader, RasterBackward};
use crate::model::transformer::{BlockNames, Stack};
use crate::ops::Backward;

/// A raster generator, trained by adapters: the rows that enter its stack are made ahead.
#[derive(Debug)]
pub struct RasterLearner<M>(pub Arc<M>);

impl<B: Backward, M: RasterBackward<B>> Learner<B> for RasterLearner<M> {
    fn backend(&self) -> &Arc<B> {
        self.0.backend()
    }

    fn stack(&self) -> &Stack<B> {
        self.0.stack()
    }

    fn stack_mut(&mut self) -> Result<&mut Stack<B>> {
        Err(Error::Unsupported {
            what: "training all weights of a raster generator",
        })
    }

    fn block_names(&self, layer: usize) -> BlockNames {
        self.0.block_names(layer)
    }

    fn head(&self, scope: Scope) -> Result<Head<'_, B>> {
        match scope {
            Scope::Codes => Ok(self.0.code_head()),
            Scope::Vocabulary => self.0.text_head().ok_or(Error::Unsupported {
                what: "labels that are no codes, of a raster generator that writes no text",
            }),
        }
    }

    fn embed(&self, _: usize, _: &B::Buffer<u32>, _: &mut B::Buffer<f32>) -> Result<()> {
        Err(Error::Unsupported {
            what: "tokens as the input of a raster generator",
        })
    }
}

/// A whole picture after its prefix: each code is the label of the row before it. `words` are the prefix as
/// [`PrefixReader::read`] gives it.
///
/// # Errors
/// A picture of another size than the grid, a code outside the codebook, a prefix that is empty or too long, or no
/// memory.
pub fn example<B: Backward, M: RasterBackward<B>>(
    model: &M,
    reader: &mut dyn PrefixReader<B>,
    words: &[u32],
    codes: &[Code],
) -> Result<Example> {
    const OP: &str = "example";
    let (b, width, limit) = (
        &**model.backend(),
        model.stack().config().width,
        model.prefix_limit(),
    );
    let [r, c] = model.grid();
    let cells = product(OP, &[r, c])?;
    covers(OP, "codes", codes.len(), cells)?;
    covers(OP, "codes", cells, codes.len())?;
    if let Some(&code) = codes
        .iter()
        .find(|&&code| code as usize >= model.codebook())
    {
        return Err(Error::Range {
            op: OP,
            arg: "code",
            got: u64::from(code),
            min: 0,
            max: model.codebook().saturating_sub(1) as u64,
        });
    }
    let fed = codes.len().saturating_sub(1);
    let mut prefix = b.zeros(product(OP, &[limit, width])?)?;
    let len = reader.write(words, &mut prefix)?;
    if len == 0 || len > limit {
        return Err(Error::PromptTooLong {
            got: len,
            max: limit,
        });
    }
    let mut rows = zeros(product(OP, &[len + fed, width])?)?;
    b.read(&prefix, 0, &mut rows[..len * width])?;
    if fed > 0 {
        let (mut ids, mut x) = (b.zeros(fed)?, b.zeros(product(OP, &[fed, width])?)?);
        let mut scratch = b.zeros(product(OP, &[fed, model.scratch()])?)?;
        b.write(&mut ids, 0, &codes[..fed])?;
        model.embed(fed, &ids, &mut scratch, &mut x)?;
        b.read(&x, 0, &mut rows[len * width..])?;
    }
    let first = u32::try_from(len - 1).map_err(|_| Error::Overflow { op: OP })?;
    Ok(Example {
        input: Input::Rows(rows),
        positions: (0..len)
            .map(|i| model.prefix_position(i))
            .chain((0..fed).map(|place| model.position(len, place)))
            .collect(),
        causal: len + fed,
        rows: (first..).take(codes.len()).collect(),
        labels: Vec::from(codes),
        scope: Scope::Codes,
    })
}

//! What a session of the judge may be told.

use crate::ops::attention::KvFormat;

/// How an answer is read from the logits of the first answer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reader {
    /// P(yes) and P(no) among all tokens; the likelier of the two is the answer.
    #[default]
    Exact,
    /// P(yes) and P(no) among these two: the head has two rows, the vocabulary is never multiplied.
    TwoRows,
    /// As the released search reads it: top-k 20, top-p 0.8, then one token is drawn, keyed by the view; the
    /// probabilities are those after filtering.
    Upstream {
        /// Seed of the draws.
        seed: u64,
    },
}

/// Sizes of a session's memory, and how it reads answers.
///
/// ```
/// use maquette::model::llava::{JudgeOptions, Reader};
/// let options = JudgeOptions::default().with_views(8).with_reader(Reader::TwoRows);
/// assert_eq!((options.max_views, options.remembered), (8, 20));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct JudgeOptions {
    /// Views that are judged in one batch; a longer question is cut into batches with the same verdicts. Memory of a
    /// pass grows with it, by a third of a GB a view in the released 7B judge.
    pub max_views: usize,
    /// Views whose rows are kept; at least `max_views`. A new view takes the place of the one unused longest. In the
    /// released 7B judge, a row takes 115 kB and a view of 730 rows with a question of 100 tokens 95 MB.
    pub remembered: usize,
    /// Most tokens before the picture, and most tokens after it.
    pub max_tokens: usize,
    /// Most rows of one picture; 0 for as many as any picture can have.
    pub image_rows: usize,
    /// How an answer is read.
    pub reader: Reader,
    /// How keys and values are kept, those of the image tower included. In halves of floats they take half the room, and a
    /// GPU attends to them on tensor cores; probabilities move a little.
    pub kv: KvFormat,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self {
            max_views: 20,
            remembered: 20,
            max_tokens: 256,
            image_rows: 0,
            reader: Reader::Exact,
            kv: KvFormat::F32,
        }
    }
}

impl JudgeOptions {
    /// The same with another reader.
    #[must_use]
    pub const fn with_reader(mut self, reader: Reader) -> Self {
        self.reader = reader;
        self
    }

    /// The same with keys and values kept in another way.
    #[must_use]
    pub const fn with_kv(mut self, kv: KvFormat) -> Self {
        self.kv = kv;
        self
    }

    /// The same with another batch size; as many views are remembered at least.
    #[must_use]
    pub const fn with_views(mut self, max_views: usize) -> Self {
        self.max_views = max_views;
        if self.remembered < max_views {
            self.remembered = max_views;
        }
        self
    }

    /// The same with the rows of so many views kept, at least those of a batch.
    #[must_use]
    pub const fn with_remembered(mut self, views: usize) -> Self {
        self.remembered = if views < self.max_views {
            self.max_views
        } else {
            views
        };
        self
    }

    /// The same with another number of tokens on each side of the picture.
    #[must_use]
    pub const fn with_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// The same with room for pictures of so many rows.
    #[must_use]
    pub const fn with_image_rows(mut self, image_rows: usize) -> Self {
        self.image_rows = image_rows;
        self
    }
}

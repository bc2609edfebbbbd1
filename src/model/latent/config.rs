//! The shape of a latent head.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::ops::reward_head::PoolShape;
use crate::reward::Judgement;

/// Shape of a latent head.
///
/// ```
/// use maquette::Judgement;
/// use maquette::model::latent::LatentConfig;
/// let config = LatentConfig::new(64, 128).with_codes(1024);
/// assert!(config.check().is_ok() && config.question(Judgement::Clarity).is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatentConfig {
    /// Places of a grid: hidden rows of a view.
    pub places: usize,
    /// Width of a hidden row.
    pub hidden_size: usize,
    /// Codes of the generator's codebook, 0 for a head that looks at hidden rows alone.
    pub codebook_size: usize,
    /// Width of the head's own rows.
    pub width: usize,
    /// Heads that pool the rows of a view.
    pub pool_heads: usize,
    /// Values that each of them takes from a row.
    pub pool_head_dim: usize,
    /// Inner width of the MLP.
    pub mlp_width: usize,
    /// What is answered, in the order of the answers.
    pub questions: Vec<Judgement>,
}

impl LatentConfig {
    /// A head of 48 wide rows for a generator, which answers all questions from hidden rows alone.
    #[must_use]
    pub fn new(places: usize, hidden_size: usize) -> Self {
        Self {
            places,
            hidden_size,
            codebook_size: 0,
            width: 48,
            pool_heads: 8,
            pool_head_dim: 16,
            mlp_width: 64,
            questions: Judgement::ALL.into(),
        }
    }

    /// Looks at codes as well.
    #[must_use]
    pub fn with_codes(mut self, codebook_size: usize) -> Self {
        self.codebook_size = codebook_size;
        self
    }

    /// Reads a `config.json`. Its `questions` are one text, names apart by spaces.
    ///
    /// # Errors
    /// A missing key or one of the wrong type, or a shape that [`check`](Self::check) refuses.
    #[cfg(feature = "safetensors")]
    pub fn from_json(json: &crate::model::files::config::JsonConfig) -> Result<Self> {
        let unknown = Error::Config {
            key: "questions",
            problem: "is no text of outcome, process, clarity and potential",
        };
        let mut questions = Vec::new();
        for word in json.text("questions").unwrap_or_default().split(' ') {
            match word.parse() {
                Ok(question) => questions.push(question),
                Err(_) => return Err(unknown),
            }
        }
        let config = Self {
            places: json.size("places")?,
            hidden_size: json.size("hidden_size")?,
            codebook_size: json.size_or("codebook_size", 0)?,
            width: json.size("width")?,
            pool_heads: json.size("pool_heads")?,
            pool_head_dim: json.size("pool_head_dim")?,
            mlp_width: json.size("mlp_width")?,
            questions,
        };
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json`.
    #[must_use]
    pub fn to_json(&self) -> alloc::string::String {
        let names: Vec<&str> = self.questions.iter().map(|one| one.name()).collect();
        alloc::format!(
            "{{\n \"model\": \"latent-head\",\n \"places\": {},\n \"hidden_size\": {},\n \"codebook_size\": {},\n \
             \"width\": {},\n \"pool_heads\": {},\n \"pool_head_dim\": {},\n \"mlp_width\": {},\n \"questions\": \"{}\"\n}}\n",
            self.places,
            self.hidden_size,
            self.codebook_size,
            self.width,
            self.pool_heads,
            self.pool_head_dim,
            self.mlp_width,
            names.join(" ")
        )
    }

    /// Fails for sizes out of range and for questions that are none or stand twice.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        for (arg, got, min, max) in [
            ("places", self.places, 1, 1 << 16),
            ("hidden_size", self.hidden_size, 1, 1 << 20),
            ("codebook_size", self.codebook_size, 0, 1 << 24),
            ("width", self.width, 1, 1 << 16),
            ("pool_heads", self.pool_heads, 1, 1 << 10),
            ("pool_head_dim", self.pool_head_dim, 1, 1 << 10),
            ("mlp_width", self.mlp_width, 1, 1 << 16),
        ] {
            if !(min..=max).contains(&got) {
                return Err(Error::Range {
                    op: super::OP,
                    arg,
                    got: got as u64,
                    min: min as u64,
                    max: max as u64,
                });
            }
        }
        let twice = |i: usize| self.questions[..i].contains(&self.questions[i]);
        if self.questions.is_empty() || (0..self.questions.len()).any(twice) {
            return Err(Error::Config {
                key: "questions",
                problem: "names none, or one twice",
            });
        }
        Ok(())
    }

    /// Whether codes are looked at.
    #[must_use]
    pub const fn reads_codes(&self) -> bool {
        self.codebook_size > 0
    }

    /// Names and sizes of the tensors.
    #[must_use]
    pub fn tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        let pool = self.pool_heads.saturating_mul(1 + self.pool_head_dim);
        let matrix = |name, n: usize, k: usize| (name, Vec::from([n, k]));
        let bias = |name, n: usize| (name, Vec::from([n]));
        let mut all = Vec::from([
            matrix("rows.weight", self.width, self.hidden_size),
            bias("rows.bias", self.width),
            matrix("places.weight", self.places, self.width),
            matrix("pool.weight", pool, self.width),
            bias("pool.bias", pool),
            matrix("mlp.weight", self.mlp_width, self.pooled()),
            bias("mlp.bias", self.mlp_width),
            matrix("answers.weight", self.logits(), self.mlp_width),
            bias("answers.bias", self.logits()),
        ]);
        if self.reads_codes() {
            all.push(matrix("codes.weight", self.codebook_size, self.width));
        }
        all
    }

    /// The place of a question among the answers.
    #[must_use]
    pub fn question(&self, judgement: Judgement) -> Option<usize> {
        self.questions.iter().position(|&one| one == judgement)
    }

    /// Width of a pooled row.
    pub(super) const fn pooled(&self) -> usize {
        self.pool_heads * self.pool_head_dim
    }

    /// Logits of a view.
    pub(super) fn logits(&self) -> usize {
        2 * self.questions.len()
    }

    pub(super) const fn pool_shape(&self, views: usize) -> PoolShape {
        PoolShape {
            views,
            rows: self.places,
            heads: self.pool_heads,
            head_dim: self.pool_head_dim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_out_of_range_and_repeated_questions_are_named() {
        let good = LatentConfig::new(4, 8).with_codes(16);
        assert!(good.check().is_ok());
        let range = |change: fn(&mut LatentConfig)| {
            let mut config = good.clone();
            change(&mut config);
            match config.check() {
                Err(Error::Range { arg, .. }) => arg,
                Err(Error::Config { key, .. }) => key,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(range(|c| c.places = 0), "places");
        assert_eq!(range(|c| c.width = 1 << 20), "width");
        assert_eq!(range(|c| c.questions.clear()), "questions");
        assert_eq!(range(|c| c.questions.push(Judgement::Clarity)), "questions");
    }

    #[cfg(feature = "safetensors")]
    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        use crate::model::files::config::JsonConfig;
        let mut config = LatentConfig::new(4, 8).with_codes(16);
        config.questions.remove(1);
        let text = config.to_json();
        let read = |text: &str| LatentConfig::from_json(&JsonConfig::parse(text).unwrap());
        assert_eq!(read(&text).unwrap(), config);
        for (from, to) in [
            ("outcome", "outcomes"),
            ("\"places\": 4", "\"places\": 0"),
            ("\"width\"", "\"breadth\""),
        ] {
            assert!(read(&text.replace(from, to)).is_err(), "{to}");
        }
    }
}

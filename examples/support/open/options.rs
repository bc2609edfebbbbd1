//! How pictures are drawn: settings that are left out are the model's own.

use clap::{Args, ValueEnum};
use maquette::model::raster::{Preview, RasterOptions};
use maquette::model::show_o::{ShowOOptions, TemperaturePolicy};
use serde_json::{Value, json};

use super::Res;
use crate::precision::Kv;

/// Which candidates choose their masks with noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Every candidate anneals by the cumulative product.
    Reset,
    /// Only the first candidate anneals, as the released scripts do.
    Upstream,
    /// Every candidate anneals linearly.
    Linear,
}

/// What is seen where no code is drawn yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Unseen {
    /// The last code drawn in the same column.
    RepeatRow,
    /// The mean of the codebook.
    Mean,
    /// A latent of zeros.
    Zeros,
    /// Grey.
    Grey,
}

/// Settings of a generator.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Generator steps of a picture. [default: 18 for Show-o; the others take a row of the grid a step, and with fewer
    /// steps several]
    #[arg(long)]
    steps: Option<u32>,
    /// Guidance scale s of uncond + s · (cond − uncond); Show-o quotes w = s − 1. [default: 3 for the bundled Show-o, 2.75
    /// for any other, LlamaGen 7.5 for text and 4 for classes, Janus 5]
    #[arg(long)]
    pub guidance: Option<f32>,
    /// Temperature of the draws; of the mask choice for Show-o. [default: 1]
    #[arg(long)]
    temperature: Option<f32>,
    /// Draw from so many of the likeliest codes, 0 for all; not for Show-o. [default: LlamaGen 1000 for text and 2000 for
    /// classes, Janus 0]
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the likeliest codes of this total probability; not for Show-o. [default: 1]
    #[arg(long)]
    top_p: Option<f32>,
    /// What is seen where no code is drawn yet; not for Show-o. [default: repeat-row]
    #[arg(long, value_enum)]
    preview: Option<Unseen>,
    /// How keys and values are kept. [default: f32]
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// Pages of keys and values for all candidates, 32 codes each; not for Show-o. Candidates that were forked share them
    /// until they part. [default: as many as candidates without anything in common need]
    #[arg(long)]
    pages: Option<usize>,
    /// Which candidates choose their masks with noise; for Show-o alone. [default: reset]
    #[arg(long, value_enum)]
    temperature_policy: Option<Policy>,
}

/// Fails if a setting was given that the model does not have.
fn lacks(model: &str, given: &[(&str, bool)]) -> Res<()> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(format!("--{name} is no setting of {model}").into()),
        None => Ok(()),
    }
}

impl Options {
    fn check(&self) -> Res<()> {
        if self
            .temperature
            .is_some_and(|t| !(t >= 0.0 && t.is_finite()))
        {
            return Err("--temperature is a number of zero or more".into());
        }
        if self.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return Err("--top-p is above zero and at most one".into());
        }
        Ok(())
    }

    /// The settings of a Show-o.
    pub fn show_o(&self) -> Res<ShowOOptions> {
        self.check()?;
        let others = [
            ("top-k", self.top_k.is_some()),
            ("top-p", self.top_p.is_some()),
            ("preview", self.preview.is_some()),
            ("pages", self.pages.is_some()),
        ];
        lacks("a Show-o", &others)?;
        let mut o = ShowOOptions::default();
        o.steps = self.steps.unwrap_or(o.steps);
        o.guidance_scale = self.guidance.unwrap_or(o.guidance_scale);
        o.temperature = self.temperature.unwrap_or(o.temperature);
        o.kv = self.kv.map_or(o.kv, Kv::format);
        o.temperature_policy = match self.temperature_policy {
            None | Some(Policy::Reset) => TemperaturePolicy::Reset,
            Some(Policy::Upstream) => TemperaturePolicy::Upstream,
            Some(Policy::Linear) => TemperaturePolicy::Linear,
        };
        Ok(o)
    }

    /// The settings of a model that draws a grid of `rows` × `cols` codes in turn, from those of its released script.
    pub fn raster(&self, mut o: RasterOptions, [rows, cols]: [usize; 2]) -> Res<RasterOptions> {
        self.check()?;
        let others = [("temperature-policy", self.temperature_policy.is_some())];
        lacks("a model that draws code by code", &others)?;
        if let Some(steps) = self.steps {
            let steps = steps as usize;
            let each = rows.div_ceil(steps.max(1));
            if steps == 0 || rows.div_ceil(each) != steps {
                return Err(
                    format!("{rows} rows cannot be drawn in {steps} steps of whole rows").into(),
                );
            }
            o.tokens_per_step = Some(each * cols);
        }
        o.guidance_scale = self.guidance.unwrap_or(o.guidance_scale);
        o.filter.temperature = self.temperature.unwrap_or(o.filter.temperature);
        o.filter.top_k = self.top_k.unwrap_or(o.filter.top_k);
        o.filter.top_p = self.top_p.unwrap_or(o.filter.top_p);
        o.kv = self.kv.map_or(o.kv, Kv::format);
        o.pages = self.pages.or(o.pages);
        o.preview = match self.preview {
            None => o.preview,
            Some(Unseen::RepeatRow) => Preview::RepeatRow,
            Some(Unseen::Mean) => Preview::Mean,
            Some(Unseen::Zeros) => Preview::Zeros,
            Some(Unseen::Grey) => Preview::Grey,
        };
        Ok(o)
    }
}

/// The settings of a Show-o that decide what is drawn.
pub fn describe_show_o(o: &ShowOOptions) -> Value {
    json!({
        "steps": o.steps, "guidance_scale": o.guidance_scale, "temperature": o.temperature,
        "temperature_policy": format!("{:?}", o.temperature_policy).to_lowercase(), "kv": o.kv.name(),
    })
}

/// The settings of a model that draws code by code that decide what is drawn.
pub fn describe_raster(o: &RasterOptions, [rows, cols]: [usize; 2]) -> Value {
    let preview = match o.preview {
        Preview::Mean => "mean",
        Preview::Zeros => "zeros",
        Preview::Grey => "grey",
        _ => "repeat-row",
    };
    let each = o.tokens_per_step.map_or(1, |n| n / cols.max(1)).max(1);
    json!({
        "steps": rows.div_ceil(each), "guidance_scale": o.guidance_scale, "temperature": o.filter.temperature,
        "top_k": o.filter.top_k, "top_p": o.filter.top_p, "preview": preview,
        "kv": o.kv.name(),
    })
}

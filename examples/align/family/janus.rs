//! Janus: code after code, and its own judge.

use std::path::Path;
use std::sync::Arc;

use maquette::align::Limits;
use maquette::align::annotation::Trajectory;
use maquette::align::masked::PairConfig;
use maquette::align::raster::{RasterLearner, example};
use maquette::error::Error;
use maquette::model::janus::{Janus, JanusConfig, JanusReader};
use maquette::model::learner::Example;
use maquette::model::llava::JudgeOptions;
use maquette::model::raster::{PrefixReader, RasterModel};
use maquette::model::words::Words;
use maquette::ops::Backward;
use maquette::{Code, Generator, Prompt, RewardModel};

use super::{Adapters, Family, Home, Pair, Picture};
use crate::Res;

#[derive(Debug)]
pub struct JanusFamily<B: Backward> {
    home: Home<B>,
    config: JanusConfig,
    /// Without adapters.
    base: Arc<Janus<B>>,
    reader: JanusReader<B, Arc<Words>>,
}

impl<B: Backward + 'static> JanusFamily<B> {
    /// Plans are the likeliest words, unless they are `drawn` among all.
    pub fn open(home: Home<B>, drawn: bool) -> Res<Self> {
        let mut config = JanusConfig::from_json(&home.folder.config)?.with_tokenizer(&home.words);
        if drawn {
            config.plan_filter.top_k = 0;
        }
        let (device, format) = (Arc::clone(&home.device), home.format);
        let base = home.read(None, |source| {
            Janus::load(device, config.clone(), source, format)
        })?;
        let base = Arc::new(base);
        Ok(Self {
            reader: base.reader(Arc::clone(&home.words))?,
            home,
            config,
            base,
        })
    }

    fn example(&mut self, prompt: &Prompt<'_>, codes: &[Code]) -> maquette::Result<Example> {
        let prefix = self.reader.read(prompt)?;
        example(&*self.base, &mut self.reader, &prefix.conditional, codes)
    }
}

impl<B: Backward + 'static> Family for JanusFamily<B> {
    type Device = B;
    type Learner = RasterLearner<Janus<B>>;

    fn learner(&self) -> Res<Self::Learner> {
        Ok(RasterLearner(Arc::clone(&self.base)))
    }

    fn limits(&self) -> Limits {
        let [rows, cols] = self.base.grid();
        Limits {
            rows: self.base.prefix_limit() + rows * cols,
            labels: rows * cols,
        }
    }

    fn targets(&self) -> &'static str {
        "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    }

    fn pair(&mut self, _: &PairConfig, at: usize, pair: &Pair) -> maquette::Result<[Example; 2]> {
        if pair.chosen == pair.rejected {
            return Err(Error::Example {
                op: "preference",
                at,
                problem: "has two pictures that are the same: none is preferred",
            });
        }
        let prompt = Prompt::new(&pair.prompt);
        Ok([
            self.example(&prompt, &pair.chosen)?,
            self.example(&prompt, &pair.rejected)?,
        ])
    }

    fn picture(
        &mut self,
        _: &PairConfig,
        _: usize,
        picture: &Picture,
    ) -> maquette::Result<Example> {
        self.example(&Prompt::new(&picture.prompt), &picture.codes)
    }

    fn passes(
        &mut self,
        prompt: &Prompt<'_>,
        drawn: &Trajectory,
    ) -> maquette::Result<Vec<Example>> {
        Ok(vec![self.example(prompt, drawn.codes())?])
    }

    fn plan(&mut self, prompt: &str, plan: &str) -> maquette::Result<Example> {
        self.reader.plan_example(&Prompt::new(prompt), plan)
    }

    fn session(
        &self,
        adapters: Option<Adapters<'_>>,
        candidates: usize,
    ) -> Res<Box<dyn Generator>> {
        let model = match adapters {
            None => Arc::clone(&self.base),
            some => {
                let (device, format) = (Arc::clone(&self.home.device), self.home.format);
                let config = self.config.clone();
                let load = |source: &dyn maquette::model::weights::WeightSource| {
                    Janus::load(device, config, source, format)
                };
                Arc::new(self.home.read(some, load)?)
            }
        };
        let mut options = self.config.options();
        options.guidance_scale = self.home.guidance.unwrap_or(options.guidance_scale);
        (options.candidates, options.batch) = (candidates, candidates.min(options.batch));
        Ok(Box::new(model.draw(Arc::clone(&self.home.words), options)?))
    }

    fn judge(&self, dir: Option<&Path>, views: usize) -> Res<Box<dyn RewardModel>> {
        if dir.is_some() {
            return Err("--judge-dir: a Janus judges for itself".into());
        }
        let options = JudgeOptions::default().with_views(views);
        let words = Arc::clone(&self.home.words);
        Ok(Box::new(self.base.judge(words, options)?))
    }

    fn home(&self) -> &Home<B> {
        &self.home
    }
}

//! Show-o: masked pictures.

use std::f64::consts::FRAC_PI_2;
use std::path::Path;
use std::sync::Arc;

use maquette::align::Limits;
use maquette::align::annotation::Trajectory;
use maquette::align::masked::{PairConfig, Preference};
use maquette::codes::{Code, UNKNOWN};
use maquette::model::files::map::ModelFolder;
use maquette::model::learner::Example;
use maquette::model::llava::{JudgeOptions, Llava, LlavaConfig, LlavaSession};
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOLearner, ShowOOptions, ShowOSession};
use maquette::ops::Backward;
use maquette::prompt::{TokenId, Tokenize};
use maquette::quant::Format;
use maquette::{Generator, Prompt, RewardModel};
use support::open::bundled;

use super::{Adapters, Family, Home, Pair, Picture, words};
use crate::Res;
use crate::online::seed;

#[derive(Debug)]
pub struct ShowOFamily<B: Backward> {
    home: Home<B>,
    config: ShowOConfig,
    pixels: Arc<Magvit<B>>,
}

impl<B: Backward + 'static> ShowOFamily<B> {
    pub fn open(home: Home<B>, tokenizer: Option<&Path>) -> Res<Self> {
        let path = tokenizer.map_or_else(|| bundled("magvitv2"), Path::to_owned);
        let folder = ModelFolder::open(path)?;
        let config = MagvitConfig::from_json(&folder.config)?;
        let device = Arc::clone(&home.device);
        let pixels = folder
            .weights
            .read(|source| Magvit::load(device, config, source, Format::F32))?;
        Ok(Self {
            config: ShowOConfig::from_json(&home.folder.config)?,
            pixels: Arc::new(pixels),
            home,
        })
    }

    fn text(&self, prompt: &str) -> maquette::Result<Vec<TokenId>> {
        let mut tokens = Vec::new();
        self.home
            .words
            .encode(prompt, &mut |token| tokens.push(token))?;
        Ok(self.config.text_tokens(&tokens))
    }
}

impl<B: Backward + 'static> Family for ShowOFamily<B> {
    type Device = B;
    type Learner = ShowOLearner<B>;

    fn learner(&self) -> Res<Self::Learner> {
        let (device, format) = (Arc::clone(&self.home.device), self.home.format);
        Ok(self.home.read(None, |source| {
            let model = ShowO::load(device, self.config.clone(), source, format)?;
            ShowOLearner::load(Arc::new(model), source, format)
        })?)
    }

    fn limits(&self) -> Limits {
        Limits {
            rows: self.config.text_rows() + self.config.image_rows(),
            labels: self.config.image_rows(),
        }
    }

    fn targets(&self) -> &'static str {
        "q_proj,k_proj,v_proj,dense,fc1,fc2"
    }

    fn pair(
        &mut self,
        draws: &PairConfig,
        at: usize,
        pair: &Pair,
    ) -> maquette::Result<[Example; 2]> {
        let pair = Preference {
            text: self.text(&pair.prompt)?,
            chosen: pair.chosen.clone(),
            rejected: pair.rejected.clone(),
        };
        self.config.preference(draws, at, &pair)
    }

    fn picture(
        &mut self,
        draws: &PairConfig,
        at: usize,
        picture: &Picture,
    ) -> maquette::Result<Example> {
        let text = self.text(&picture.prompt)?;
        self.config.picture(draws, at, &text, &picture.codes)
    }

    fn passes(
        &mut self,
        prompt: &Prompt<'_>,
        drawn: &Trajectory,
    ) -> maquette::Result<Vec<Example>> {
        let text = self.text(prompt.text())?;
        self.config.trajectory(&text, &drawn.states, drawn.codes())
    }

    /// As many are open as the released schedule leaves, each set of them as likely as any other.
    fn begun(
        &self,
        codes: &[Code],
        [step, steps]: [u32; 2],
        of: u64,
    ) -> maquette::Result<Vec<Code>> {
        let share = f64::from(step) / f64::from(steps.max(1));
        let open = (codes.len() as f64 * (FRAC_PI_2 * share).cos()) as usize;
        let mut places: Vec<usize> = (0..codes.len()).collect();
        places.sort_by_cached_key(|&place| seed(of, [place as u32, 0, 0]));
        let mut codes = codes.to_vec();
        for &place in places.iter().take(open.max(1)) {
            codes[place] = UNKNOWN;
        }
        Ok(codes)
    }

    fn session(
        &self,
        adapters: Option<Adapters<'_>>,
        candidates: usize,
    ) -> Res<Box<dyn Generator>> {
        let (device, format) = (Arc::clone(&self.home.device), self.home.format);
        let config = self.config.clone();
        let model = self.home.read(adapters, |source| {
            ShowO::load(device, config, source, format)
        })?;
        let mut options = ShowOOptions::default();
        options.guidance_scale = self.home.guidance.unwrap_or(options.guidance_scale);
        (options.candidates, options.batch) = (candidates, candidates.min(options.batch));
        let words = Arc::clone(&self.home.words);
        let pixels = Arc::clone(&self.pixels);
        let session = ShowOSession::new(Arc::new(model), pixels, words, options)?;
        Ok(Box::new(session))
    }

    fn judge(&self, dir: Option<&Path>, views: usize) -> Res<Box<dyn RewardModel>> {
        let path = dir.map_or_else(|| bundled("judge"), Path::to_owned);
        let folder = ModelFolder::open(&path)?;
        let config = LlavaConfig::from_json(&folder.config)?;
        let device = Arc::clone(&self.home.device);
        let model = folder
            .weights
            .read(|source| Llava::load(device, config, source, Format::F32))?;
        let options = JudgeOptions::default().with_views(views);
        let session = LlavaSession::new(Arc::new(model), words(&path)?, options)?;
        Ok(Box::new(session))
    }

    fn home(&self) -> &Home<B> {
        &self.home
    }
}

//! What may be used by several threads, and what may go from one to another: checked when this is compiled.

use std::sync::Arc;

use maquette::combine::{Cached, Cascade, Mean, Split};
use maquette::cpu::Cpu;
use maquette::model::files::gguf::GgufSource;
use maquette::model::files::map::{MappedFile, MappedWeights, ModelFolder};
use maquette::model::files::maquette::MaquetteSource;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::files::tokenizer::Tokenizer;
use maquette::model::files::torch::TorchSource;
use maquette::model::janus::{Janus, JanusSession};
use maquette::model::latent::{LatentHead, LatentSession};
use maquette::model::llamagen::{LlamaGen, LlamaGenSession};
use maquette::model::llava::{Llava, LlavaSession};
use maquette::model::magvit::Magvit;
use maquette::model::show_o::{ShowO, ShowOSession};
use maquette::model::t5::T5;
use maquette::model::vq::Vq;
use maquette::model::words::Words;
use maquette::ops::Reference;
use maquette::parts::{Conjuncts, Inspector};
use maquette::search::{Adaptive, BestOfN, Budget, Halving, Parm, Plain, Prm, Reflect};
use maquette::testing::{OracleReward, ScriptedGenerator, ScriptedReward};
use maquette::{Cost, Decision, Error, Event, Prompt, RewardModel};

fn shared<T: Send + Sync>() {}
fn sent<T: Send>() {}

#[test]
fn weights_devices_and_files_are_shared() {
    shared::<Cpu>();
    shared::<Reference>();
    shared::<ShowO<Cpu>>();
    shared::<LlamaGen<Cpu>>();
    shared::<Janus<Cpu>>();
    shared::<Llava<Cpu>>();
    shared::<Magvit<Cpu>>();
    shared::<Vq<Cpu>>();
    shared::<T5<Cpu>>();
    shared::<LatentHead<Cpu>>();
    shared::<Words>();
    shared::<Tokenizer>();
    shared::<MappedFile>();
    shared::<MappedWeights>();
    shared::<ModelFolder>();
    shared::<MaquetteSource<'_>>();
    shared::<SafetensorsSource<'_>>();
    shared::<GgufSource<'_>>();
    shared::<TorchSource<'_>>();
    #[cfg(feature = "cuda")]
    shared::<maquette::cuda::Device>();
}

#[test]
fn errors_and_what_a_search_tells_are_shared() {
    shared::<Error>();
    shared::<Event<'_>>();
    shared::<Decision>();
    shared::<Cost>();
    shared::<Prompt<'_>>();
}

#[test]
fn sessions_judges_and_strategies_are_sent() {
    type Text = Arc<Words>;
    sent::<ShowOSession<Cpu, Text>>();
    sent::<LlamaGenSession<Cpu, Text>>();
    sent::<JanusSession<Cpu, Text>>();
    sent::<LlavaSession<Cpu>>();
    sent::<LatentSession<Cpu>>();
    sent::<Plain>();
    sent::<BestOfN>();
    sent::<Prm>();
    sent::<Parm>();
    sent::<Halving>();
    sent::<Budget<Adaptive<Reflect<Plain>>>>();
    type Judge = Box<dyn RewardModel + Send>;
    sent::<Mean<Judge>>();
    sent::<Cached<Judge>>();
    sent::<Cascade<Judge, Judge>>();
    sent::<Split<Judge, Judge>>();
    sent::<Inspector<Judge, Conjuncts>>();
    sent::<ScriptedGenerator>();
    sent::<ScriptedReward>();
    sent::<OracleReward>();
}

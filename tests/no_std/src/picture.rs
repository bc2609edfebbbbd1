//! One bundled picture, drawn without std.

use alloc::sync::Arc;
use alloc::vec;

use maquette::cpu::Cpu;
use maquette::generator::Needs;
use maquette::model::magvit::{Magvit, MagvitConfig};
use maquette::model::show_o::{ShowO, ShowOConfig, ShowOOptions, ShowOSession};
use maquette::model::words::Words;
use maquette::quant::Format;
use maquette::reward::Ask;
use maquette::rng::Stream;
use maquette::search::{Plain, SearchStrategy};
use maquette::{Error, Flow, Generator, Judgement, Prompt, Result, RewardModel, Verdict};

use crate::weights::Bytes;

static SHOW_O: &[u8] =
    include_bytes!("../../../examples/demo/weights/show-o/pytorch_model.safetensors");
static WORDS: &str = include_str!("../../../examples/demo/weights/show-o/vocab.txt");
static PIXELS: &[u8] =
    include_bytes!("../../../examples/demo/weights/magvitv2/pytorch_model.safetensors");

/// Nobody looks at a plain picture.
struct Nobody;

impl RewardModel for Nobody {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::NOTHING
    }
    fn judge(&mut self, _: &Ask<'_>, _: &mut [Verdict]) -> Result<()> {
        Err(Error::Unsupported { what: "judging" })
    }
}

/// Draws "a photo of a red car" and writes its codes; 1 on success.
///
/// # Safety
/// `codes` points to `len` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maquette_draw(seed: u64, codes: *mut u32, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    let codes = unsafe { core::slice::from_raw_parts_mut(codes, len) };
    i32::from(draw(seed, codes).is_ok())
}

fn draw(seed: u64, codes: &mut [u32]) -> Result<()> {
    let cpu = Arc::new(Cpu::new());
    let file = |bytes| Bytes::new(bytes).ok_or(Error::Unsupported { what: "this file" });
    // The configurations of examples/demo/weights, spelt out: reading JSON belongs to the feature `safetensors`.
    let mut shape = ShowOConfig::released();
    (
        shape.hidden_size,
        shape.num_hidden_layers,
        shape.num_attention_heads,
    ) = (128, 6, 4);
    (shape.intermediate_size, shape.rope_theta) = (512, 100.0);
    (shape.vocab_size, shape.llm_vocab_size, shape.codebook_size) = (1080, 45, 1024);
    (shape.num_vq_tokens, shape.max_text_len, shape.bos_id) = (64, 12, 44);
    let show_o = ShowO::load(Arc::clone(&cpu), shape, &file(SHOW_O)?, Format::F32)?;
    let mut shape = MagvitConfig::published();
    (shape.base_channels, shape.norm_groups) = (8, 4);
    (
        shape.codebook_bits,
        shape.codebook_size,
        shape.z_channels,
        shape.image_size,
    ) = (10, 1024, 10, 64);
    (shape.encoder_ch_mult, shape.decoder_ch_mult) = (vec![1, 3, 5, 8], vec![1, 2, 4, 8]);
    (shape.encoder_res_blocks, shape.decoder_res_blocks) = (vec![1, 1, 1, 2], vec![1, 1, 2, 2]);
    let pixels = Magvit::load(cpu, shape, &file(PIXELS)?, Format::F32)?;
    let mut options = ShowOOptions::default();
    options.steps = 4;
    let mut session = ShowOSession::new(
        Arc::new(show_o),
        Arc::new(pixels),
        Words::new(WORDS)?,
        options,
    )?;
    let prompt = Prompt::new("a photo of a red car");
    let found = Plain.search(
        &mut session,
        &mut Nobody,
        &prompt,
        &mut Stream::new(seed),
        &mut |_| Flow::Continue,
    )?;
    session.save(found.winner, codes)?;
    Ok(())
}

//! Whole models touch no byte outside their weights, buffers and scratch, with any instruction set: each block lies
//! against a page that cannot be read. The operations alone: `tests/ops`.
#![cfg(unix)]

mod bundled {
    pub mod drawing;
    pub mod files;
    pub mod janus;
    pub mod judging;
}
#[path = "ops/guarded.rs"]
mod guarded;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use bundled::drawing::Drawing;
use bundled::judging::Judging;
use guarded::guarded;
use maquette::cpu::Cpu;
use maquette::model::llava::JudgeOptions;
use maquette::model::show_o::ShowOOptions;
use maquette::quant::Format;
use maquette::rng::Stream;
use maquette::search::{Parm, SearchStrategy};
use maquette::{Flow, Generator, Prompt, RewardModel};

const CANDIDATES: usize = 2;

/// A search that looks early, so that every kind of question is asked.
fn searched(generator: &mut impl Generator, judge: &mut impl RewardModel) -> u64 {
    let found = Parm::new(CANDIDATES as u32).search(
        generator,
        judge,
        &Prompt::new("a photo of a red car"),
        &mut Stream::new(3),
        &mut |_| Flow::Continue,
    );
    found.unwrap().cost.judged()
}

fn judging() -> JudgeOptions {
    JudgeOptions::default()
        .with_views(CANDIDATES)
        .with_tokens(32)
}

fn show_o(cpu: impl Fn() -> Cpu, format: Format) {
    let drawing = Drawing::load(cpu(), format);
    let mut options = ShowOOptions::default();
    (options.candidates, options.batch, options.steps) = (CANDIDATES, CANDIDATES, 2);
    let mut judge = Judging::load(cpu(), format).session(judging());
    assert!(searched(&mut drawing.session(options), &mut judge) > 0);
}

fn janus(cpu: Cpu) {
    let (model, words) = (bundled::janus::load(cpu), bundled::janus::words());
    let mut options = model.config().options();
    (options.guidance_scale, options.tokens_per_step) = (2.0, Some(32));
    (options.candidates, options.batch, options.pictures) = (CANDIDATES, CANDIDATES, CANDIDATES);
    let mut judge = model.judge(Arc::new(words.clone()), judging()).unwrap();
    let mut session = model.draw(words, options).unwrap();
    assert!(searched(&mut session, &mut judge) > 0);
}

#[test]
fn models_keep_to_their_memory() {
    for set in Cpu::instruction_sets() {
        let cpu = || Cpu::with_instructions(2, set).unwrap();
        guarded(|| {
            for format in [Format::F32, Format::Bf16, Format::Q8_0, Format::Q4_0] {
                show_o(cpu, format);
            }
            janus(cpu());
        });
    }
}

const CHILD: &str = "READ_PAST_THE_END";

#[expect(unsafe_code, reason = "it must kill the process")]
fn read_past_the_end() -> u8 {
    let block = guarded(|| vec![1_u8; 100].into_boxed_slice());
    let end = block.as_ptr().wrapping_add(block.len());
    // SAFETY: none; the guard stands here.
    unsafe { end.read_volatile() }
}

/// The guard is there: the same program, told to read one byte too far, is killed for it.
#[test]
fn a_read_past_the_end_is_the_end() {
    if env::var_os(CHILD).is_some() {
        println!("read {}", read_past_the_end());
        return;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["a_read_past_the_end_is_the_end", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let signal = child.status.signal();
    assert!(
        matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)),
        "{child:?}"
    );
}

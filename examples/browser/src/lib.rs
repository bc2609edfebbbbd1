//! The bundled Show-o and its judge in a browser: the page hands over the files' bytes, hears every event of a search as it
//! happens, and gets the pictures. `README.md` says how to build and open it.
//!
//! Nothing but numbers passes the border: the page writes bytes into rooms that are reserved here, and reads pixels and texts
//! at the addresses that it is told.

mod models;

use std::cell::RefCell;

use maquette::error::Foreign;
use maquette::generator::{Needs, Views};
use maquette::reward::{Answer, Judgement};
use maquette::rng::Stream;
use maquette::search::{BestOfN, Cost, Event, Parm, Plain, SearchStrategy};
use maquette::{CandidateId, Flow, Generator, Prompt, Result, RewardModel};

use models::{Files, Models};

/// Candidates of a search at most.
const MOST: u32 = 20;

#[link(wasm_import_module = "page")]
unsafe extern "C" {
    /// An event: what happened to which candidate, after how many of its steps; the question and the verdict, if it was
    /// judged.
    safe fn happened(
        event: u32,
        candidate: f64,
        step: u32,
        question: u32,
        answer: u32,
        p_yes: f32,
        p_no: f32,
    );
    /// RGB pixels of a candidate after so many steps. They lie there during the call.
    safe fn shown(candidate: f64, step: u32, pixels: *const u8, len: usize);
    /// A text: what went wrong. It lies there during the call.
    safe fn said(text: *const u8, len: usize);
}

/// Events by number, as the page knows them.
mod event {
    pub const STARTED: u32 = 0;
    pub const STEPPED: u32 = 1;
    pub const JUDGED: u32 = 2;
    pub const REJECTED: u32 = 3;
    pub const RESUMED: u32 = 4;
    pub const CHOSEN: u32 = 5;
}

#[derive(Default)]
struct State {
    files: Files,
    prompt: Vec<u8>,
    models: Option<Models>,
    codes: Vec<u32>,
    cost: Cost,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Runs with the state; what goes wrong is said, and 0 returned.
fn with(run: impl FnOnce(&mut State) -> Result<()>) -> u32 {
    let done = STATE.with_borrow_mut(run);
    if let Err(error) = &done {
        let text = error.to_string();
        said(text.as_ptr(), text.len());
    }
    u32::from(done.is_ok())
}

/// Room for the bytes of a file, in the order of [`Files`]; null for a file that nobody needs.
#[unsafe(no_mangle)]
pub extern "C" fn file(which: usize, len: usize) -> *mut u8 {
    STATE.with_borrow_mut(|state| match state.files.0.get_mut(which) {
        Some(file) => {
            file.resize(len, 0);
            file.as_mut_ptr()
        }
        None => std::ptr::null_mut(),
    })
}

/// Room for the prompt.
#[unsafe(no_mangle)]
pub extern "C" fn prompt(len: usize) -> *mut u8 {
    STATE.with_borrow_mut(|state| {
        state.prompt.resize(len, 0);
        state.prompt.as_mut_ptr()
    })
}

/// Reads the models from the files, whose bytes go; 1 on success.
#[unsafe(no_mangle)]
pub extern "C" fn open() -> u32 {
    with(|state| {
        let files = std::mem::take(&mut state.files);
        state.models = Some(Models::load(&files, MOST as usize)?);
        Ok(())
    })
}

/// Draws a picture of the prompt: by plain generation (0), best of N (1) or PARM (2); 1 on success.
#[unsafe(no_mangle)]
pub extern "C" fn draw(strategy: u32, candidates: u32, seed: u64) -> u32 {
    with(|state| {
        let State { models, prompt, .. } = state;
        let Some(Models { generator, judge }) = models else {
            return Err(maquette::Error::foreign("the models are not open"));
        };
        let text =
            std::str::from_utf8(prompt).map_err(|e| maquette::Error::Foreign(Foreign::new(e)))?;
        let n = candidates.clamp(1, MOST);
        let mut parm = Parm::new(n);
        let strategy: &mut dyn SearchStrategy<dyn Generator, dyn RewardModel> = match strategy {
            0 => &mut Plain,
            1 => &mut BestOfN::new(n),
            _ => &mut parm,
        };
        let mut rng = Stream::new(seed);
        let found = strategy.search(
            &mut **generator,
            &mut **judge,
            &Prompt::new(text),
            &mut rng,
            &mut |event| {
                tell(&event);
                Flow::Continue
            },
        )?;
        let shown = show(&mut **generator, found.winner, &mut state.codes);
        generator.prune(&[found.winner])?;
        state.cost = found.cost;
        shown
    })
}

/// A code of the last picture.
#[unsafe(no_mangle)]
pub extern "C" fn code(at: usize) -> u32 {
    STATE.with_borrow(|state| state.codes.get(at).copied().unwrap_or(u32::MAX))
}

/// What the last picture cost: steps (0), decodes (1), questions (2).
#[unsafe(no_mangle)]
pub extern "C" fn spent(what: u32) -> f64 {
    STATE.with_borrow(|state| {
        let cost = &state.cost;
        (match what {
            0 => cost.steps,
            1 => cost.decodes,
            _ => cost.judged(),
        }) as f64
    })
}

/// Shows the winner and keeps its codes.
fn show(generator: &mut dyn Generator, winner: CandidateId, codes: &mut Vec<u32>) -> Result<()> {
    codes.resize(generator.grid().len(), 0);
    let step = generator.save(winner, codes)?.step;
    let mut pixels = vec![0; generator.image_size().len_bytes()];
    generator.observe(&[winner], Needs::PIXELS, &mut Views::pixels(&mut pixels))?;
    shown(winner.0 as f64, step, pixels.as_ptr(), pixels.len());
    happened(event::CHOSEN, winner.0 as f64, step, 0, 0, 0.0, 0.0);
    Ok(())
}

fn tell(event: &Event<'_>) {
    let each = |kind, ids: &[CandidateId], step| {
        for id in ids {
            happened(kind, id.0 as f64, step, 0, 0, 0.0, 0.0);
        }
    };
    match event {
        Event::Started { ids, .. } => each(event::STARTED, ids, 0),
        Event::Stepped { ids, step } => each(event::STEPPED, ids, *step),
        Event::Observed {
            keys,
            pixels: Some(pixels),
        } => {
            for (row, key) in keys.iter().enumerate() {
                if let Some(picture) = pixels.picture(row) {
                    let (at, len) = (picture.as_ptr(), picture.len());
                    shown(key.candidate.0 as f64, key.step, at, len);
                }
            }
        }
        Event::Judged {
            key,
            judgement,
            verdict,
        } => happened(
            event::JUDGED,
            key.candidate.0 as f64,
            key.step,
            match judgement {
                Judgement::Outcome => 0,
                Judgement::Process => 1,
                Judgement::Clarity => 2,
                _ => 3,
            },
            match verdict.answer {
                Answer::Yes => 0,
                Answer::No => 1,
                _ => 2,
            },
            verdict.p_yes,
            verdict.p_no,
        ),
        Event::Rejected { id, parked } => each(event::REJECTED, &[*id], u32::from(*parked)),
        Event::Resumed { id } => each(event::RESUMED, &[*id], 0),
        _ => {}
    }
}

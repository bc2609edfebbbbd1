//! Memory: what is held, and what happens when there is no more.

use maquette::cuda::{Device, Plan};
use maquette::generator::{Needs, Views};
use maquette::model::raster::RasterModel;
use maquette::model::show_o::ShowOOptions;
use maquette::model::weights::Precision;
use maquette::ops::Backend;
use maquette::ops::attention::{KvFormat, PAGE_ROWS};
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::Activation;
use maquette::ops::reward_head::PoolShape;
use maquette::quant::{Format, QuantMatrix};
use maquette::{CandidateId, Code, Error, Generator, Prompt, Result};

use super::bundled::drawing::Drawing;
use super::{gpu, numbers, tiny_janus};

#[test]
fn memory_that_runs_out_is_an_error_and_the_device_goes_on() {
    let device = gpu::device();
    assert!(matches!(
        device.zeros::<f32>(usize::MAX / 8),
        Err(Error::OutOfMemory { .. })
    ));
    if !gpu::emulated() {
        return;
    }
    // A product of many rounded rows allocates: let each of its allocations fail in turn.
    let s = GemmShape {
        activations: Activations::A8,
        ..GemmShape::new(9, 3, 32)
    };
    let data = numbers(96, 1);
    let mut bytes = vec![0; Format::Q8_0.bytes(3, 32).unwrap()];
    Format::Q8_0.quantise(&data, &mut bytes);
    let w = QuantMatrix::q8_0(3, 32, &bytes).unwrap();
    let run = |device: &Device| {
        let matrix = device.pack(&w)?;
        let (x, mut y) = (device.zeros(9 * 32)?, device.zeros(9 * 3)?);
        device.gemm(s, &x, &matrix, None, &mut y)
    };
    let mut failures = 0;
    for allowed in 0.. {
        gpu::fail_allocations_after(allowed);
        let result = run(&device);
        gpu::fail_allocations_after(u64::MAX);
        assert!(run(&device).is_ok(), "after failure {allowed}");
        match result {
            Ok(()) => break,
            Err(Error::OutOfMemory { .. }) => failures += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(failures, 6);
}

/// A short run: two candidates, a step each, one forked and stepped, all seen.
fn searched(session: &mut dyn Generator, prompt: &str) -> Result<Vec<Code>> {
    let prompt = Prompt::new(prompt);
    let mut ids = [CandidateId::default(); 3];
    session.start(&prompt, &[3, 4], &mut ids[..2])?;
    session.step(&ids[..2])?;
    session.prune(&ids[1..2])?;
    session.fork(ids[0], &[9], &mut ids[2..])?;
    session.step(&[ids[0], ids[2]])?;
    let mut codes = vec![0; 2 * session.grid().len()];
    session.observe(
        &[ids[0], ids[2]],
        Needs::CODES,
        &mut Views::codes(&mut codes),
    )?;
    session.prune(&[ids[0], ids[2]])?;
    Ok(codes)
}

#[test]
fn memory_that_runs_out_in_a_search_leaves_nothing_behind() {
    if !gpu::emulated() {
        return;
    }
    let model = tiny_janus::load(gpu::device(), tiny_janus::config());
    let run = || {
        let mut options = model.config().options();
        (options.candidates, options.batch, options.pictures) = (2, 2, 1);
        let mut session = model.draw(tiny_janus::words(), options)?;
        searched(&mut session, "a red car")
    };
    let want = run().unwrap();
    let before = gpu::allocations();
    let mut failures = 0;
    for allowed in 0.. {
        gpu::fail_allocations_after(allowed);
        let result = run();
        gpu::fail_allocations_after(u64::MAX);
        assert_eq!(gpu::allocations(), before, "after failure {allowed}");
        match result {
            Ok(codes) => {
                assert_eq!(codes, want);
                break;
            }
            Err(Error::OutOfMemory { .. }) => failures += 1,
            Err(other) => panic!("{other}"),
        }
        // The device goes on, now and then looked at: a run takes its time.
        if allowed % 16 == 0 {
            assert_eq!(run().unwrap(), want);
        }
    }
    assert!(failures > 20, "{failures} allocations");
}

#[test]
fn what_is_held_is_known_and_launches_are_timed() {
    let device = gpu::device();
    let mut x = device.zeros::<f32>(1 << 20).unwrap();
    let held = device.held().unwrap();
    let (_, all) = device.memory().unwrap();
    assert!((4 << 20..=all).contains(&held), "{held}");
    let run = || device.activate(Activation::Relu, 1 << 10, &mut x);
    let ms = device.timed(run).unwrap();
    assert!(ms >= 0.0 && (ms > 0.0) != gpu::emulated(), "{ms} ms");
    let other = gpu::device().zeros::<f32>(1).unwrap();
    assert!(device.timed(|| device.read(&other, 0, &mut [0.0])).is_err());
}

/// A tiny Janus and a session of so many candidates on a device: its plan, and what this thread holds meanwhile.
fn janus(device: Device, candidates: usize) -> (Plan, Option<usize>) {
    let precision = Precision::from(Format::Q8_0).with_activations(Activations::A8);
    let model = tiny_janus::load_as(device, tiny_janus::config(), precision).unwrap();
    let mut options = model.config().options();
    (options.candidates, options.batch) = (candidates, candidates);
    options.kv = KvFormat::Q8;
    let _session = model.draw(tiny_janus::words(), options).unwrap();
    (model.backend().plan(), gpu::allocated_bytes())
}

/// The same of the bundled Show-o.
fn show_o(device: Device, candidates: usize) -> (Plan, Option<usize>) {
    let drawing = Drawing::load(device, Format::Q4_0);
    let mut options = ShowOOptions::default();
    (options.candidates, options.batch) = (candidates, candidates);
    let _session = drawing.session(options);
    (drawing.model.backend().plan(), gpu::allocated_bytes())
}

#[test]
fn a_plan_is_what_a_run_holds() {
    let gpu = gpu::device();
    for run in [janus, show_o] {
        let before = gpu::allocated_bytes();
        let (none, held) = run(gpu::device(), 3);
        assert_eq!(none, Plan::default());
        let (plan, taken) = run(gpu.planner().unwrap(), 3);
        assert!(plan.matrices > 0 && plan.caches > 0 && plan.buffers > 0);
        if let (Some(before), Some(held), Some(taken)) = (before, held, taken) {
            // Words of what kernels note.
            let spare = held - before - plan.total();
            assert!(spare <= 64, "{plan:?}: {held} held");
            // A byte a buffer.
            assert!(taken - before < plan.total() / 50, "{taken} taken");
        }
        let (more, _) = run(gpu.planner().unwrap(), 40);
        assert_eq!(more.matrices, plan.matrices);
        assert!(more.total() > plan.total());
    }
}

#[test]
fn candidates_hold_rows_of_their_own_codes_alone() {
    let gpu = gpu::device();
    let caches = |candidates, pages| {
        let model = tiny_janus::load(gpu.planner().unwrap(), tiny_janus::config());
        let mut options = model.config().options();
        (options.candidates, options.batch, options.pages) = (candidates, 1, pages);
        let session = model.draw(tiny_janus::words(), options).unwrap();
        let c = model.stack().config();
        let row = 2 * c.layers * c.n_kv_heads * c.head_dim * size_of::<f32>();
        // Guided: two sequences. The last code is never fed.
        let pages = 2 * (session.grid().len() - 1).div_ceil(PAGE_ROWS);
        (model.backend().plan().caches, pages, PAGE_ROWS * row)
    };
    let (few, pages, page) = caches(1, None);
    // The prompt's rows are there once, however many begin with it.
    assert_eq!(caches(31, None).0, few + 30 * pages * page);
    // Candidates that share what they have drawn are given fewer.
    assert_eq!(caches(31, Some(pages + 9)).0, few + 9 * page);
}

#[test]
fn matrices_take_what_they_take_in_files() {
    let planner = gpu::device().planner().unwrap();
    let (n, k) = (96, 512);
    for &format in Format::ALL {
        let bytes = match format {
            // Two bytes stand for scales that are none.
            Format::F32 | Format::Bf16 => format.bytes(n, k).unwrap() + 2,
            // Scale and offset of 32 inputs are floats.
            Format::Q4K => n * k / 32 * (16 + 8),
            _ => format.bytes(n, k).unwrap(),
        };
        let matrix = planner.matrix(format, n, k).unwrap();
        assert_eq!(planner.plan().matrices, bytes, "{format:?}");
        drop(matrix);
    }
}

#[test]
fn a_plan_beyond_the_memory_is_an_error_with_both_numbers() {
    let gpu = gpu::device();
    assert_eq!(gpu.plan(), Plan::default());
    gpu.fits().unwrap();
    let planner = gpu.planner().unwrap();
    let keys = planner.cache::<f32>(1 << 40).unwrap();
    let (_, all) = planner.memory().unwrap();
    let Err(Error::Range { got, max, .. }) = planner.fits() else {
        panic!("a plan of {} bytes fits", planner.plan().total());
    };
    assert_eq!((got, planner.plan().caches), (1 << 42, 1 << 42));
    assert!((1..=all as u64).contains(&max), "{max} bytes are free");
    drop(keys);
    // What is given back no longer counts; nothing is run, and results stay as they were.
    let (x, mut y) = (planner.zeros(4).unwrap(), planner.zeros(8).unwrap());
    assert_eq!(planner.plan().total(), 48);
    planner.fits().unwrap();
    planner.add(4, &x, &mut y).unwrap();
    let pool = PoolShape {
        views: 1,
        rows: 1000,
        heads: 1,
        head_dim: 1,
    };
    planner.pool_rows(pool, &x, &mut y).unwrap();
    let mut out = [7.0_f32; 8];
    planner.read(&y, 0, &mut out).unwrap();
    assert_eq!(out, [7.0; 8]);
    // Another value's memory is refused here, too.
    assert!(
        gpu.read(&y, 0, &mut out).is_err()
            && planner
                .read(&gpu.zeros::<f32>(8).unwrap(), 0, &mut out)
                .is_err()
    );
}

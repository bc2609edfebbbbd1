//! The GPU as a device: what `tests/ops.rs` does not ask. Without a GPU its kernels are interpreted.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bundled {
    pub mod drawing;
    pub mod files;
    pub mod janus;
}
mod gpu;
mod tiny_janus;

use bundled::drawing::Drawing;
use maquette::cpu::Cpu;
use maquette::cuda::Device;
use maquette::generator::{Needs, Views};
use maquette::model::show_o::ShowOOptions;
use maquette::model::weights::Precision;
use maquette::ops::conv::Rounding;
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::Activation;
use maquette::ops::{Backend, Reference};
use maquette::quant::{Format, QuantMatrix};
use maquette::{CandidateId, Code, Error, Generator, Prompt, Result, rng};

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| rng::philox([seed, 1], [u32::try_from(i).unwrap(), 0, 0, 0])[0];
    (0..len)
        .map(|i| rng::open_unit(word(i)) * 4.0 - 2.0)
        .collect()
}

/// A matrix of random numbers in a format, and the rows of a product with it.
fn product<B: Backend>(b: &B, s: GemmShape, format: Format, rows: &[f32]) -> Vec<u32> {
    biased_product(b, s, format, rows, false)
}

/// The same; what is added to and a bias, where they are wanted, are random, too.
fn biased_product<B: Backend>(
    b: &B,
    s: GemmShape,
    format: Format,
    rows: &[f32],
    bias: bool,
) -> Vec<u32> {
    let data = numbers(s.n * s.k, 1);
    let mut bytes = vec![0; format.bytes(s.n, s.k).unwrap()];
    format.quantise(&data, &mut bytes);
    let w = match format {
        Format::F32 => QuantMatrix::f32(s.n, s.k, &data),
        _ => QuantMatrix::from_bytes(format, s.n, s.k, &bytes),
    };
    let w = b.pack(&w.unwrap()).unwrap();
    let (mut x, mut y) = (b.zeros(s.m * s.k).unwrap(), b.zeros(s.m * s.n).unwrap());
    b.write(&mut x, 0, &rows[..s.m * s.k]).unwrap();
    b.write(&mut y, 0, &numbers(s.m * s.n, 3)).unwrap();
    let bias = bias.then(|| {
        let mut values = b.zeros(s.n).unwrap();
        b.write(&mut values, 0, &numbers(s.n, 4)).unwrap();
        values
    });
    b.gemm(s, &x, &w, bias.as_ref(), &mut y).unwrap();
    let mut out = vec![0.0_f32; s.m * s.n];
    b.read(&y, 0, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn small_products_have_the_bits_of_the_reference_in_every_format() {
    for format in Format::ALL {
        for activations in [Activations::F32, Activations::A8] {
            // Around a strip of outputs, a tile of rows, a sum's and a turn's length.
            for (m, n, k) in [
                (1, 1, 32),
                (1, 33, 256),
                (2, 31, 288),
                (5, 65, 1056),
                (4, 32, 2080),
                (3, 33, 2304),
                (8, 33, 1056),
                (9, 65, 1120),
                (20, 40, 1536),
                (41, 97, 288),
                (64, 33, 512),
                (65, 65, 320),
                (73, 31, 1280),
                // Ends inside each quarter of a strip, and behind an even row of a tile.
                (1, 44, 1376),
                (1, 52, 2304),
                (10, 52, 1024),
                (66, 44, 768),
                (70, 52, 256),
            ] {
                // Widths that are no whole blocks belong to other formats.
                if format.fitting(k) != format {
                    continue;
                }
                // What follows the sum is compiled once for each of these.
                let kinds = [(false, false), (true, true), (true, false), (false, true)];
                let kinds = match activations {
                    Activations::A8 => &kinds[..],
                    _ => &kinds[..1],
                };
                for &(bias, accumulate) in kinds {
                    let s = GemmShape {
                        accumulate,
                        activations,
                        ..GemmShape::new(m, n, k)
                    };
                    let rows = numbers(m * k, 2);
                    let want = biased_product(&Reference, s, format, &rows, bias);
                    gpu::in_both_orders(|device| {
                        let got = biased_product(device, s, format, &rows, bias);
                        assert!(got == want, "{format:?}, {s:?}, a bias: {bias}");
                    });
                }
            }
        }
    }
}

#[test]
fn products_with_several_strips_a_block_have_the_bits_of_the_reference() {
    for format in [Format::Q8_0, Format::Q4_0] {
        for (m, n) in [(9, 8200), (20, 16_390), (65, 16_390)] {
            let s = GemmShape {
                activations: Activations::A8,
                ..GemmShape::new(m, n, 32)
            };
            let rows = numbers(m * 32, 2);
            let want = product(&Reference, s, format, &rows);
            gpu::in_both_orders(|device| {
                let got = product(device, s, format, &rows);
                assert!(got == want, "{format:?}, {s:?}");
            });
        }
    }
}

#[test]
fn a_row_has_the_same_bits_at_any_number_of_rows() {
    let device = gpu::device();
    let n = 40;
    for (format, activations, k) in [
        (Format::F32, Activations::F32, 261),
        (Format::Bf16, Activations::F32, 261),
        (Format::Q8_0, Activations::F32, 288),
        (Format::Q8_0, Activations::A8, 288),
        (Format::Q4_0, Activations::F32, 288),
        (Format::Q4_0, Activations::A8, 288),
        (Format::Q4K, Activations::F32, 256),
        (Format::Q4K, Activations::A8, 768),
        (Format::Q4G128, Activations::F32, 384),
        (Format::Q4G128, Activations::A8, 1152),
    ] {
        let rows = numbers(1000 * k, 2);
        let of = |m| {
            let s = GemmShape {
                activations,
                ..GemmShape::new(m, n, k)
            };
            product(&device, s, format, &rows)
        };
        let all = of(1000);
        for m in [1, 2, 3, 8, 9, 20, 64, 65] {
            assert!(
                of(m) == all[..m * n],
                "{m} rows, {format:?}, {activations:?}"
            );
        }
    }
}

/// The kernel of a product with rows in 8 bits.
fn kernel(format: Format, rows: usize) -> String {
    let name = match format {
        Format::Q8_0 => "q8",
        Format::Q4K => "q4k",
        _ => "q4",
    };
    let rows = match rows {
        1 => "one",
        2..=8 => "few",
        9..=64 => "many",
        _ => "large",
    };
    format!("gemm_{name}_{rows}")
}

/// Blocks of threads that a multiprocessor of compute capability 8.0 holds at once: as many as its shared memory,
/// threads and registers have room for.
fn resident(kernel: &str, shared_bytes: u64, threads: u64) -> u64 {
    let table = include_str!("../kernels/ptx/registers.tsv");
    let row = table.lines().find_map(|line| {
        let row: Vec<&str> = line.split('\t').collect();
        (row[1] == kernel && row[2] == "80").then(|| row[3].parse::<u64>().unwrap())
    });
    // The driver takes a kilobyte of each block's shared memory, and gives registers to a warp in portions of 256.
    let registers = (row.unwrap() * 32).next_multiple_of(256) * (threads / 32);
    let shared = (164 << 10) / (shared_bytes + 1024);
    shared.min(2048 / threads).min(65_536 / registers).min(32)
}

/// Figures of the products' access patterns, as they are checked in, and what must hold of them whatever they are.
/// `MAQUETTE_COUNTERS=write` writes them anew.
#[test]
fn products_access_memory_as_recorded() {
    use std::fmt::Write;
    let device = gpu::device();
    let (n, k) = (128, 4096);
    let mut table = "format\tactivations\trows\tlane instructions a weight\tuseful of sector bytes\tbank conflicts\t\
        bytes in flight a block\tof a multiprocessor\n"
        .to_owned();
    for format in Format::ALL {
        let data = numbers(n * k, 1);
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let w = match format {
            Format::F32 => QuantMatrix::f32(n, k, &data),
            _ => QuantMatrix::from_bytes(format, n, k, &bytes),
        };
        let w = device.pack(&w.unwrap()).unwrap();
        for activations in [Activations::F32, Activations::A8] {
            let integers = activations == Activations::A8;
            if integers && format.block() == 1 {
                continue;
            }
            // Rows of floats are taken by fours.
            let rows: &[usize] = match integers {
                true => &[1, 2, 4, 8, 16, 20, 40, 64, 128],
                false => &[1, 4],
            };
            for &m in rows {
                let (x, mut y) = (device.zeros(m * k).unwrap(), device.zeros(m * n).unwrap());
                let s = GemmShape {
                    activations,
                    ..GemmShape::new(m, n, k)
                };
                let counters = gpu::counted(|| device.gemm(s, &x, &w, None, &mut y).unwrap());
                let Some(
                    [
                        _,
                        lanes,
                        useful,
                        sectors,
                        _,
                        conflicts,
                        flight,
                        shared,
                        threads,
                    ],
                ) = counters
                else {
                    return;
                };
                let lanes = lanes as f64 / (n * k) as f64;
                let useful = useful as f64 / sectors as f64;
                let all = match integers {
                    true => flight * resident(&kernel(format, m), shared, threads),
                    false => 0,
                };
                writeln!(
                    table,
                    "{}\t{}\t{m}\t{lanes:.3}\t{useful:.4}\t{conflicts}\t{flight}\t{all}",
                    format.name(),
                    activations.name(),
                )
                .unwrap();
                let what = format!("{format:?}, {s:?}");
                assert!(useful >= 0.97, "{what}: {useful} of the bytes are useful");
                assert_eq!(conflicts, 0, "{what}: conflicts");
                if integers {
                    assert!(all >= 32 << 10, "{what}: {all} bytes in flight");
                }
                if integers && m == 1 && format != Format::Q8_0 {
                    assert!(lanes <= 4.5, "{what}: {lanes} instructions");
                }
            }
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/counters.tsv");
    if std::env::var_os("MAQUETTE_COUNTERS").is_some_and(|v| v == "write") {
        std::fs::write(file, &table).unwrap();
    }
    let recorded = std::fs::read_to_string(file).unwrap();
    assert!(table == recorded, "recorded:\n{recorded}\nnow:\n{table}");
}

/// The assembler's table: no kernel keeps registers in memory on any architecture.
#[test]
fn no_kernel_spills() {
    let table = include_str!("../kernels/ptx/registers.tsv");
    let mut kernels = 0;
    for line in table.lines().skip(1) {
        let row: Vec<&str> = line.split('\t').collect();
        assert_eq!(row[4..6], ["0", "0"], "{line}");
        kernels += usize::from(row[0] == "gemm" && row[2] == "80");
    }
    assert_eq!(kernels, 13);
}

#[test]
fn rows_may_be_put_in_any_order_and_portion() {
    let device = gpu::device();
    for format in Format::ALL {
        let (n, k) = (70, format.block().max(64));
        let data = numbers(n * k, 1);
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let row = format.bytes(1, k).unwrap();
        let part = |from: usize, to: usize| match format {
            Format::F32 => QuantMatrix::f32(to - from, k, &data[from * k..to * k]),
            _ => QuantMatrix::from_bytes(format, to - from, k, &bytes[from * row..to * row]),
        };
        let mut matrix = device.matrix(format, n, k).unwrap();
        for (from, to) in [(33, 70), (0, 1), (1, 33)] {
            device
                .put(&mut matrix, from, &part(from, to).unwrap())
                .unwrap();
        }
        assert!(device.put(&mut matrix, 1, &part(0, n).unwrap()).is_err());
        let s = GemmShape::new(3, n, k);
        let rows = numbers(3 * k, 2);
        let (mut x, mut y) = (device.zeros(3 * k).unwrap(), device.zeros(3 * n).unwrap());
        device.write(&mut x, 0, &rows).unwrap();
        device.gemm(s, &x, &matrix, None, &mut y).unwrap();
        let mut out = vec![0.0_f32; 3 * n];
        device.read(&y, 0, &mut out).unwrap();
        let out: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
        assert!(out == product(&Reference, s, format, &rows), "{format:?}");
    }
}

fn drawn<B: Backend>(backend: B, format: Format, prompt: &str) -> Vec<Code> {
    let drawing = Drawing::load(backend, format);
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.batch) = (2, 2, 2);
    let mut session = drawing.session(options);
    let mut ids = [CandidateId::default(); 2];
    session
        .start(&Prompt::new(prompt), &[3, 4], &mut ids)
        .unwrap();
    session.step(&ids).unwrap();
    session.step(&ids).unwrap();
    let mut codes = vec![0; 128];
    session
        .observe(&ids, Needs::CODES, &mut Views::codes(&mut codes))
        .unwrap();
    codes
}

#[test]
fn a_picture_has_the_codes_of_the_cpu() {
    for format in [Format::F32, Format::Q8_0] {
        let prompt = "a photo of a red car";
        let want = drawn(Cpu::new(), format, prompt);
        assert_eq!(drawn(gpu::device(), format, prompt), want, "{format:?}");
    }
}

/// What some of the tiny Janus' candidates draw, who start beside others that leave after the first step.
fn in_company<B: Backend>(
    backend: B,
    precision: Precision,
    seeds: &[u64],
    stay: &[usize],
) -> Vec<Code> {
    let model = tiny_janus::load_as(backend, tiny_janus::config(), precision).unwrap();
    let mut options = model.config().options();
    (options.candidates, options.batch) = (seeds.len(), seeds.len());
    let mut session = model.draw(tiny_janus::words(), options).unwrap();
    let mut ids = vec![CandidateId::default(); seeds.len()];
    let prompt = Prompt::new("a red car");
    session.start(&prompt, seeds, &mut ids).unwrap();
    session.step(&ids).unwrap();
    let stay: Vec<CandidateId> = stay.iter().map(|&at| ids[at]).collect();
    let leave: Vec<CandidateId> = ids.into_iter().filter(|id| !stay.contains(id)).collect();
    session.prune(&leave).unwrap();
    for _ in 1..session.steps() {
        session.step(&stay).unwrap();
    }
    let mut codes = vec![0; stay.len() * session.grid().len()];
    let mut views = Views::codes(&mut codes);
    session.observe(&stay, Needs::CODES, &mut views).unwrap();
    codes
}

#[test]
fn a_candidate_draws_the_same_alone_in_company_and_after_others_left() {
    let rounded = Precision::from(Format::Q8_0).with_activations(Activations::A8);
    let seeds: Vec<u64> = (0..20).collect();
    for precision in [Format::F32.into(), rounded] {
        let both = in_company(gpu::device(), precision, &seeds, &[3, 11]);
        let [third, eleventh] =
            [3, 11].map(|seed| in_company(gpu::device(), precision, &[seed], &[0]));
        assert_eq!(both, [third, eleventh].concat(), "{precision:?}");
        let want = in_company(Cpu::new(), precision, &seeds, &[3, 11]);
        assert_eq!(both, want, "{precision:?}");
    }
}

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
    // A product with rounded rows allocates: let each of its allocations fail in turn.
    let s = GemmShape {
        activations: Activations::A8,
        ..GemmShape::new(2, 3, 32)
    };
    let data = numbers(96, 1);
    let mut bytes = vec![0; Format::Q8_0.bytes(3, 32).unwrap()];
    Format::Q8_0.quantise(&data, &mut bytes);
    let w = QuantMatrix::q8_0(3, 32, &bytes).unwrap();
    let run = |device: &Device| {
        let matrix = device.pack(&w)?;
        let (x, mut y) = (device.zeros(64)?, device.zeros(6)?);
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
    assert_eq!(failures, 7);
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
fn a_step_waits_for_the_device_once() {
    let prompt = Prompt::new("a photo of a red car");
    let model = bundled::janus::load(gpu::device());
    let mut options = model.config().options();
    (options.guidance_scale, options.candidates, options.batch) = (2.0, 2, 2);
    options.filter.top_k = 40;
    let mut janus = model.draw(bundled::janus::words(), options).unwrap();
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.batch) = (3, 2, 2);
    let mut show_o = Drawing::load(gpu::device(), Format::F32).session(options);
    let sessions: [&mut dyn Generator; 2] = [&mut janus, &mut show_o];
    for session in sessions {
        let mut ids = [CandidateId::default(); 2];
        session.start(&prompt, &[3, 4], &mut ids).unwrap();
        for _ in 0..2 {
            let before = gpu::waits();
            session.step(&ids).unwrap();
            let waited = gpu::waits().zip(before).map(|(now, before)| now - before);
            assert_eq!(waited.unwrap_or(1), 1);
        }
    }
}

#[test]
fn rows_without_numbers_stay_with_the_thread_that_made_them() {
    let device = gpu::device();
    let bytes = |number: f32| {
        let mut x = device.zeros(4).unwrap();
        device.write(&mut x, 2, &[number]).unwrap();
        let mut out = device.zeros::<u8>(4).unwrap();
        device.to_bytes(Rounding::Nearest, 4, &x, &mut out).unwrap();
    };
    bytes(f32::NAN);
    // More of them than the device keeps words for.
    for _ in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bytes(0.5);
                device.synchronise().unwrap();
            });
        });
    }
    let error = device.synchronise().unwrap_err();
    assert_eq!(
        error.to_string(),
        "to_bytes: \"x\" has a NaN or an infinity in row 2"
    );
    device.synchronise().unwrap();
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

#[test]
fn drivers_and_gpus_that_are_too_old_are_named() {
    let device = gpu::device();
    assert!(device.capability() >= (8, 0) && !device.name().is_empty());
    let (free, all) = device.memory().unwrap();
    assert!(free <= all && all > 0);
    if !gpu::emulated() {
        return;
    }
    gpu::report(75, 12_040);
    let old = Device::new(0).unwrap_err().to_string();
    assert_eq!(
        old,
        format!(
            "cuda: \"compute capability, times ten\" is 75, allowed is 80 to {}",
            u64::MAX
        )
    );
    gpu::report(80, 12_030);
    let old = Device::new(0).unwrap_err().to_string();
    assert!(old.starts_with("cuda: \"driver version\" is 12030, allowed is 12040"));
    gpu::report(80, 12_040);
    assert!(matches!(Device::new(1), Err(Error::NoDevice { .. })));
}

#[test]
fn what_belongs_to_another_device_value_is_refused() {
    let (one, other) = (gpu::device(), gpu::device());
    let x = one.zeros::<f32>(4).unwrap();
    let mut y = other.zeros::<f32>(4).unwrap();
    for result in [
        one.add(4, &x, &mut y),
        other.copy(&x, 0, &mut y, 0, 1),
        other.read(&x, 0, &mut [0.0]),
    ] {
        assert!(matches!(result, Err(Error::NoDevice { .. })), "{result:?}");
    }
}

#[test]
fn wrong_lengths_are_errors_and_not_panics() {
    let b = gpu::device();
    let s = GemmShape::new(2, 3, 4);
    let w = b
        .pack(&QuantMatrix::f32(3, 4, &[0.0; 12]).unwrap())
        .unwrap();
    let (x, mut y) = (b.zeros(8).unwrap(), b.zeros(6).unwrap());
    assert!(b.gemm(s, &x, &w, None, &mut y).is_ok());
    for s in [GemmShape { m: 3, ..s }, GemmShape { n: 2, ..s }] {
        assert!(b.gemm(s, &x, &w, None, &mut y).is_err());
    }
    assert!(b.read(&x, 7, &mut [0.0; 2]).is_err());
    assert!(b.write(&mut y, usize::MAX, &[0.0; 2]).is_err());
    assert!(b.copy(&x, 0, &mut y, 0, 7).is_err());
    assert!(b.read(&x, 8, &mut []).is_ok());
    assert!(matches!(
        b.matrix(Format::F32, usize::MAX / 64, 64),
        Err(Error::Overflow { .. } | Error::OutOfMemory { .. })
    ));
}

//! The device itself: what it refuses, and whose errors are whose.

use maquette::Error;
use maquette::cuda::{Buffer, Device, Records};
use maquette::ops::Backend;
use maquette::ops::attention::MoveShape;
use maquette::ops::conv::{ConvShape, Rounding};
use maquette::ops::gemm::GemmShape;
use maquette::ops::vq::GatherShape;
use maquette::quant::{Format, QuantMatrix};

use super::gpu;

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
    // A planner's matrix is a byte of the same GPU.
    let planner = one.planner().unwrap();
    for owner in [&other, &planner] {
        let w = owner.matrix(Format::F32, 2, 2).unwrap();
        let (bias, mut y) = (one.zeros(2).unwrap(), one.zeros(4).unwrap());
        let index = one.zeros(2).unwrap();
        let conv = ConvShape::same(1, [1, 2], 2, 2, 1);
        let gather = GatherShape {
            rows: 2,
            width: 2,
            table_rows: 2,
        };
        for result in [
            one.gemm(GemmShape::new(2, 2, 2), &x, &w, None, &mut y),
            one.conv2d(conv, &x, &w, &bias, &mut y),
            one.gather_rows(gather, &index, &w, &mut y),
        ] {
            assert!(matches!(result, Err(Error::NoDevice { .. })), "{result:?}");
        }
    }
}

#[test]
fn gpus_that_are_not_there_are_errors() {
    gpu::device();
    assert!(Device::count().unwrap() > 0);
    // Not the first one, which has this number in 32 bits.
    let error = Device::new(1 << 32).unwrap_err();
    assert!(matches!(error, Error::NoDevice { .. }), "{error}");
}

#[test]
fn a_thread_may_begin_with_any_operation() {
    let device = gpu::device();
    let mut cache = device.zeros::<f32>(8).unwrap();
    device.write(&mut cache, 0, &[1.0, 2.0]).unwrap();
    let s = MoveShape {
        heads: 2,
        head_stride: 4,
        from: 0,
        to: 2,
        len: 2,
    };
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| device.move_rows(s, &mut cache));
        moved.join().unwrap().unwrap();
    });
    let mut out = [0.0; 8];
    device.read(&cache, 0, &mut out).unwrap();
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
}

/// A buffer of one number.
fn number(device: &Device, x: f32) -> Buffer<f32> {
    let mut buffer = device.zeros(1).unwrap();
    device.write(&mut buffer, 0, &[x]).unwrap();
    buffer
}

fn of(device: &Device, x: &Buffer<f32>) -> f32 {
    let mut out = [0.0];
    device.read(x, 0, &mut out).unwrap();
    out[0]
}

#[test]
fn work_in_work_is_recorded_with_it() {
    let device = gpu::device();
    let (mut x, one) = (number(&device, 0.0), number(&device, 1.0));
    let mut outer = Records::default();
    for round in 1..=4_u8 {
        // Within a round this work comes for the first time, is recorded, and is launched.
        let mut inner = Records::default();
        let mut work = || {
            device.add(1, &one, &mut x)?;
            for _ in 0..3 {
                let mut add = || device.add(1, &one, &mut x);
                device.repeat(&mut inner, [0, 0], &mut add)?;
            }
            device.add(1, &one, &mut x)
        };
        device.repeat(&mut outer, [0, 0], &mut work).unwrap();
        assert_eq!(of(&device, &x), f32::from(round) * 5.0);
    }
}

#[test]
fn records_are_of_one_device_value() {
    let (one, other) = (gpu::device(), gpu::device());
    let mut records = Records::default();
    let [first, second] = [&one, &other].map(|device| {
        let (mut x, more) = (number(device, 1.0), number(device, 2.0));
        for _ in 0..3 {
            let mut add = || device.add(1, &more, &mut x);
            device.repeat(&mut records, [0, 0], &mut add).unwrap();
        }
        (of(device, &x), x)
    });
    assert_eq!([first.0, second.0], [7.0, 7.0]);
    // Nor has the second's work reached what is the first's.
    assert_eq!([of(&one, &first.1), of(&other, &second.1)], [7.0, 7.0]);
}

#[test]
fn repeated_work_reserves_nothing() {
    let device = gpu::device();
    let mut records = Records::default();
    for _ in 0..3 {
        // While it is recorded; else it is as ever.
        let mut work = || device.zeros::<f32>(1).map(drop);
        device.repeat(&mut records, [0, 0], &mut work).unwrap();
    }
    if let Some(times) = gpu::repeated() {
        assert_eq!(times, 0);
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

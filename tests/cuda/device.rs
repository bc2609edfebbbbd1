//! The device itself: what it refuses, and whose errors are whose.

use maquette::Error;
use maquette::cuda::Device;
use maquette::ops::Backend;
use maquette::ops::conv::Rounding;
use maquette::ops::gemm::GemmShape;
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

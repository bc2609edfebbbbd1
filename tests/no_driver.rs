//! A GPU that is not there is an error that says so, and the CPU does the work. The stand-in driver stays out of this
//! program: what it finds is the machine's own.
#![cfg(feature = "cuda")]

use std::error::Error as _;

use maquette::Error;
use maquette::cpu::Cpu;
use maquette::cuda::Device;
use maquette::ops::Backend;

#[test]
fn without_a_driver_the_error_names_it_and_the_cpu_is_left() {
    match Device::new(0) {
        Ok(gpu) => assert!(gpu.capability() >= (8, 0)),
        Err(error @ Error::NoDevice { .. }) => {
            assert!(error.to_string().starts_with("cuda: "));
            assert!(error.source().is_some());
        }
        // A driver or a GPU that is too old.
        Err(error) => assert!(matches!(error, Error::Range { op: "cuda", .. }), "{error}"),
    }
    // No such GPU in any machine.
    assert!(Device::new(1 << 20).is_err());
    assert!(Cpu::new().zeros::<f32>(1).is_ok());
}

//! Launches of its own beside the crate's: one context of the device, used by both.

use cudarc::driver::CudaContext;
use maquette::cuda::Device;
use maquette::ops::Backend;

fn main() {
    let gpu = match Device::new(0) {
        Ok(gpu) => gpu,
        Err(error) => return println!("no GPU: {error}"),
    };
    let context = CudaContext::new(0).expect("the device that was there just now");
    let stream = context.default_stream();
    let mine = stream.clone_htod(&[1.0_f32, 2.0]).expect("memory");
    let mut numbers = gpu.zeros::<f32>(2).expect("memory");
    let host = stream.clone_dtoh(&mine).expect("a copy");
    gpu.write(&mut numbers, 0, &host).expect("a copy");
    let mut back = [0.0; 2];
    gpu.read(&numbers, 0, &mut back).expect("a copy");
    assert_eq!(back, [1.0, 2.0]);
    println!("{}: {back:?}", gpu.name());
}

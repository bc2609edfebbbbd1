//! Codes and latents beside loops that look at one entry at a time.

use maquette::Error;
use maquette::cpu::Cpu;
use maquette::ops::vq::{
    GatherShape, LfqShape, NearestShape, gather, lfq_codes, lfq_lookup, nearest,
};
use maquette::ops::{Backend, Element};

use crate::bytes::Bytes;

fn on<T: Element>(cpu: &Cpu, data: &[T]) -> <Cpu as Backend>::Buffer<T> {
    let mut buffer = cpu.zeros(data.len()).unwrap();
    cpu.write(&mut buffer, 0, data).unwrap();
    buffer
}

fn bits(cpu: &Cpu, buffer: &<Cpu as Backend>::Buffer<f32>, len: usize) -> Vec<u32> {
    let mut out = vec![0.0; len];
    cpu.read(buffer, 0, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

/// Any codes at all are looked up without reading beyond the codebook; any latents find their nearest code or an error.
pub fn codebooks(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let cpu = Cpu::new();
    let (n, width, entries) = (bytes.below(9), 1 + bytes.below(9), 1 + bytes.below(40));
    let wild = bytes.below(2) == 0;
    let codes: Vec<u32> = (0..n)
        .map(|_| match bytes.below(2) {
            0 => bytes.word(),
            _ => u32::from(bytes.byte()) % 64,
        })
        .collect();
    let table: Vec<f32> = (0..entries * width).map(|_| bytes.float(false)).collect();

    let s = GatherShape {
        rows: n,
        width,
        table_rows: entries,
    };
    let mut out = vec![7.0; n * width];
    gather(s, &codes, &table, &mut out).unwrap();
    for (i, &code) in codes.iter().enumerate() {
        for c in 0..width {
            let there = (code as usize) < entries;
            let want = if there {
                table[code as usize * width + c]
            } else {
                0.0
            };
            assert_eq!(out[i * width + c].to_bits(), want.to_bits());
        }
    }
    let mut on_cpu = cpu.zeros(n * width).unwrap();
    cpu.gather(s, &on(&cpu, &codes), &on(&cpu, &table), &mut on_cpu)
        .unwrap();
    let want: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits(&cpu, &on_cpu, n * width), want);

    let s = LfqShape { n, bits: width };
    let mut signs = vec![7.0; n * width];
    lfq_lookup(s, &codes, &mut signs).unwrap();
    let mut back = vec![9; n];
    lfq_codes(s, &signs, &mut back).unwrap();
    for (i, &code) in codes.iter().enumerate() {
        if code >> width == 0 {
            assert_eq!(back[i], code);
        } else {
            assert!(signs[i * width..][..width].iter().all(|v| v.to_bits() == 0));
        }
    }

    let latents: Vec<f32> = (0..n * width).map(|_| bytes.float(wild)).collect();
    for normalise in [false, true] {
        let s = NearestShape {
            n,
            width,
            entries,
            normalise,
        };
        let (mut got, mut got_cpu) = (vec![0; n], cpu.zeros::<u32>(n).unwrap());
        let found = nearest(s, &latents, &table, &mut got);
        let found_cpu = cpu.nearest(s, &on(&cpu, &latents), &on(&cpu, &table), &mut got_cpu);
        assert_eq!(found.is_ok(), found_cpu.is_ok());
        if let Err(error) = found {
            assert!(matches!(error, Error::NotFinite { .. }));
            assert!(latents.iter().any(|v| !v.is_finite() || v.abs() > 1e15));
            continue;
        }
        let mut again = vec![0; n];
        cpu.read(&got_cpu, 0, &mut again).unwrap();
        assert_eq!(again, got);
        // The square of a length of more than 1e19 is infinite, and such a latent counts as none, as in the reference.
        let huge = normalise && latents.iter().any(|v| v.abs() > 1e15);
        for (i, &code) in got.iter().enumerate().take(if huge { 0 } else { n }) {
            let latent: Vec<f64> = latents[i * width..][..width]
                .iter()
                .map(|&v| f64::from(v))
                .collect();
            let length = latent.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            let scale = if normalise { 1.0 / length } else { 1.0 };
            let far = |j: usize| -> f64 {
                let entry = &table[j * width..][..width];
                let off = |(z, &e): (&f64, &f32)| (z * scale - f64::from(e)).powi(2);
                latent.iter().zip(entry).map(off).sum()
            };
            let least = (0..entries).map(far).fold(f64::INFINITY, f64::min);
            // Single precision cannot tell distances apart that differ in its last places.
            assert!(
                far(code as usize) <= least * (1.0 + 1e-5) + 1e-9,
                "{code} of {entries}"
            );
        }
    }
}

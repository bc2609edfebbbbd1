//! What loading makes of numbers that a format cannot hold, and of half precision.

use half::{bf16, f16};
use maquette::cpu::Cpu;
use maquette::model::files::maquette::write;
use maquette::model::weights::{DType, Loader, Tensor, WeightSource};
use maquette::ops::gemm::GemmShape;
use maquette::ops::vq::GatherShape;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::{Error, Result};

/// Whole blocks of every format.
const WIDTH: usize = 256;

/// One matrix, `[n, WIDTH]`.
struct One {
    dtype: DType,
    bytes: Vec<u8>,
}

impl WeightSource for One {
    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        let (len, size) = self.dtype.piece().unwrap();
        Some(Tensor {
            dtype: self.dtype,
            shape: vec![self.bytes.len() / size * len / WIDTH, WIDTH],
            bytes: &self.bytes,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        visit("w.weight");
    }
}

/// Two rows of ones in which the number at `place` is another.
fn with(dtype: DType, place: usize, value: f32) -> One {
    let mut x = [1.0; 2 * WIDTH];
    x[place] = value;
    let bytes = match dtype {
        DType::F32 => x.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => x
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect(),
        _ => x
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
    };
    One { dtype, bytes }
}

fn load(source: &One, format: Format) -> Result<()> {
    let same = |name: &str| name.to_owned();
    let loader = Loader::new(&Reference, source, format, &same);
    loader.matrix(&[("w.weight", 2)], WIDTH).map(drop)
}

#[test]
fn numbers_that_a_format_cannot_hold_are_refused_by_name_and_place() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for &format in Format::ALL {
                for place in [0, 31, 32, 255, 256, 511] {
                    let source = with(dtype, place, value);
                    let got = load(&source, format).unwrap_err();
                    assert!(
                        matches!(&got, Error::TensorNumber { name, .. } if name.as_str() == "w.weight"),
                        "{dtype:?} {format:?}: {got}"
                    );
                }
                let source = with(dtype, 300, value);
                let got = write(&source, format, &[], &mut |_| Ok(())).unwrap_err();
                assert!(
                    got.to_string().contains("\"w.weight\" has a number"),
                    "{got}"
                );
            }
        }
    }
    // Finite, but not in every format.
    for (value, format, held) in [
        (f32::MAX, Format::F32, true),
        (f32::MAX, Format::Bf16, false),
        (-f32::MAX, Format::Bf16, false),
        (3.38e38, Format::Bf16, true),
        (65504.0 * 127.0, Format::Q8_0, true),
        (65504.0 * 129.0, Format::Q8_0, false),
        (-65504.0 * 8.0, Format::Q4_0, true),
        (65504.0 * 8.2, Format::Q4_0, false),
        (f32::MIN_POSITIVE / 2.0, Format::Q4_0, true),
        (f32::MAX, Format::Q8_0, false),
        (65504.0 * 63.0 * 14.9, Format::Q4K, true),
        (65504.0 * 63.0 * 15.1, Format::Q4K, false),
        (-65504.0 * 62.9, Format::Q4K, true),
        (-65504.0 * 63.1, Format::Q4K, false),
        (f32::MAX, Format::Q4K, false),
        (65504.0 * 8.0, Format::Q4G128, true),
        (-65504.0 * 8.2, Format::Q4G128, false),
    ] {
        for place in [5, 340] {
            let source = with(DType::F32, place, value);
            let (loaded, written) = (
                load(&source, format),
                write(&source, format, &[], &mut |_| Ok(())),
            );
            assert_eq!(loaded.is_ok(), held, "{value} as {format:?}: {loaded:?}");
            assert_eq!(written.is_ok(), held, "{value} as {format:?}: {written:?}");
            if let Err(error) = loaded {
                let block = place / format.block() * format.block();
                assert!(
                    matches!(error, Error::TensorNumber { element, .. } if element == block),
                    "{error}"
                );
            }
        }
    }
}

/// Half precision is read, not kept: every one of its numbers comes out as it is.
#[test]
fn every_number_of_half_precision_is_read_exactly() {
    for (dtype, float) in [
        (
            DType::F16,
            (|b| f16::from_bits(b).to_f32()) as fn(u16) -> f32,
        ),
        (DType::BF16, |b| bf16::from_bits(b).to_f32()),
    ] {
        let bits: Vec<u16> = (0..=u16::MAX).filter(|b| float(*b).is_finite()).collect();
        let bits = &bits[..bits.len() / WIDTH * WIDTH];
        let bytes = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let (source, same) = (One { dtype, bytes }, |name: &str| name.to_owned());
        let loader = Loader::new(&Reference, &source, Format::F32, &same);
        let got = loader
            .floats("w.weight", &[bits.len() / WIDTH, WIDTH])
            .unwrap();
        assert!(
            bits.iter()
                .zip(&got)
                .all(|(b, v)| float(*b).to_bits() == v.to_bits())
        );
    }
}

/// Random blocks, as no quantiser here would write them.
fn blocks(format: Format, rows: usize) -> Vec<u8> {
    let mut bytes = vec![0; format.bytes(rows, WIDTH).unwrap()];
    for (i, out) in (0..).zip(bytes.chunks_mut(16)) {
        let words = maquette::rng::philox([i, 3], [0; 4]).map(u32::to_le_bytes);
        out.copy_from_slice(&words.as_flattened()[..out.len()]);
    }
    for block in bytes.chunks_mut(format.block_bytes()) {
        // Finite scales of either sign.
        block[1] &= 0xbf;
        if format == Format::Q4K {
            block[3] &= 0xbf;
        }
    }
    bytes
}

#[test]
fn blocks_of_a_file_are_kept_bit_for_bit() {
    let rows = 70;
    for &format in Format::ALL {
        let Some(block) = format.as_block() else {
            continue;
        };
        let (bytes, same) = (blocks(format, rows), |name: &str| name.to_owned());
        let mut want = vec![0.0; rows * WIDTH];
        block.dequantise(&bytes, &mut want);
        let source = One {
            dtype: DType::Block(block),
            bytes,
        };
        let cpu = Cpu::with_threads(1).unwrap();
        let loader = Loader::new(&cpu, &source, format, &same);
        let matrix = loader.matrix(&[("w.weight", rows)], WIDTH).unwrap();
        let s = GatherShape {
            rows,
            width: WIDTH,
            table_rows: rows,
        };
        let (mut index, mut out) = (cpu.zeros(rows).unwrap(), cpu.zeros(want.len()).unwrap());
        cpu.write(&mut index, 0, &(0..70).collect::<Vec<u32>>())
            .unwrap();
        cpu.gather_rows(s, &index, &matrix, &mut out).unwrap();
        let mut got = vec![0.0; want.len()];
        cpu.read(&out, 0, &mut got).unwrap();
        let same = want
            .iter()
            .zip(&got)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}", format.name());
        // And in a checkpoint of this crate.
        let mut file = Vec::new();
        write(&source, format, &[], &mut |bytes| {
            file.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        assert!(file.ends_with(&source.bytes), "{}", format.name());
        // A second scale that is no number is seen, as the first is.
        for at in [0, 2]
            .into_iter()
            .take(if format == Format::Q4K { 2 } else { 1 })
        {
            let mut bad = One {
                dtype: source.dtype,
                bytes: source.bytes.clone(),
            };
            let place = 3 * format.block_bytes() + at;
            bad.bytes[place..place + 2].copy_from_slice(&0xfc00_u16.to_le_bytes());
            let got = Loader::new(&Reference, &bad, format, &|name: &str| name.to_owned())
                .matrix(&[("w.weight", rows)], WIDTH);
            let want = 3 * format.block();
            assert!(
                matches!(got, Err(Error::TensorNumber { element, .. }) if element == want),
                "{got:?}"
            );
        }
    }
}

/// A matrix `[70, 40]`.
struct Odd(Vec<u8>);

impl WeightSource for Odd {
    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        Some(Tensor {
            dtype: DType::F32,
            shape: vec![70, 40],
            bytes: &self.0,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        visit("w.weight");
    }
}

#[test]
fn a_matrix_that_is_filled_up_has_the_numbers_of_one_with_zeros() {
    let numbers: Vec<f32> = (0..70 * 40).map(|i| (i as f32 * 0.37).sin()).collect();
    let source = Odd(numbers.iter().flat_map(|v| v.to_le_bytes()).collect());
    let same = |name: &str| name.to_owned();
    for (format, whole) in [
        (Format::F32, 40),
        (Format::Bf16, 40),
        (Format::Q8_0, 128),
        (Format::Q4_0, 128),
        (Format::Q4G128, 128),
        (Format::Q4K, 128),
    ] {
        let loader = Loader::new(&Reference, &source, format, &same);
        assert_eq!(loader.whole(40), whole, "{format:?}");
        assert_eq!(loader.whole(256), 256);
        let got = loader.filled("w.weight", [70, 40], [96, 128]).unwrap();
        let mut zeros = vec![0.0; 96 * 128];
        for (row, from) in zeros.chunks_mut(128).zip(numbers.chunks(40)) {
            row[..40].copy_from_slice(from);
        }
        let want = loader.pack("w.weight", 96, 128, &zeros).unwrap();
        let x: Vec<f32> = (0..3 * 128).map(|i| (i as f32 * 0.11).cos()).collect();
        let mut rows = Reference.zeros(x.len()).unwrap();
        Reference.write(&mut rows, 0, &x).unwrap();
        let product = |matrix: &_| {
            let (mut y, mut out) = (Reference.zeros(3 * 96).unwrap(), [0.0; 3 * 96]);
            let shape = GemmShape::new(3, 96, 128);
            Reference.gemm(shape, &rows, matrix, None, &mut y).unwrap();
            Reference.read(&y, 0, &mut out).unwrap();
            out
        };
        assert_eq!(product(&got), product(&want), "{format:?}");
        let large = vec![f32::MAX; 96 * 128];
        if let Err(error) = loader.pack("w.weight", 96, 128, &large) {
            let told = error.to_string();
            assert!(
                told.contains("\"w.weight\" has a number in element 0"),
                "{told}"
            );
        } else {
            assert_eq!(format, Format::F32);
        }
        assert!(loader.filled("w.weight", [70, 40], [69, 128]).is_err());
        assert!(loader.filled("w.weight", [70, 40], [96, 39]).is_err());
    }
}

#[test]
fn bytes_that_are_not_those_of_the_shape_are_named() {
    let same = |name: &str| name.to_owned();
    let told = |source: &dyn WeightSource, shape: &[usize]| {
        let loader = Loader::new(&Reference, source, Format::F32, &same);
        loader.floats("w.weight", shape).unwrap_err().to_string()
    };
    for len in [0, 70 * 40 * 4 - 1, 70 * 40 * 4 + 4] {
        assert_eq!(
            told(&Odd(vec![0; len]), &[70, 40]),
            "weights: \"w.weight\" has another length than its shape"
        );
    }
    // Blocks lie along the last size, which is another one here.
    let source = One {
        dtype: DType::Block(Format::Q8_0.as_block().unwrap()),
        bytes: vec![0; 2 * Format::Q8_0.bytes(1, WIDTH).unwrap()],
    };
    assert_eq!(
        told(&source, &[2, WIDTH, 1]),
        "weights: \"w.weight\" has rows that are no whole blocks"
    );
}

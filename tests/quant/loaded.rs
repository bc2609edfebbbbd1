//! What loading makes of numbers that a format cannot hold, and of half precision.

use half::{bf16, f16};
use maquette::model::files::maquette::write;
use maquette::model::weights::{DType, Loader, Tensor, WeightSource};
use maquette::ops::Reference;
use maquette::quant::Format;
use maquette::{Error, Result};

/// One matrix, `[n, 32]`.
struct One {
    dtype: DType,
    bytes: Vec<u8>,
}

impl WeightSource for One {
    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        let (_, size) = self.dtype.piece().unwrap();
        Some(Tensor {
            dtype: self.dtype,
            shape: vec![self.bytes.len() / size / 32, 32],
            bytes: &self.bytes,
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        visit("w.weight");
    }
}

/// Two rows of ones in which the number at `place` is another.
fn with(dtype: DType, place: usize, value: f32) -> One {
    let mut x = [1.0; 64];
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
    loader.matrix(&[("w.weight", 2)], 32).map(drop)
}

#[test]
fn numbers_that_a_format_cannot_hold_are_refused_by_name_and_place() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for format in Format::ALL {
                for place in [0, 31, 32, 63] {
                    let source = with(dtype, place, value);
                    let got = load(&source, format).unwrap_err();
                    assert!(
                        matches!(got, Error::NotFinite { .. }),
                        "{dtype:?} {format:?}: {got}"
                    );
                }
                let source = with(dtype, 33, value);
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
    ] {
        for place in [5, 40] {
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
                    matches!(error, Error::NotFinite { row, .. } if row == block),
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
        let bits = &bits[..bits.len() / 32 * 32];
        let bytes = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let (source, same) = (One { dtype, bytes }, |name: &str| name.to_owned());
        let loader = Loader::new(&Reference, &source, Format::F32, &same);
        let got = loader.floats("w.weight", &[bits.len() / 32, 32]).unwrap();
        assert!(
            bits.iter()
                .zip(&got)
                .all(|(b, v)| float(*b).to_bits() == v.to_bits())
        );
    }
}

//! What single instructions make of single numbers.

use crate::program::{Cmp, Round, Type};

/// Whether two floats compare so; the unordered forms hold for no number.
pub(super) fn test_floats(cmp: Cmp, a: f32, b: f32) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => !unordered && a != b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => unordered || a == b,
        Cmp::Neu => a != b,
        Cmp::Ltu => unordered || a < b,
        Cmp::Leu => unordered || a <= b,
        Cmp::Gtu => unordered || a > b,
        Cmp::Geu => unordered || a >= b,
        Cmp::Num => !unordered,
        Cmp::Nan => unordered,
    }
}

/// The smaller or larger of two, the number where one is none.
pub(super) fn pick(a: f32, b: f32, larger: bool) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || (a > b) == larger && a != b {
        a
    } else if a == b {
        // Of zeros the negative one is the smaller.
        if a.is_sign_negative() == larger { b } else { a }
    } else {
        b
    }
}

/// 2^x. What is too small for a normal number is zero, before and after.
pub(super) fn power_of_two(x: f32) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounds")]
    let y = f64::from(x).exp2() as f32;
    if y < f32::MIN_POSITIVE { 0.0 } else { y }
}

pub(super) fn half(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (bits >> 15, bits >> 10 & 31, bits & 1023);
    let magnitude = match exponent {
        0 => f32::from(mantissa) / 16_777_216.0,
        31 if mantissa == 0 => f32::INFINITY,
        31 => f32::NAN,
        _ => f32::from_bits(u32::from(exponent + 112) << 23 | u32::from(mantissa) << 13),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "conversions are the subject"
)]
pub(super) fn convert(to: Type, from: Type, round: Round, bits: u64) -> Option<u64> {
    use Type::{F16, F32, F64, S8, S16, S32, S64, U8, U16, U32, U64};
    enum Number {
        Whole(i128),
        Float(f64),
    }
    let number = match from {
        U8 => Number::Whole(i128::from(bits as u8)),
        S8 => Number::Whole(i128::from(bits as i8)),
        U16 => Number::Whole(i128::from(bits as u16)),
        S16 => Number::Whole(i128::from(bits as i16)),
        U32 => Number::Whole(i128::from(bits as u32)),
        S32 => Number::Whole(i128::from(bits as i32)),
        U64 => Number::Whole(i128::from(bits)),
        S64 => Number::Whole(i128::from(bits as i64)),
        F16 => Number::Float(f64::from(half(bits as u16))),
        F32 => Number::Float(f64::from(f32::from_bits(bits as u32))),
        F64 => Number::Float(f64::from_bits(bits)),
    };
    let whole = |v: i128| match to {
        U8 => v as u8 as u64,
        // Registers hold the low 16 bits.
        S8 => v as i8 as u16 as u64,
        U16 => v as u16 as u64,
        S16 => v as i16 as u16 as u64,
        U32 => v as u32 as u64,
        S32 => v as i32 as u32 as u64,
        _ => v as u64,
    };
    let rounded = |v: f64| match round {
        Round::Nearest => v.round_ties_even(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
        _ => v.trunc(),
    };
    Some(match (number, to, round) {
        (Number::Whole(v), F32, Round::Nearest) => u64::from((v as f32).to_bits()),
        (Number::Whole(v), F64, Round::Nearest) => (v as f64).to_bits(),
        (Number::Whole(v), U8 | S8 | U16 | S16 | U32 | S32 | U64 | S64, Round::Exact) => whole(v),
        (Number::Float(v), F32, Round::Saturate) => {
            let v = if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) };
            u64::from((v as f32).to_bits())
        }
        (Number::Float(v), F32, Round::Exact | Round::Nearest) => u64::from((v as f32).to_bits()),
        (Number::Float(v), F64, Round::Exact) => v.to_bits(),
        // Out of range saturates, and no number is zero.
        (Number::Float(v), S32, Round::Nearest | Round::Zero | Round::Down | Round::Up) => {
            u64::from(rounded(v) as i32 as u32)
        }
        (Number::Float(v), U32, Round::Nearest | Round::Zero | Round::Down | Round::Up) => {
            u64::from(rounded(v) as u32)
        }
        _ => return None,
    })
}

pub(super) fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, i| {
        let choice = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (choice & 7))) as u8;
        let byte = if choice & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        out | u32::from(byte) << (8 * i)
    })
}

/// Bit by bit what the table has for the three.
pub(super) fn looked_up(words: [u32; 3], table: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
        let agree = |w: usize| {
            if i >> (2 - w) & 1 == 1 {
                words[w]
            } else {
                !words[w]
            }
        };
        out | agree(0) & agree(1) & agree(2)
    })
}

pub(super) fn insert(a: u64, b: u64, at: u32, len: u32, width: u32) -> u64 {
    let (at, len) = (at & 255, len & 255);
    if at >= width || len == 0 {
        return b;
    }
    let len = len.min(width - at);
    let mask = if len == 64 { u64::MAX } else { (1 << len) - 1 } << at;
    b & !mask | a << at & mask
}

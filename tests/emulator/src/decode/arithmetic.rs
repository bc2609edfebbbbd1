//! Arithmetic by name and type.

use super::{Bank, Decoder};
use crate::Result;
use crate::program::{Inst, Op};

impl Decoder {
    /// Instructions that make one number of up to four.
    pub(super) fn arithmetic(&mut self, parts: &[&str], args: &[String]) -> Result<Inst> {
        use Bank::{Long, Pred, Word};
        let last = parts.last().copied().unwrap_or_default();
        let name = match parts {
            [op, middle @ .., _] => [&[*op], middle].concat().join("."),
            _ => return Err("an unknown instruction".into()),
        };
        // The source registers of shifts count in 32 bits.
        let (op, banks): (Op, &[Bank]) = match (name.as_str(), last) {
            ("add", "s32" | "u32") => (Op::Add32, &[Word; 3]),
            ("sub", "s32" | "u32") => (Op::Sub32, &[Word; 3]),
            ("mul.lo", "s32" | "u32") => (Op::Mul32, &[Word; 3]),
            ("mul.hi", "u32") => (Op::MulHiU32, &[Word; 3]),
            ("mul.hi", "s32") => (Op::MulHiS32, &[Word; 3]),
            ("mad.lo", "s32" | "u32") => (Op::Mad32, &[Word; 4]),
            ("mul.wide", "u32") => (Op::MulWideU32, &[Long, Word, Word]),
            ("mul.wide", "s32") => (Op::MulWideS32, &[Long, Word, Word]),
            ("mad.wide", "u32") => (Op::MadWideU32, &[Long, Word, Word, Long]),
            ("mad.wide", "s32") => (Op::MadWideS32, &[Long, Word, Word, Long]),
            ("div", "u32") => (Op::DivU32, &[Word; 3]),
            ("rem", "u32") => (Op::RemU32, &[Word; 3]),
            ("div", "s32") => (Op::DivS32, &[Word; 3]),
            ("rem", "s32") => (Op::RemS32, &[Word; 3]),
            ("min", "u32") => (Op::MinU32, &[Word; 3]),
            ("max", "u32") => (Op::MaxU32, &[Word; 3]),
            ("min", "s32") => (Op::MinS32, &[Word; 3]),
            ("max", "s32") => (Op::MaxS32, &[Word; 3]),
            ("and", "b32" | "b16") => (Op::And32, &[Word; 3]),
            ("or", "b32" | "b16") => (Op::Or32, &[Word; 3]),
            ("xor", "b32" | "b16") => (Op::Xor32, &[Word; 3]),
            ("not", "b32") => (Op::Not32, &[Word; 2]),
            ("neg", "s32") => (Op::Neg32, &[Word; 2]),
            ("popc", "b32") => (Op::Popc32, &[Word; 2]),
            ("shl", "b32") => (Op::Shl32, &[Word; 3]),
            ("shr", "u32" | "b32") => (Op::ShrU32, &[Word; 3]),
            ("shr", "s32") => (Op::ShrS32, &[Word; 3]),
            ("prmt", "b32") => (Op::Prmt, &[Word; 4]),
            ("bfi", "b32") => (Op::Bfi32, &[Word; 5]),
            ("lop3", "b32") => (Op::Lop3, &[Word; 5]),
            ("dp4a.s32", "s32") => (Op::Dp4aSS, &[Word; 4]),
            ("dp4a.u32", "u32") => (Op::Dp4aUU, &[Word; 4]),
            ("add", "s64" | "u64") => (Op::Add64, &[Long; 3]),
            ("sub", "s64" | "u64") => (Op::Sub64, &[Long; 3]),
            ("mul.lo", "s64" | "u64") => (Op::Mul64, &[Long; 3]),
            ("mad.lo", "s64" | "u64") => (Op::Mad64, &[Long; 4]),
            ("div", "u64") => (Op::DivU64, &[Long; 3]),
            ("rem", "u64") => (Op::RemU64, &[Long; 3]),
            ("min", "u64") => (Op::MinU64, &[Long; 3]),
            ("max", "u64") => (Op::MaxU64, &[Long; 3]),
            ("and", "b64") => (Op::And64, &[Long; 3]),
            ("or", "b64") => (Op::Or64, &[Long; 3]),
            ("xor", "b64") => (Op::Xor64, &[Long; 3]),
            ("not", "b64") => (Op::Not64, &[Long; 2]),
            ("neg", "s64") => (Op::Neg64, &[Long; 2]),
            ("shl", "b64") => (Op::Shl64, &[Long, Long, Word]),
            ("shr", "u64" | "b64") => (Op::ShrU64, &[Long, Long, Word]),
            ("shr", "s64") => (Op::ShrS64, &[Long, Long, Word]),
            ("bfi", "b64") => (Op::Bfi64, &[Long, Long, Long, Word, Word]),
            ("add.rn" | "add", "f32") => (Op::AddF, &[Word; 3]),
            ("sub.rn" | "sub", "f32") => (Op::SubF, &[Word; 3]),
            ("mul.rn" | "mul", "f32") => (Op::MulF, &[Word; 3]),
            ("fma.rn", "f32") => (Op::FmaF, &[Word; 4]),
            ("cvt.rn.bf16x2", "f32") => (Op::JoinBf16, &[Word; 3]),
            ("ex2.approx.ftz", "f32") => (Op::PowerF, &[Word; 2]),
            ("div.rn", "f32") => (Op::DivF, &[Word; 3]),
            ("rcp.rn", "f32") => (Op::RcpF, &[Word; 2]),
            ("sqrt.rn", "f32") => (Op::SqrtF, &[Word; 2]),
            ("min", "f32") => (Op::MinF, &[Word; 3]),
            ("max", "f32") => (Op::MaxF, &[Word; 3]),
            ("neg", "f32") => (Op::NegF, &[Word; 2]),
            ("abs", "f32") => (Op::AbsF, &[Word; 2]),
            ("add.rn" | "add", "f64") => (Op::AddF64, &[Long; 3]),
            ("mul.rn" | "mul", "f64") => (Op::MulF64, &[Long; 3]),
            ("and", "pred") => (Op::AndP, &[Pred; 3]),
            ("or", "pred") => (Op::OrP, &[Pred; 3]),
            ("xor", "pred") => (Op::XorP, &[Pred; 3]),
            ("not", "pred") => (Op::NotP, &[Pred; 2]),
            _ => return Err("an unknown instruction".into()),
        };
        if banks.len() != args.len() {
            return Err("another number of operands".into());
        }
        let pairs: Vec<(Bank, &str)> = banks
            .iter()
            .copied()
            .zip(args.iter().map(String::as_str))
            .collect();
        self.plain(op, &pairs)
    }
}

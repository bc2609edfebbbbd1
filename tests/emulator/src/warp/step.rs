//! Instructions that neither jump nor wait: the same for all lanes.

use super::access::SHARED_TAG;
use super::matrices::joined_halves;
use super::numbers::{convert, insert, looked_up, permute, pick, power_of_two, test_floats};
use super::{Block, Warp, put};
use crate::Result;
use crate::program::{Cmp, Inst, Kernel, Op, Round, Type};

/// One result a lane.
macro_rules! lanes {
    ($bank:expr, $d:expr, $m:expr, $zero:expr, |$l:ident| $e:expr) => {{
        let mut out = [$zero; 32];
        for $l in 0..32 {
            out[$l] = $e;
        }
        put(&mut $bank[$d as usize], out, $m);
    }};
}

macro_rules! words {
    ($w:ident, $i:ident, $m:ident, |$a:ident| $e:expr) => {{
        let x = $w.words[$i.a as usize];
        lanes!($w.words, $i.d, $m, 0_u32, |l| {
            let $a = x[l];
            $e
        });
    }};
    ($w:ident, $i:ident, $m:ident, |$a:ident, $b:ident| $e:expr) => {{
        let (x, y) = ($w.words[$i.a as usize], $w.words[$i.b as usize]);
        lanes!($w.words, $i.d, $m, 0_u32, |l| {
            let ($a, $b) = (x[l], y[l]);
            $e
        });
    }};
    ($w:ident, $i:ident, $m:ident, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        let (x, y, z) = (
            $w.words[$i.a as usize],
            $w.words[$i.b as usize],
            $w.words[$i.c as usize],
        );
        lanes!($w.words, $i.d, $m, 0_u32, |l| {
            let ($a, $b, $c) = (x[l], y[l], z[l]);
            $e
        });
    }};
}

macro_rules! floats {
    ($w:ident, $i:ident, $m:ident, |$a:ident| $e:expr) => {
        words!($w, $i, $m, |$a| {
            let $a = f32::from_bits($a);
            f32::to_bits($e)
        })
    };
    ($w:ident, $i:ident, $m:ident, |$a:ident, $b:ident| $e:expr) => {
        words!($w, $i, $m, |$a, $b| {
            let ($a, $b) = (f32::from_bits($a), f32::from_bits($b));
            f32::to_bits($e)
        })
    };
}

macro_rules! longs {
    ($w:ident, $i:ident, $m:ident, |$a:ident| $e:expr) => {{
        let x = $w.longs[$i.a as usize];
        lanes!($w.longs, $i.d, $m, 0_u64, |l| {
            let $a = x[l];
            $e
        });
    }};
    ($w:ident, $i:ident, $m:ident, |$a:ident, $b:ident| $e:expr) => {{
        let (x, y) = ($w.longs[$i.a as usize], $w.longs[$i.b as usize]);
        lanes!($w.longs, $i.d, $m, 0_u64, |l| {
            let ($a, $b) = (x[l], y[l]);
            $e
        });
    }};
}

/// A shift of 64 bits by a word.
macro_rules! shifts {
    ($w:ident, $i:ident, $m:ident, |$a:ident, $n:ident| $e:expr) => {{
        let (x, y) = ($w.longs[$i.a as usize], $w.words[$i.b as usize]);
        lanes!($w.longs, $i.d, $m, 0_u64, |l| {
            let ($a, $n) = (x[l], y[l]);
            $e
        });
    }};
}

/// A product of words, and what is added, in 64 bits.
macro_rules! wide {
    ($w:ident, $i:ident, $m:ident, $add:expr, |$a:ident, $b:ident| $e:expr) => {{
        let (x, y) = ($w.words[$i.a as usize], $w.words[$i.b as usize]);
        let z = if $add { $w.longs[$i.c as usize] } else { [0; 32] };
        lanes!($w.longs, $i.d, $m, 0_u64, |l| {
            let ($a, $b) = (x[l], y[l]);
            z[l].wrapping_add($e)
        });
    }};
}

/// A predicate: one bit a lane.
macro_rules! test {
    ($w:ident, $i:ident, $m:ident, $bank:ident, |$a:ident, $b:ident| $e:expr) => {{
        let (x, y) = ($w.$bank[$i.a as usize], $w.$bank[$i.b as usize]);
        let mut bits = 0_u32;
        for l in 0..32 {
            let ($a, $b) = (x[l], y[l]);
            bits |= u32::from($e) << l;
        }
        let old = &mut $w.preds[$i.d as usize];
        *old = *old & !$m | bits & $m;
    }};
}

macro_rules! compare {
    ($w:ident, $i:ident, $m:ident, $bank:ident, $cmp:ident, |$v:ident| $e:expr) => {{
        match $cmp {
            Cmp::Eq => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                == value!(b, $v, $e)),
            Cmp::Ne => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                != value!(b, $v, $e)),
            Cmp::Lt => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                < value!(b, $v, $e)),
            Cmp::Le => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                <= value!(b, $v, $e)),
            Cmp::Gt => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                > value!(b, $v, $e)),
            _ => test!($w, $i, $m, $bank, |a, b| value!(a, $v, $e)
                >= value!(b, $v, $e)),
        }
    }};
}
macro_rules! value {
    ($x:ident, $v:ident, $e:expr) => {{
        let $v = $x;
        $e
    }};
}

impl Warp {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "registers are bits"
    )]
    pub(super) fn step(&mut self, i: &Inst, m: u32, block: &mut Block<'_>) -> Result<()> {
        let w = self;
        match i.op {
            Op::Mov32 => words!(w, i, m, |a| a),
            Op::Mov64 => longs!(w, i, m, |a| a),
            Op::MovPred => {
                let a = w.preds[i.a as usize];
                let old = &mut w.preds[i.d as usize];
                *old = *old & !m | a & m;
            }
            Op::Param32 | Op::Param64 | Op::ParamWide => {
                let bytes = if i.op == Op::Param64 { 8 } else { 4 };
                let at = i.extra as usize;
                let raw = block
                    .params
                    .get(at..at + bytes)
                    .ok_or("a parameter outside the block")?;
                let mut value = [0; 8];
                value[..bytes].copy_from_slice(raw);
                let value = u64::from_le_bytes(value);
                if i.op == Op::Param32 {
                    put(&mut w.words[i.d as usize], [value as u32; 32], m);
                } else {
                    put(&mut w.longs[i.d as usize], [value; 32], m);
                }
            }
            Op::Join | Op::Split => w.halves(i, m, block.kernel),
            Op::Add32 => words!(w, i, m, |a, b| a.wrapping_add(b)),
            Op::Sub32 => words!(w, i, m, |a, b| a.wrapping_sub(b)),
            Op::Mul32 => words!(w, i, m, |a, b| a.wrapping_mul(b)),
            Op::MulHiU32 => words!(w, i, m, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            Op::MulHiS32 => words!(w, i, m, |a, b| ((i64::from(a as i32) * i64::from(b as i32))
                >> 32) as u32),
            Op::Mad32 => words!(w, i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            Op::MulWideU32 => wide!(w, i, m, false, |a, b| u64::from(a) * u64::from(b)),
            Op::MadWideU32 => wide!(w, i, m, true, |a, b| u64::from(a) * u64::from(b)),
            Op::MulWideS32 => {
                wide!(
                    w,
                    i,
                    m,
                    false,
                    |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64
                );
            }
            Op::MadWideS32 => {
                wide!(
                    w,
                    i,
                    m,
                    true,
                    |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64
                );
            }
            // A divisor of zero gives what the hardware gives: all ones.
            Op::DivU32 => words!(w, i, m, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            Op::RemU32 => words!(w, i, m, |a, b| a.checked_rem(b).unwrap_or(a)),
            Op::DivS32 => words!(w, i, m, |a, b| if b == 0 {
                u32::MAX
            } else {
                (a as i32).wrapping_div(b as i32) as u32
            }),
            Op::RemS32 => words!(w, i, m, |a, b| if b == 0 {
                a
            } else {
                (a as i32).wrapping_rem(b as i32) as u32
            }),
            Op::MinU32 => words!(w, i, m, |a, b| a.min(b)),
            Op::MaxU32 => words!(w, i, m, |a, b| a.max(b)),
            Op::MinS32 => words!(w, i, m, |a, b| (a as i32).min(b as i32) as u32),
            Op::MaxS32 => words!(w, i, m, |a, b| (a as i32).max(b as i32) as u32),
            Op::And32 => words!(w, i, m, |a, b| a & b),
            Op::Or32 => words!(w, i, m, |a, b| a | b),
            Op::Xor32 => words!(w, i, m, |a, b| a ^ b),
            Op::Not32 => words!(w, i, m, |a| !a),
            Op::Neg32 => words!(w, i, m, |a| a.wrapping_neg()),
            Op::Popc32 => words!(w, i, m, |a| a.count_ones()),
            Op::Shl32 => words!(w, i, m, |a, b| if b > 31 { 0 } else { a << b }),
            Op::ShrU32 => words!(w, i, m, |a, b| if b > 31 { 0 } else { a >> b }),
            Op::ShrS32 => words!(w, i, m, |a, b| ((a as i32) >> b.min(31)) as u32),
            Op::Prmt => words!(w, i, m, |a, b, c| permute(a, b, c)),
            Op::Bfi32 => {
                let len = w.words[i.extra as usize];
                let (x, y, z) = (
                    w.words[i.a as usize],
                    w.words[i.b as usize],
                    w.words[i.c as usize],
                );
                lanes!(w.words, i.d, m, 0_u32, |l| insert(
                    x[l].into(),
                    y[l].into(),
                    z[l],
                    len[l],
                    32
                ) as u32);
            }
            Op::Lop3 => {
                let table = w.words[i.extra as usize];
                let (x, y, z) = (
                    w.words[i.a as usize],
                    w.words[i.b as usize],
                    w.words[i.c as usize],
                );
                lanes!(w.words, i.d, m, 0_u32, |l| looked_up(
                    [x[l], y[l], z[l]],
                    table[l]
                ));
            }
            Op::Dp4aSS => words!(w, i, m, |a, b, c| {
                let mut sum = c as i32;
                for byte in 0..4 {
                    let (x, y) = ((a >> (8 * byte)) as i8, (b >> (8 * byte)) as i8);
                    sum = sum.wrapping_add(i32::from(x) * i32::from(y));
                }
                sum as u32
            }),
            Op::Dp4aUU => words!(w, i, m, |a, b, c| {
                let mut sum = c;
                for byte in 0..4 {
                    let (x, y) = ((a >> (8 * byte)) as u8, (b >> (8 * byte)) as u8);
                    sum = sum.wrapping_add(u32::from(x) * u32::from(y));
                }
                sum
            }),
            Op::Add64 => longs!(w, i, m, |a, b| a.wrapping_add(b)),
            Op::Sub64 => longs!(w, i, m, |a, b| a.wrapping_sub(b)),
            Op::Mul64 => longs!(w, i, m, |a, b| a.wrapping_mul(b)),
            Op::Mad64 => {
                let c = w.longs[i.c as usize];
                let (x, y) = (w.longs[i.a as usize], w.longs[i.b as usize]);
                lanes!(w.longs, i.d, m, 0_u64, |l| x[l]
                    .wrapping_mul(y[l])
                    .wrapping_add(c[l]));
            }
            Op::DivU64 => longs!(w, i, m, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            Op::RemU64 => longs!(w, i, m, |a, b| a.checked_rem(b).unwrap_or(a)),
            Op::MinU64 => longs!(w, i, m, |a, b| a.min(b)),
            Op::MaxU64 => longs!(w, i, m, |a, b| a.max(b)),
            Op::And64 => longs!(w, i, m, |a, b| a & b),
            Op::Or64 => longs!(w, i, m, |a, b| a | b),
            Op::Xor64 => longs!(w, i, m, |a, b| a ^ b),
            Op::Not64 => longs!(w, i, m, |a| !a),
            Op::Neg64 => longs!(w, i, m, |a| a.wrapping_neg()),
            Op::Shl64 => shifts!(w, i, m, |a, n| if n > 63 { 0 } else { a << n }),
            Op::ShrU64 => shifts!(w, i, m, |a, n| if n > 63 { 0 } else { a >> n }),
            Op::ShrS64 => shifts!(w, i, m, |a, n| ((a as i64) >> n.min(63)) as u64),
            Op::Bfi64 => {
                let (at, len) = (w.words[i.c as usize], w.words[i.extra as usize]);
                let (x, y) = (w.longs[i.a as usize], w.longs[i.b as usize]);
                lanes!(w.longs, i.d, m, 0_u64, |l| insert(
                    x[l], y[l], at[l], len[l], 64
                ));
            }
            Op::AddF => floats!(w, i, m, |a, b| a + b),
            Op::SubF => floats!(w, i, m, |a, b| a - b),
            Op::MulF => floats!(w, i, m, |a, b| a * b),
            Op::FmaF => words!(w, i, m, |a, b, c| f32::from_bits(a)
                .mul_add(f32::from_bits(b), f32::from_bits(c))
                .to_bits()),
            Op::JoinBf16 => words!(w, i, m, |a, b| joined_halves(a, b)),
            Op::PowerF => floats!(w, i, m, |a| power_of_two(a)),
            Op::DivF => floats!(w, i, m, |a, b| a / b),
            Op::RcpF => floats!(w, i, m, |a| 1.0 / a),
            Op::SqrtF => floats!(w, i, m, |a| a.sqrt()),
            Op::MinF => floats!(w, i, m, |a, b| pick(a, b, false)),
            Op::MaxF => floats!(w, i, m, |a, b| pick(a, b, true)),
            Op::NegF => words!(w, i, m, |a| a ^ 1 << 31),
            Op::AbsF => words!(w, i, m, |a| a & 0x7fff_ffff),
            Op::AddF64 => longs!(w, i, m, |a, b| (f64::from_bits(a) + f64::from_bits(b))
                .to_bits()),
            Op::MulF64 => longs!(w, i, m, |a, b| (f64::from_bits(a) * f64::from_bits(b))
                .to_bits()),
            Op::SetU32(cmp) => compare!(w, i, m, words, cmp, |v| v),
            Op::SetS32(cmp) => compare!(w, i, m, words, cmp, |v| v as i32),
            Op::SetU64(cmp) => compare!(w, i, m, longs, cmp, |v| v),
            Op::SetS64(cmp) => compare!(w, i, m, longs, cmp, |v| v as i64),
            Op::SetF(cmp) => test!(w, i, m, words, |a, b| test_floats(
                cmp,
                f32::from_bits(a),
                f32::from_bits(b)
            )),
            Op::Sel32 => {
                let p = w.preds[i.c as usize];
                let (x, y) = (w.words[i.a as usize], w.words[i.b as usize]);
                lanes!(w.words, i.d, m, 0_u32, |l| if p >> l & 1 == 1 {
                    x[l]
                } else {
                    y[l]
                });
            }
            Op::Sel64 => {
                let p = w.preds[i.c as usize];
                let (x, y) = (w.longs[i.a as usize], w.longs[i.b as usize]);
                lanes!(w.longs, i.d, m, 0_u64, |l| if p >> l & 1 == 1 {
                    x[l]
                } else {
                    y[l]
                });
            }
            Op::AndP | Op::OrP | Op::XorP => {
                let (a, b) = (w.preds[i.a as usize], w.preds[i.b as usize]);
                let new = match i.op {
                    Op::AndP => a & b,
                    Op::OrP => a | b,
                    _ => a ^ b,
                };
                let old = &mut w.preds[i.d as usize];
                *old = *old & !m | new & m;
            }
            Op::NotP => {
                let a = w.preds[i.a as usize];
                let old = &mut w.preds[i.d as usize];
                *old = *old & !m | !a & m;
            }
            Op::Cvt(Type::U64, Type::U32, Round::Exact) => {
                let x = w.words[i.a as usize];
                lanes!(w.longs, i.d, m, 0_u64, |l| u64::from(x[l]));
            }
            Op::Cvt(Type::U32, Type::U64, Round::Exact) => {
                let x = w.longs[i.a as usize];
                lanes!(w.words, i.d, m, 0_u32, |l| x[l] as u32);
            }
            Op::Cvt(Type::F32, Type::S32, Round::Nearest) => {
                words!(w, i, m, |a| (a as i32 as f32).to_bits());
            }
            Op::Cvt(to, from, round) => w.convert(i, m, to, from, round)?,
            Op::Load(space, kind, count) => w.load(i, m, (space, kind, count), block)?,
            Op::Store(space, kind, count) => w.store(i, m, (space, kind, count), block)?,
            Op::Reduce(space, atomic) | Op::Fetch(space, atomic) => {
                w.atomic(i, m, space, atomic, block)?;
            }
            Op::ToGeneric => longs!(w, i, m, |a| a | SHARED_TAG),
            Op::FromGeneric => longs!(w, i, m, |a| a & !SHARED_TAG),
            Op::CopyAsync(bytes) => w.begin_copies(i, m, usize::from(bytes), block)?,
            Op::CopyCommit => w.commit(m),
            Op::CopyWait => w.wait(m, i.extra as u32, block),
            Op::CopyWaitAll => {
                w.commit(m);
                w.wait(m, 0, block);
            }
            Op::LoadMatrix(..)
            | Op::MultiplyS8
            | Op::MultiplyBf16
            | Op::Ballot
            | Op::Branch
            | Op::Exit
            | Op::Barrier
            | Op::BarrierOr
            | Op::WarpBarrier
            | Op::Hopper(_)
            | Op::Shuffle(_) => return Err("waits in the wrong place".into()),
        }
        Ok(())
    }

    fn halves(&mut self, i: &Inst, m: u32, kernel: &Kernel) {
        let [low, high, ..] = kernel.vectors[i.d as usize];
        let (long, whole) = (i.extra == 1, i.a as usize);
        for l in (0..32).filter(|l| m >> l & 1 == 1) {
            if i.op == Op::Split {
                let (a, b) = if long {
                    (
                        self.longs[whole][l] as u32,
                        (self.longs[whole][l] >> 32) as u32,
                    )
                } else {
                    (self.words[whole][l] & 0xffff, self.words[whole][l] >> 16)
                };
                self.words[low as usize][l] = a;
                self.words[high as usize][l] = b;
            } else {
                let (a, b) = (self.words[low as usize][l], self.words[high as usize][l]);
                if long {
                    self.longs[whole][l] = u64::from(b) << 32 | u64::from(a);
                } else {
                    self.words[whole][l] = b << 16 | a & 0xffff;
                }
            }
        }
    }

    fn convert(&mut self, i: &Inst, m: u32, to: Type, from: Type, round: Round) -> Result<()> {
        for l in (0..32).filter(|l| m >> l & 1 == 1) {
            let bits = match from.bytes() {
                8 => self.longs[i.a as usize][l],
                _ => u64::from(self.words[i.a as usize][l]),
            };
            let new = convert(to, from, round, bits)
                .ok_or_else(|| format!("no conversion {from:?} to {to:?}, {round:?}"))?;
            match to.bytes() {
                8 => self.longs[i.d as usize][l] = new,
                _ => self.words[i.d as usize][l] = new as u32,
            }
        }
        Ok(())
    }
}

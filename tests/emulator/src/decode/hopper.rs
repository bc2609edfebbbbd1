//! Barriers that count, bulk copies and products of four warps: what compute capability 9.0 alone has.

use super::{Bank, Decoder, NONE, nothing};
use crate::Result;
use crate::program::{Hopper, Inst, Op, Space};

/// The columns of a product, times eight, by its name.
const SHAPES: [(&str, u8); 7] = [
    ("m64n16k16", 2),
    ("m64n64k16", 8),
    ("m64n128k16", 16),
    ("m64n136k16", 17),
    ("m64n176k16", 22),
    ("m64n192k16", 24),
    ("m64n256k16", 32),
];

impl Decoder {
    /// The forms that the interpreter knows; any other qualifier or operand is refused.
    pub(super) fn hopper(&mut self, parts: &[&str], args: &[String]) -> Result<Inst> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match (parts, &args[..]) {
            (["mbarrier", what @ .., "shared::cta", "b64"], _) => match (what, &args[..]) {
                (["init"], [at, count]) => self.barrier(Hopper::Init, at, Some(count)),
                (["arrive"], ["_", at]) => self.barrier(Hopper::Arrive, at, None),
                (["arrive", "expect_tx"], ["_", at, bytes]) => {
                    self.barrier(Hopper::Expect, at, Some(bytes))
                }
                (["try_wait", "parity"], [to, at, parity]) => {
                    let to = self.operand(Bank::Pred, to)?;
                    let inst = self.barrier(Hopper::TryWait, at, Some(parity))?;
                    Ok(Inst { d: to, ..inst })
                }
                _ => Err("an unknown instruction".into()),
            },
            (["fence", "mbarrier_init", "release", "cluster"], []) => {
                Ok(nothing(Op::Hopper(Hopper::FenceInit)))
            }
            (["setmaxnreg", "inc" | "dec", "sync", "aligned", "u32"], [count]) => {
                let count: u16 = count.parse().map_err(|_| "no number of registers")?;
                if !count.is_multiple_of(8) || !(24..=256).contains(&count) {
                    return Err("registers are eights from 24 to 256".into());
                }
                let mut inst = nothing(Op::Hopper(Hopper::Registers));
                inst.extra = i64::from(count);
                Ok(inst)
            }
            (
                [
                    "cp",
                    "async",
                    "bulk",
                    "shared::cluster",
                    "global",
                    "mbarrier::complete_tx::bytes",
                ],
                [to, from, bytes, barrier],
            ) => self.bulk([to, from, bytes, barrier]),
            (["wgmma", "fence", "sync", "aligned"], []) => Ok(nothing(Op::Hopper(Hopper::Fence))),
            (["wgmma", "commit_group", "sync", "aligned"], []) => {
                Ok(nothing(Op::Hopper(Hopper::Commit)))
            }
            (["wgmma", "wait_group", "sync", "aligned"], [rest]) => {
                let rest: u8 = rest.parse().map_err(|_| "no number of groups")?;
                let mut inst = nothing(Op::Hopper(Hopper::Wait));
                inst.extra = i64::from(rest);
                Ok(inst)
            }
            // Sums go on, nothing is negated, rows lie along k.
            (
                [
                    "wgmma",
                    "mma_async",
                    "sync",
                    "aligned",
                    shape,
                    "f32",
                    "bf16",
                    "bf16",
                ],
                [sums, words, rows, "1", "1", "1", "0"],
            ) => {
                let known = SHAPES.iter().find(|(name, _)| name == shape);
                let &(_, eights) = known.ok_or("an unknown product")?;
                self.product(eights, sums, words, rows)
            }
            _ => Err("an unknown instruction".into()),
        }
    }

    /// Something with the barrier at an address.
    fn barrier(&mut self, op: Hopper, at: &str, operand: Option<&&str>) -> Result<Inst> {
        let mut inst = nothing(Op::Hopper(op));
        let narrow;
        (inst.a, inst.extra, narrow) = self.address(Space::Shared, at)?;
        inst.c = u32::from(narrow);
        if let Some(operand) = operand {
            inst.b = self.operand(Bank::Word, operand)?;
        }
        Ok(inst)
    }

    fn bulk(&mut self, [to, from, bytes, barrier]: [&str; 4]) -> Result<Inst> {
        let mut inst = self.barrier(Hopper::CopyBulk, to, None)?;
        let (register, offset, narrow) = self.address(Space::Global, from)?;
        let (barrier, barrier_offset, barrier_narrow) = self.address(Space::Shared, barrier)?;
        if narrow || !barrier_narrow {
            return Err("a global address of 32 bits, or a barrier's of 64".into());
        }
        inst.b = register;
        let bytes = self.operand(Bank::Word, bytes)?;
        let small = |offset: i64| i32::try_from(offset).map_err(|e| e.to_string());
        inst.d = self.side([
            small(offset)?.cast_unsigned(),
            bytes,
            barrier,
            small(barrier_offset)?.cast_unsigned(),
        ])?;
        Ok(inst)
    }

    /// A thread's sums are four registers for eight columns each.
    fn product(&mut self, eights: u8, sums: &str, words: &str, rows: &str) -> Result<Inst> {
        let mut inst = nothing(Op::Hopper(Hopper::Product(eights)));
        let names = sums.trim_start_matches('{').trim_end_matches('}');
        let names: Vec<&str> = names.split(',').collect();
        if names.len() != usize::from(eights) * 4 {
            return Err(format!("not {} sums", u32::from(eights) * 4));
        }
        inst.d = u32::try_from(self.kernel.vectors.len()).map_err(|e| e.to_string())?;
        for four in names.chunks_exact(4) {
            self.fragment(&four.join(","), 4)?;
        }
        inst.a = self.fragment(words, 4)?;
        inst.b = self.operand(Bank::Long, rows)?;
        Ok(inst)
    }

    /// Numbers beside an instruction.
    fn side(&mut self, numbers: [u32; 4]) -> Result<u32> {
        self.kernel.vectors.push(numbers);
        u32::try_from(self.kernel.vectors.len() - 1).map_err(|_| format!("more than {NONE}"))
    }
}

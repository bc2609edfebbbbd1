//! Asynchronous copies and what tensor cores read and do.

use super::{Bank, Decoder, NONE, nothing};
use crate::Result;
use crate::program::{Inst, Op, Space, Type};

impl Decoder {
    /// The forms that the interpreter knows; any other qualifier or number of operands is refused.
    pub(super) fn matrices(&mut self, parts: &[&str], args: &[String]) -> Result<Inst> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match (parts, &args[..]) {
            (["cp", "async", "commit_group"], []) => Ok(nothing(Op::CopyCommit)),
            (["cp", "async", "wait_all"], []) => Ok(nothing(Op::CopyWaitAll)),
            (["cp", "async", "wait_group"], [count]) => {
                let mut inst = nothing(Op::CopyWait);
                let count: u8 = count.parse().map_err(|_| "no number of groups")?;
                inst.extra = i64::from(count);
                Ok(inst)
            }
            (
                ["cp", "async", cache @ ("ca" | "cg"), "shared", "global"],
                [to, from, bytes, read @ ..],
            ) => {
                let bytes = match (*cache, *bytes) {
                    (_, "16") => 16,
                    ("ca", "8") => 8,
                    ("ca", "4") => 4,
                    _ => return Err("copies of another size".into()),
                };
                let mut inst = nothing(Op::CopyAsync(bytes));
                let narrow;
                (inst.a, inst.extra, narrow) = self.address(Space::Shared, to)?;
                inst.c = u32::from(narrow);
                // How many of the bytes are read; the others are zeros.
                let read = match read {
                    [] => NONE,
                    [read] => self.operand(Bank::Word, read)?,
                    _ => return Err("too many operands".into()),
                };
                let (register, offset, narrow) = self.address(Space::Global, from)?;
                if narrow {
                    return Err("a global address of 32 bits".into());
                }
                let offset = i32::try_from(offset).map_err(|e| e.to_string())?;
                inst.b = register;
                let side = [offset.cast_unsigned(), read, NONE, NONE];
                self.kernel.vectors.push(side);
                let at = self.kernel.vectors.len() - 1;
                inst.d = u32::try_from(at).map_err(|e| e.to_string())?;
                Ok(inst)
            }
            (
                [
                    "ldmatrix",
                    "sync",
                    "aligned",
                    "m8n8",
                    count,
                    turned @ ..,
                    "shared",
                    "b16",
                ],
                [registers, from],
            ) => {
                let turned = match *turned {
                    [] => false,
                    ["trans"] => true,
                    _ => return Err("an unknown instruction".into()),
                };
                let count = match *count {
                    "x1" => 1,
                    "x2" => 2,
                    "x4" => 4,
                    _ => return Err("another number of matrices".into()),
                };
                let mut inst = nothing(Op::LoadMatrix(count, turned));
                inst.d = self.fragment(registers, count)?;
                let narrow;
                (inst.a, inst.extra, narrow) = self.address(Space::Shared, from)?;
                inst.c = u32::from(narrow);
                Ok(inst)
            }
            (
                [
                    "mma",
                    "sync",
                    "aligned",
                    shape @ ("m16n8k32" | "m16n8k16"),
                    "row",
                    "col",
                    to,
                    left,
                    right,
                    sum,
                ],
                [d, a, b, c],
            ) => {
                let op = match (*shape, *to, *left, *right, *sum) {
                    ("m16n8k32", "s32", "s8", "s8", "s32") => Op::MultiplyS8,
                    ("m16n8k16", "f32", "bf16", "bf16", "f32") => Op::MultiplyBf16,
                    _ => return Err("an unknown product".into()),
                };
                let mut inst = nothing(op);
                inst.d = self.fragment(d, 4)?;
                inst.a = self.fragment(a, 4)?;
                inst.b = self.fragment(b, 2)?;
                inst.c = self.fragment(c, 4)?;
                Ok(inst)
            }
            _ => Err("an unknown instruction".into()),
        }
    }

    /// A lane's words of a matrix.
    pub(super) fn fragment(&mut self, text: &str, count: u8) -> Result<u32> {
        if text.split(',').count() != usize::from(count) {
            return Err(format!("{text} are not {count} registers"));
        }
        let (at, long) = self.registers(Type::U32, text)?;
        if long {
            return Err(format!("{text} are of another size"));
        }
        Ok(at)
    }
}

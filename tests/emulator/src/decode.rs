//! Statements of a kernel's body into instructions.

mod arithmetic;
mod hopper;
mod matrices;
mod operands;
pub(crate) mod text;

use std::collections::BTreeMap;

use self::text::{compare, immediate, kind, split};
use crate::Result;
use crate::program::{ALWAYS, Atomic, Cmp, Hopper, Inst, Kernel, Op, Round, Shuffle, Type};

/// Banks of registers: predicates, up to 32 bits, 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bank {
    Pred,
    Word,
    Long,
}

/// No register.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) struct Decoder {
    kernel: Kernel,
    params: BTreeMap<String, usize>,
    symbols: BTreeMap<String, usize>,
    registers: BTreeMap<String, (Bank, u32)>,
    /// The names outside each brace that is open: inside, a name may be declared again.
    outside: Vec<BTreeMap<String, (Bank, u32)>>,
    constants: BTreeMap<(bool, u64), u32>,
    /// The braces that are open, by number, and how many there were so far.
    scopes: Vec<usize>,
    scope_count: usize,
    /// Labels by the brace that they stand in.
    labels: BTreeMap<(usize, String), usize>,
    jumps: Vec<Jump>,
    /// Words that the statement names.
    touched: Vec<u32>,
}

/// A jump: where it stands, to which label, and the braces around it.
struct Jump {
    at: usize,
    label: String,
    line: u32,
    scopes: Vec<usize>,
}

impl Decoder {
    pub(crate) fn new(
        kernel: Kernel,
        params: BTreeMap<String, usize>,
        symbols: BTreeMap<String, usize>,
    ) -> Self {
        Self {
            kernel,
            params,
            symbols,
            registers: BTreeMap::new(),
            outside: Vec::new(),
            constants: BTreeMap::new(),
            scopes: vec![0],
            scope_count: 1,
            labels: BTreeMap::new(),
            jumps: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// One statement: a declaration, a label or an instruction.
    pub(crate) fn statement(&mut self, line: u32, text: &str) -> Result<()> {
        let at = |error: String| format!("line {line}: {error}: \"{text}\"");
        if let Some(label) = text.strip_suffix(':') {
            let scope = self.scopes.last().copied().unwrap_or_default();
            let place = (scope, label.to_owned());
            self.labels.insert(place, self.kernel.code.len());
        } else if text == "{" {
            self.outside.push(self.registers.clone());
            self.scopes.push(self.scope_count);
            self.scope_count += 1;
        } else if text == "}" {
            self.registers = self.outside.pop().unwrap_or_default();
            self.scopes.pop();
        } else if text.starts_with(".reg") {
            self.declare(text).map_err(at)?;
        } else if text.starts_with(".pragma") || text.starts_with(".shared") {
        } else if text.starts_with('.') {
            return Err(at("not a known directive".into()));
        } else {
            self.touched.clear();
            let inst = self.instruction(line, text).map_err(at)?;
            self.touches(&inst);
            self.kernel.code.push(inst);
            self.kernel.lines.push(line);
        }
        Ok(())
    }

    /// Resolves jumps.
    pub(crate) fn finish(mut self) -> Result<Kernel> {
        // Falling off the end is leaving.
        let mut end = nothing(Op::Exit);
        end.guard = ALWAYS;
        self.kernel.code.push(end);
        self.kernel.lines.push(0);
        self.touched.clear();
        self.touches(&end);
        for jump in self.jumps {
            // A label is looked for from the inside to the outside.
            let known = |scope: &usize| self.labels.get(&(*scope, jump.label.clone()));
            let target = jump.scopes.iter().rev().find_map(known);
            let target =
                target.ok_or_else(|| format!("line {}: no label {}", jump.line, jump.label))?;
            self.kernel.code[jump.at].extra = *target as i64;
        }
        // Nobody else asks for it.
        if !self.kernel.has_products() {
            self.kernel.touches.clear();
            self.kernel.touched.clear();
        }
        Ok(self.kernel)
    }

    /// Notes the words that an instruction uses. Products look after their own.
    fn touches(&mut self, inst: &Inst) {
        let begin = self.kernel.touched.len();
        if !matches!(inst.op, Op::Hopper(Hopper::Product(_))) {
            self.kernel.touched.extend(&self.touched);
        }
        let range = (begin, self.kernel.touched.len());
        self.kernel.touches.push(range);
    }

    fn instruction(&mut self, line: u32, text: &str) -> Result<Inst> {
        let (mut guard, mut negated, mut rest) = (ALWAYS, false, text);
        if let Some(guarded) = text.strip_prefix('@') {
            let (name, tail) = guarded
                .split_once(char::is_whitespace)
                .ok_or("a guard alone")?;
            negated = name.starts_with('!');
            guard = self.operand(Bank::Pred, name.trim_start_matches('!'))?;
            rest = tail.trim();
        }
        let (opcode, tail) = rest
            .split_once(|c: char| c.is_whitespace())
            .unwrap_or((rest, ""));
        let parts: Vec<&str> = opcode.split('.').collect();
        let args = split(tail);
        let mut inst = self.operation(line, &parts, &args)?;
        (inst.guard, inst.negated) = (guard, negated);
        Ok(inst)
    }

    fn operation(&mut self, line: u32, parts: &[&str], args: &[String]) -> Result<Inst> {
        let arg = |i: usize| {
            args.get(i)
                .map(String::as_str)
                .ok_or_else(|| "too few operands".to_owned())
        };
        let unknown = || "an unknown instruction".to_owned();
        let last = parts.last().copied().unwrap_or_default();
        // Anything that changes the meaning of a known instruction is refused here.
        for modifier in parts {
            if ["ftz", "sat", "cc", "approx", "full", "rz", "rm", "rp"].contains(modifier)
                && !matches!(parts[0], "cvt" | "ex2")
            {
                return Err(unknown());
            }
        }
        match parts[0] {
            "mov" => {
                if arg(0)?.starts_with('{') || arg(1)?.starts_with('{') {
                    return self.halves(last, arg(0)?, arg(1)?);
                }
                if let ("pred", Some(value)) = (last, immediate(arg(1)?)) {
                    // A constant: a comparison of two constants.
                    let (word, zero) = (Bank::Word, if value == 0 { "0" } else { "1" });
                    let banks = [(Bank::Pred, arg(0)?), (word, zero), (word, "0")];
                    return self.plain(Op::SetU32(Cmp::Ne), &banks);
                }
                let (op, bank) = match last {
                    "pred" => (Op::MovPred, Bank::Pred),
                    _ if kind(last)?.bytes() == 8 => (Op::Mov64, Bank::Long),
                    _ => (Op::Mov32, Bank::Word),
                };
                self.plain(op, &[(bank, arg(0)?), (bank, arg(1)?)])
            }
            "cvta" => {
                if parts.contains(&"to") && parts.contains(&"global") || parts[1] == "global" {
                    return self.plain(Op::Mov64, &[(Bank::Long, arg(0)?), (Bank::Long, arg(1)?)]);
                }
                if parts[1] == "shared" {
                    let banks = [(Bank::Long, arg(0)?), (Bank::Long, arg(1)?)];
                    return self.plain(Op::ToGeneric, &banks);
                }
                if parts[1..] == ["to", "shared", "u64"] {
                    let banks = [(Bank::Long, arg(0)?), (Bank::Long, arg(1)?)];
                    return self.plain(Op::FromGeneric, &banks);
                }
                Err(unknown())
            }
            "mbarrier" | "fence" | "setmaxnreg" | "wgmma" => self.hopper(parts, args),
            "cp" if parts.get(2) == Some(&"bulk") => self.hopper(parts, args),
            "cp" | "ldmatrix" | "mma" => self.matrices(parts, args),
            "ld" if parts[1] == "param" => {
                let inner = arg(1)?.trim_start_matches('[').trim_end_matches(']');
                let (name, more) = inner.split_once('+').unwrap_or((inner, "0"));
                let more: i64 = more.parse().map_err(|_| unknown())?;
                let begin = *self.params.get(name).ok_or("no such parameter")?;
                let bytes = kind(last)?.bytes();
                let long = self.is_long(arg(0)?).unwrap_or(bytes == 8);
                let (op, bank) = match bytes {
                    8 => (Op::Param64, Bank::Long),
                    4 if long => (Op::ParamWide, Bank::Long),
                    4 => (Op::Param32, Bank::Word),
                    _ => return Err(unknown()),
                };
                let mut inst = self.plain(op, &[(bank, arg(0)?)])?;
                inst.extra = begin as i64 + more;
                Ok(inst)
            }
            "ld" => {
                let (space, kind, count) = self.memory(parts)?;
                let mut inst = nothing(Op::Load(space, kind, count));
                let long;
                (inst.d, long) = self.registers(kind, arg(0)?)?;
                inst.b = u32::from(long);
                let narrow;
                (inst.a, inst.extra, narrow) = self.address(space, arg(1)?)?;
                inst.c = u32::from(narrow);
                Ok(inst)
            }
            "st" => {
                let (space, kind, count) = self.memory(parts)?;
                let mut inst = nothing(Op::Store(space, kind, count));
                let narrow;
                (inst.a, inst.extra, narrow) = self.address(space, arg(0)?)?;
                inst.c = u32::from(narrow);
                let long;
                (inst.d, long) = self.registers(kind, arg(1)?)?;
                inst.b = u32::from(long);
                Ok(inst)
            }
            "red" | "atom" => {
                let (space, _, _) = self.memory(parts)?;
                let atomic = match (parts[parts.len() - 2], last) {
                    ("add", "u32" | "s32") => Atomic::Add,
                    ("min", "u32") => Atomic::MinU32,
                    ("max", "u32") => Atomic::MaxU32,
                    _ => return Err(unknown()),
                };
                let fetch = parts[0] == "atom";
                let mut inst = nothing(if fetch {
                    Op::Fetch(space, atomic)
                } else {
                    Op::Reduce(space, atomic)
                });
                let first = usize::from(fetch);
                if fetch {
                    inst.d = self.operand(Bank::Word, arg(0)?)?;
                }
                let narrow;
                (inst.a, inst.extra, narrow) = self.address(space, arg(first)?)?;
                inst.c = u32::from(narrow);
                inst.b = self.operand(Bank::Word, arg(first + 1)?)?;
                Ok(inst)
            }
            "bra" => {
                self.jumps.push(Jump {
                    at: self.kernel.code.len(),
                    label: arg(0)?.to_owned(),
                    line,
                    scopes: self.scopes.clone(),
                });
                Ok(nothing(Op::Branch))
            }
            "ret" | "exit" => Ok(nothing(Op::Exit)),
            "bar" | "barrier" => match parts[1..] {
                ["sync"] if args.len() == 1 && arg(0)? == "0" => Ok(nothing(Op::Barrier)),
                ["red", "or", "pred"] if args.len() == 3 && arg(1)? == "0" => {
                    let banks = [(Bank::Pred, arg(0)?), (Bank::Pred, arg(2)?)];
                    self.plain(Op::BarrierOr, &banks)
                }
                ["warp", "sync"] => {
                    let mut inst = nothing(Op::WarpBarrier);
                    inst.a = self.operand(Bank::Word, arg(0)?)?;
                    Ok(inst)
                }
                _ => Err(unknown()),
            },
            "vote" if parts[1..] == ["sync", "ballot", "b32"] => {
                let banks = [
                    (Bank::Word, arg(0)?),
                    (Bank::Pred, arg(1)?),
                    (Bank::Word, arg(2)?),
                ];
                self.plain(Op::Ballot, &banks)
            }
            "shfl" => {
                let mode = match parts[2] {
                    "idx" => Shuffle::Idx,
                    "bfly" => Shuffle::Bfly,
                    "up" => Shuffle::Up,
                    "down" => Shuffle::Down,
                    _ => return Err(unknown()),
                };
                let (d, p) = arg(0)?.split_once('|').unwrap_or((arg(0)?, "_"));
                let mut side = [NONE; 4];
                side[0] = self.operand(Bank::Pred, p)?;
                side[1] = self.operand(Bank::Word, arg(4)?)?;
                self.kernel.vectors.push(side);
                let word = Bank::Word;
                let banks = [(word, d), (word, arg(1)?), (word, arg(2)?), (word, arg(3)?)];
                let mut inst = self.plain(Op::Shuffle(mode), &banks)?;
                inst.extra = self.kernel.vectors.len() as i64 - 1;
                Ok(inst)
            }
            "setp" => {
                let cmp = compare(parts[1], last).ok_or_else(unknown)?;
                if parts.len() != 3 {
                    return Err(unknown());
                }
                let (op, bank) = match last {
                    "f32" => (Op::SetF(cmp), Bank::Word),
                    "s32" => (Op::SetS32(cmp), Bank::Word),
                    "u32" | "b32" | "u16" | "b16" => (Op::SetU32(cmp), Bank::Word),
                    "s16" if matches!(cmp, Cmp::Eq | Cmp::Ne) => (Op::SetU32(cmp), Bank::Word),
                    "s64" => (Op::SetS64(cmp), Bank::Long),
                    "u64" | "b64" => (Op::SetU64(cmp), Bank::Long),
                    _ => return Err(unknown()),
                };
                self.plain(
                    op,
                    &[(Bank::Pred, arg(0)?), (bank, arg(1)?), (bank, arg(2)?)],
                )
            }
            "selp" => {
                let long = kind(last)?.bytes() == 8;
                let (op, bank) = if long {
                    (Op::Sel64, Bank::Long)
                } else {
                    (Op::Sel32, Bank::Word)
                };
                let banks = [(bank, arg(0)?), (bank, arg(1)?), (bank, arg(2)?)];
                let mut inst = self.plain(op, &banks)?;
                inst.c = self.operand(Bank::Pred, arg(3)?)?;
                Ok(inst)
            }
            "cvt" if parts[1..] != ["rn", "bf16x2", "f32"] => {
                let [to, from] = [kind(parts[parts.len() - 2])?, kind(last)?];
                let round = match parts[1..parts.len() - 2] {
                    [] => Round::Exact,
                    ["rn"] => Round::Nearest,
                    ["rni"] if to.bytes() < 8 && !matches!(to, Type::F32) => Round::Nearest,
                    ["rz"] | ["rzi"] => Round::Zero,
                    ["rmi"] => Round::Down,
                    ["rpi"] => Round::Up,
                    ["sat"] => Round::Saturate,
                    _ => return Err(unknown()),
                };
                let bank = |t: Type| {
                    if t.bytes() == 8 {
                        Bank::Long
                    } else {
                        Bank::Word
                    }
                };
                let banks = [(bank(to), arg(0)?), (bank(from), arg(1)?)];
                self.plain(Op::Cvt(to, from, round), &banks)
            }
            _ => self.arithmetic(parts, args),
        }
    }

    /// mov of a register and its halves.
    fn halves(&mut self, last: &str, to: &str, from: &str) -> Result<Inst> {
        let long = match last {
            "b64" => true,
            "b32" => false,
            _ => return Err("an unknown instruction".into()),
        };
        let bank = if long { Bank::Long } else { Bank::Word };
        let (vector, whole, op) = if to.starts_with('{') {
            (to, from, Op::Split)
        } else {
            (from, to, Op::Join)
        };
        let mut inst = nothing(op);
        inst.a = self.operand(bank, whole)?;
        (inst.d, _) = self.registers(Type::U32, vector)?;
        inst.extra = i64::from(long);
        Ok(inst)
    }

    /// An instruction whose operands are d, a, b, c and one more in `extra`, as far as there are any.
    fn plain(&mut self, op: Op, operands: &[(Bank, &str)]) -> Result<Inst> {
        let mut found = [NONE; 5];
        for (place, (bank, text)) in found.iter_mut().zip(operands) {
            *place = self.operand(*bank, text)?;
        }
        let [d, a, b, c, e] = found;
        Ok(Inst {
            d,
            a,
            b,
            c,
            extra: i64::from(e),
            ..nothing(op)
        })
    }
}

fn nothing(op: Op) -> Inst {
    Inst {
        op,
        guard: ALWAYS,
        negated: false,
        d: NONE,
        a: NONE,
        b: NONE,
        c: NONE,
        extra: 0,
    }
}

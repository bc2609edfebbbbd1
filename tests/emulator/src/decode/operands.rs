//! Registers, constants and addresses by their names.

use super::text::{immediate, kind};
use super::{Bank, Decoder, NONE};
use crate::Result;
use crate::program::{Space, Special, Type};

impl Decoder {
    pub(super) fn fresh(&mut self, bank: Bank) -> u32 {
        let count = &mut self.kernel.registers[bank as usize];
        *count += 1;
        u32::try_from(*count - 1).unwrap_or(NONE)
    }

    pub(super) fn declare(&mut self, text: &str) -> Result<()> {
        let mut words = text.split_whitespace().skip(1);
        let bank = match words.next().unwrap_or_default() {
            ".pred" => Bank::Pred,
            ".b16" | ".u16" | ".s16" | ".f16" | ".b32" | ".u32" | ".s32" | ".f32" => Bank::Word,
            ".b64" | ".u64" | ".s64" | ".f64" => Bank::Long,
            _ => return Err("an unknown type of register".into()),
        };
        for name in words.collect::<String>().split(',') {
            if let Some((stem, count)) = name.split_once('<') {
                let count: u32 = count
                    .trim_end_matches('>')
                    .parse()
                    .map_err(|_| "an unknown number of registers")?;
                for i in 0..count {
                    let register = (bank, self.fresh(bank));
                    self.registers.insert(format!("{stem}{i}"), register);
                }
            } else {
                let register = (bank, self.fresh(bank));
                self.registers.insert(name.to_owned(), register);
            }
        }
        Ok(())
    }

    fn constant(&mut self, bank: Bank, value: u64) -> u32 {
        let long = bank == Bank::Long;
        if let Some(&register) = self.constants.get(&(long, value)) {
            return register;
        }
        let register = self.fresh(bank);
        self.constants.insert((long, value), register);
        if long {
            self.kernel.constants64.push((register, value));
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
            self.kernel.constants32.push((register, value as u32));
        }
        register
    }

    fn special(&mut self, name: &str) -> Option<u32> {
        let axis = |name: &str| ["x", "y", "z"].iter().position(|a| *a == name);
        let special = match name.split_once('.') {
            Some(("%tid", a)) => Special::Tid(axis(a)?),
            Some(("%ntid", a)) => Special::Ntid(axis(a)?),
            Some(("%ctaid", a)) => Special::Ctaid(axis(a)?),
            Some(("%nctaid", a)) => Special::Nctaid(axis(a)?),
            None if name == "%laneid" => Special::Lane,
            _ => return None,
        };
        let known = self.kernel.specials.iter().find(|(_, s)| *s == special);
        if let Some((register, _)) = known {
            return Some(*register);
        }
        let register = self.fresh(Bank::Word);
        self.kernel.specials.push((register, special));
        Some(register)
    }

    /// A register, a special register, a symbol's address or a constant.
    pub(super) fn operand(&mut self, bank: Bank, text: &str) -> Result<u32> {
        if let Some(&(found, register)) = self.registers.get(text) {
            return if found == bank {
                if bank == Bank::Word {
                    self.touched.push(register);
                }
                Ok(register)
            } else {
                Err(format!("{text} is of another size"))
            };
        }
        if text == "_" {
            return Ok(self.fresh(bank));
        }
        if bank == Bank::Word
            && let Some(register) = self.special(text)
        {
            return Ok(register);
        }
        if let Some(&at) = self.symbols.get(text) {
            return Ok(self.constant(bank, at as u64));
        }
        if bank == Bank::Pred {
            return Err(format!("{text} is no predicate"));
        }
        let value = immediate(text).ok_or_else(|| format!("{text} is no operand"))?;
        Ok(self.constant(bank, value))
    }

    /// Operands of a bracket: the register or symbol, the offset, and whether the register has 32 bits.
    pub(super) fn address(&mut self, space: Space, text: &str) -> Result<(u32, i64, bool)> {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (
                base,
                offset
                    .trim()
                    .parse()
                    .map_err(|_| format!("{offset} is no offset"))?,
            ),
            None => (inner, 0),
        };
        let base = base.trim();
        // Shared addresses come in either size.
        let long = self.is_long(base).unwrap_or(space != Space::Shared);
        let bank = if long { Bank::Long } else { Bank::Word };
        Ok((self.operand(bank, base)?, offset, !long))
    }

    pub(super) fn memory(&mut self, parts: &[&str]) -> Result<(Space, Type, u8)> {
        let space = match parts {
            p if p.contains(&"shared") => Space::Shared,
            p if p.contains(&"global") && p.contains(&"nc") => Space::ReadOnly,
            p if p.contains(&"global") => Space::Global,
            p if p.contains(&"local") || p.contains(&"const") => {
                return Err("local and constant memory are not known".into());
            }
            _ => Space::Generic,
        };
        let count = match parts {
            p if p.contains(&"v4") => 4,
            p if p.contains(&"v2") => 2,
            _ => 1,
        };
        let last = parts.last().copied().unwrap_or_default();
        Ok((space, kind(last)?, count))
    }

    /// Registers of a load or store, one or a vector's, and whether they have 64 bits: they may be wider than what is
    /// loaded.
    pub(super) fn registers(&mut self, kind: Type, text: &str) -> Result<(u32, bool)> {
        let names = text.trim_start_matches('{').trim_end_matches('}');
        let first = names.split(',').next().unwrap_or_default().trim();
        let long = self.is_long(first).unwrap_or(kind.bytes() == 8);
        let bank = if long { Bank::Long } else { Bank::Word };
        let mut all = [NONE; 4];
        for (place, name) in all.iter_mut().zip(names.split(',')) {
            *place = self.operand(bank, name.trim())?;
        }
        self.kernel.vectors.push(all);
        let at = u32::try_from(self.kernel.vectors.len() - 1).map_err(|e| e.to_string())?;
        Ok((at, long))
    }

    /// Whether a register has 64 bits.
    pub(super) fn is_long(&self, name: &str) -> Option<bool> {
        self.registers
            .get(name)
            .map(|(bank, _)| *bank == Bank::Long)
    }
}

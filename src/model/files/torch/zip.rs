//! The table of a zip archive whose entries are stored as they are.
//!
//! `torch.save` never compresses. An archive that does is refused, so nothing is ever inflated.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::str;

use super::{FORMAT, entry, malformed};
use crate::error::Result;
use crate::model::files::cursor::Cursor;
use crate::model::files::table::{Table, overlap, push};

/// Most entries of an archive: two for each tensor would already be many.
const MAX_ENTRIES: usize = 1 << 17;

const END: u32 = 0x0605_4b50;
const END_BYTES: usize = 22;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const LOCATOR64_BYTES: usize = 20;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Flag of entries whose sizes follow their bytes, as torch writes them.
const SIZES_LATER: u16 = 1 << 3;
/// Tag of the extra field that holds 64-bit sizes.
const EXTRA64: u16 = 1;

/// An archive's entries: name to bytes.
pub(super) fn open(bytes: &[u8]) -> Result<Table<'_, &[u8]>> {
    let directory = directory(bytes).ok_or(malformed("is no zip archive of torch.save"))?;
    let Directory { at, len, count } = directory;
    if count > MAX_ENTRIES {
        return Err(malformed("the archive has more than 131072 entries"));
    }
    let table = bytes
        .get(at..at.saturating_add(len))
        .ok_or(malformed("the archive's directory lies outside the file"))?;
    let mut table = Cursor::new(table);
    let (mut entries, mut ranges) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let stored = central(&mut table)
            .ok_or(malformed("the archive's directory is cut short or damaged"))?;
        let name = str::from_utf8(stored.name)
            .map_err(|_| malformed("the archive has a name that is no UTF-8"))?;
        let wrong = |problem| entry(name, problem);
        if stored.flags & 1 != 0 {
            return Err(wrong("is encrypted"));
        }
        if stored.method != 0 || stored.packed != stored.len {
            return Err(wrong("is compressed, which torch.save never does"));
        }
        let start = local(bytes, &stored).ok_or(wrong(
            "has no header of its own that agrees with the directory",
        ))?;
        let end = start.checked_add(stored.len).filter(|&end| end <= at);
        let data = end
            .and_then(|end| bytes.get(start..end))
            .ok_or(wrong("lies outside the file"))?;
        push(
            FORMAT,
            &mut ranges,
            (stored.local, start + data.len(), name),
        )?;
        push(FORMAT, &mut entries, (Cow::Borrowed(name), data))?;
    }
    if let Some(name) = overlap(&mut ranges, false) {
        return Err(entry(name, "lies over another entry of the archive"));
    }
    Table::new(FORMAT, entries)
}

struct Directory {
    at: usize,
    len: usize,
    count: usize,
}

fn directory(bytes: &[u8]) -> Option<Directory> {
    // The end record is followed by a comment of at most 2¹⁶ − 1 bytes.
    let last = bytes.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last)
        .rev()
        .find(|&at| bytes[at..].starts_with(&END.to_le_bytes()))?;
    let mut c = Cursor::at(bytes, end + 8)?;
    let (_, count) = (c.u16()?, c.u16()?);
    let (len, at, comment) = (c.u32()?, c.u32()?, c.u16()?);
    // A record whose comment does not end the file would be another reader's directory.
    (c.position() + usize::from(comment) == bytes.len()).then_some(())?;
    let near = Directory {
        at: usize::try_from(at).ok()?,
        len: usize::try_from(len).ok()?,
        count: usize::from(count),
    };
    let locator = end.checked_sub(LOCATOR64_BYTES);
    let far = locator.filter(|&at| bytes[at..].starts_with(&LOCATOR64.to_le_bytes()));
    let open = [count == u16::MAX, len == u32::MAX, at == u32::MAX];
    let Some(locator) = far else {
        return (!open.contains(&true)).then_some(near);
    };
    let far = far_directory(bytes, locator)?;
    // Both records say the same, but for what only the far one has room for.
    let same = [
        near.count == far.count,
        near.len == far.len,
        near.at == far.at,
    ];
    let agree = open.iter().zip(same).all(|(open, same)| *open || same);
    agree.then_some(far)
}

/// The directory's place where it is written with 64 bits, which torch always does.
fn far_directory(bytes: &[u8], locator: usize) -> Option<Directory> {
    let mut c = Cursor::at(bytes, locator)?;
    c.take(8)?;
    let mut c = Cursor::at(bytes, c.size()?)?;
    (c.u32()? == END64).then_some(())?;
    c.take(28)?;
    let count = c.size()?;
    Some(Directory {
        count,
        len: c.size()?,
        at: c.size()?,
    })
}

struct Stored<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    packed: usize,
    len: usize,
    local: usize,
}

/// One entry of the directory.
fn central<'a>(c: &mut Cursor<'a>) -> Option<Stored<'a>> {
    (c.u32()? == CENTRAL).then_some(())?;
    c.take(4)?;
    let (flags, method) = (c.u16()?, c.u16()?);
    c.take(8)?;
    let (packed, len) = (c.u32()?, c.u32()?);
    let lengths = [c.u16()?, c.u16()?, c.u16()?];
    c.take(8)?;
    let local = c.u32()?;
    let name = c.take(lengths[0].into())?;
    let extra = c.take(lengths[1].into())?;
    c.take(lengths[2].into())?;
    let mut far = extra64(extra);
    // Sizes of all ones stand in the extra field, in this order.
    let mut size = |near: u32| match near {
        u32::MAX => far.as_mut()?.size(),
        near => usize::try_from(near).ok(),
    };
    Some(Stored {
        name,
        flags,
        method,
        len: size(len)?,
        packed: size(packed)?,
        local: size(local)?,
    })
}

fn extra64(extra: &[u8]) -> Option<Cursor<'_>> {
    let mut c = Cursor::new(extra);
    loop {
        let (tag, len) = (c.u16()?, c.u16()?);
        let field = c.take(len.into())?;
        if tag == EXTRA64 {
            return Some(Cursor::new(field));
        }
    }
}

/// Where an entry's bytes begin: after its own header, which must say what the directory says.
fn local(bytes: &[u8], stored: &Stored<'_>) -> Option<usize> {
    let mut c = Cursor::at(bytes, stored.local)?;
    (c.u32()? == LOCAL).then_some(())?;
    c.take(2)?;
    ([c.u16()?, c.u16()?] == [stored.flags, stored.method]).then_some(())?;
    c.take(8)?;
    let sizes = [c.u32()?, c.u32()?];
    let (name, extra) = (c.u16()?, c.u16()?);
    // Sizes may also follow the bytes, or stand in the extra field.
    let later = stored.flags & SIZES_LATER != 0 && sizes == [0; 2];
    let same = |size: u32| size == u32::MAX || usize::try_from(size) == Ok(stored.len);
    (later || sizes.into_iter().all(same)).then_some(())?;
    (c.take(name.into())? == stored.name).then_some(())?;
    c.take(extra.into())?;
    Some(c.position())
}

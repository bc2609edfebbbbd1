//! A pickle read as data.
//!
//! The stack machine knows the instructions that `torch.save` writes for tensors in dictionaries, and a fixed list of
//! names. A name is an enum here, not a function: nothing that a file says can be run. Values live in one arena, so
//! lists that hold themselves or nest without end cost no recursion.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::str;

use super::tree::{Global, MAX_DIMS, Node, Storage, Strided, Tree, Value, global};
use super::{FORMAT, entry, malformed};
use crate::error::Result;
use crate::model::files::cursor::Cursor;
use crate::model::files::table::{MAX_NAME, push};

/// Most instructions: about forty are spent on a tensor. They bound time and memory.
const MAX_INSTRUCTIONS: usize = 1 << 19;
/// Reads a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Tree<'_>> {
    let mut machine = Machine {
        code: Cursor::new(bytes),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        kept: 0,
    };
    for _ in 0..MAX_INSTRUCTIONS {
        if let Some(root) = machine.step()? {
            return Ok(Tree::new(machine.nodes, root));
        }
    }
    Err(malformed("the pickle has more than 524288 instructions"))
}

struct Machine<'a> {
    code: Cursor<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Value<'a>>,
    /// Lengths of the stack at the open marks.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    /// Places of the memo that hold a value.
    kept: usize,
}

const CUT: &str = "the pickle ends inside an instruction";
const EMPTY: &str = "the pickle takes from an empty stack";

impl<'a> Machine<'a> {
    /// One instruction; the result at the last.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.byte()? {
            // Protocol and frames only say how the bytes were written.
            0x80 => self.bytes(1).map(drop)?,
            0x95 => {
                let len = self.code.size().ok_or(malformed(CUT))?;
                // What the frame holds is read as if it were not there.
                self.code.clone().take(len).ok_or(malformed(CUT))?;
            }
            b'.' => return self.pop().map(Some),
            b'(' => push(FORMAT, &mut self.marks, self.stack.len())?,
            b'0' => self.pop().map(drop)?,
            b'1' => self.since_mark().map(drop)?,
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            b'N' => self.push(Value::Nothing)?,
            0x88 | 0x89 => self.push(Value::Bool)?,
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n.into()))?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))?;
            }
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))?;
            }
            0x8a => self.long()?,
            b'G' => {
                self.bytes(8)?;
                self.push(Value::Nothing)?;
            }
            0x8c => {
                let len = self.byte()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len.into())?;
            }
            0x8d => {
                let len = u64::from_le_bytes(self.array()?);
                self.text(len)?;
            }
            b']' => self.make(Node::List(Vec::new()))?,
            b'}' => self.make(Node::Dict(Vec::new()))?,
            b')' => self.make(Node::Tuple(Vec::new()))?,
            b'l' => {
                let list = self.since_mark()?;
                self.make(Node::List(list))?;
            }
            b't' => {
                let tuple = self.since_mark()?;
                self.make(Node::Tuple(tuple))?;
            }
            b'd' => {
                let entries = self.since_mark()?;
                self.make(Node::Dict(pairs(&entries)?))?;
            }
            n @ 0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(n - 0x84));
                let tuple = self.since(from.ok_or(malformed(EMPTY))?)?;
                self.make(Node::Tuple(tuple))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let entries = self.since_mark()?;
                self.insert(&entries)?;
            }
            b'q' => {
                let at = self.byte()?;
                self.keep(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.array()?);
                self.keep(at as usize)?;
            }
            0x94 => self.keep(self.kept)?,
            b'h' => {
                let at = self.byte()?;
                self.recall(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.array()?);
                self.recall(at as usize)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.import(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.import(module, name)?,
                _ => return Err(malformed("the pickle imports by what is no name")),
            },
            b'Q' => self.storage()?,
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                match self.call(callee, args)? {
                    Made::Value(value) => self.push(value)?,
                    Made::Node(node) => self.make(node)?,
                }
            }
            // Attributes of a dictionary, such as its modules' versions, do not change its entries.
            b'b' => {
                self.pop()?;
                if !matches!(self.top_node(), Some(Node::Dict(_))) {
                    return Err(malformed("the pickle sets the state of an object"));
                }
            }
            _ => {
                return Err(malformed(
                    "the pickle has an instruction that checkpoints do not need",
                ));
            }
        }
        Ok(None)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        self.code.take(len).ok_or(malformed(CUT))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.code.array().ok_or(malformed(CUT))
    }

    fn byte(&mut self) -> Result<u8> {
        self.code.u8().ok_or(malformed(CUT))
    }

    fn line(&mut self) -> Result<&'a str> {
        let mut rest = self.code.clone();
        let mut len = 0;
        // A longer name is none that is known.
        while len < 256 && rest.u8().ok_or(malformed(CUT))? != b'\n' {
            len += 1;
        }
        let line = self.bytes(len)?;
        self.byte()?;
        str::from_utf8(line).map_err(|_| malformed("the pickle has a name that is no UTF-8"))
    }

    fn text(&mut self, len: u64) -> Result<()> {
        let len = usize::try_from(len).map_err(|_| malformed(CUT))?;
        let text = str::from_utf8(self.bytes(len)?)
            .map_err(|_| malformed("the pickle has a text that is no UTF-8"))?;
        self.push(Value::Text(text))
    }

    /// A signed number. One of more than eight bytes, as seeds may be, is no size of anything.
    fn long(&mut self) -> Result<()> {
        let len = self.byte()?;
        let digits = self.bytes(len.into())?;
        if digits.len() > 8 {
            return self.push(Value::Nothing);
        }
        let negative = digits.last().is_some_and(|d| d & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide.get_mut(..digits.len())
            .ok_or(malformed("the pickle has a number of more than 64 bits"))?
            .copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        push(FORMAT, &mut self.stack, value)
    }

    fn make(&mut self, node: Node<'a>) -> Result<()> {
        push(FORMAT, &mut self.nodes, node)?;
        self.push(Value::Node(self.nodes.len() - 1))
    }

    /// The topmost value, which must lie above the last mark.
    fn top(&self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(floor..).unwrap_or_default();
        above.last().copied().ok_or(malformed(EMPTY))
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let from = self.marks.pop().ok_or(malformed(
            "the pickle goes back to a mark that is not there",
        ))?;
        self.since(from)
    }

    fn since(&mut self, from: usize) -> Result<Vec<Value<'a>>> {
        if self.marks.last().is_some_and(|&mark| from < mark) {
            return Err(malformed(EMPTY));
        }
        let taken = self.stack.get(from..).ok_or(malformed(EMPTY))?;
        let mut out = Vec::new();
        extend(&mut out, taken)?;
        self.stack.truncate(from);
        Ok(out)
    }

    fn top_node(&mut self) -> Option<&mut Node<'a>> {
        match self.top() {
            Ok(Value::Node(at)) => self.nodes.get_mut(at),
            _ => None,
        }
    }

    fn append(&mut self, items: &[Value<'a>]) -> Result<()> {
        match self.top_node() {
            Some(Node::List(list)) => extend(list, items),
            _ => Err(malformed("the pickle appends to what is no list")),
        }
    }

    fn insert(&mut self, entries: &[Value<'a>]) -> Result<()> {
        let entries = pairs(entries)?;
        match self.top_node() {
            Some(Node::Dict(dict)) => extend(dict, &entries),
            _ => Err(malformed(
                "the pickle puts entries into what is no dictionary",
            )),
        }
    }

    fn keep(&mut self, at: usize) -> Result<()> {
        let top = self.top()?;
        if at >= MAX_INSTRUCTIONS {
            return Err(malformed("the pickle remembers more than 524288 values"));
        }
        while self.memo.len() <= at {
            push(FORMAT, &mut self.memo, None)?;
        }
        if let Some(place) = self.memo.get_mut(at) {
            self.kept += usize::from(place.is_none());
            *place = Some(top);
        }
        Ok(())
    }

    fn recall(&mut self, at: usize) -> Result<()> {
        let kept = self.memo.get(at).copied().flatten();
        self.push(kept.ok_or(malformed("the pickle recalls what it never kept"))?)
    }

    fn import(&mut self, module: &'a str, name: &'a str) -> Result<()> {
        let known = global(module, name).ok_or_else(|| {
            let name = alloc::format!("{module}.{name}");
            entry(
                &name,
                "is imported by the pickle, but no checkpoint needs it",
            )
        })?;
        self.push(Value::Global(known))
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Node(at) => match self.nodes.get(at)? {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// A storage from its description: the word "storage", class, key, place, length.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Some(
            &[
                Value::Text("storage"),
                Value::Global(Global::Storage(&(dtype, size))),
                Value::Text(key),
                Value::Text(_),
                Value::Int(len),
            ],
        ) = self.tuple(id)
        else {
            return Err(malformed("the pickle refers to what is no storage"));
        };
        // Keys are compared for every tensor that lies in the storage.
        if key.len() > MAX_NAME {
            return Err(entry(key, "is a storage's key of more than 1024 bytes"));
        }
        let len =
            usize::try_from(len).map_err(|_| entry(key, "is a storage of a length below zero"))?;
        self.make(Node::Storage(Box::new(Storage {
            dtype,
            size,
            key,
            len,
        })))
    }

    /// What a known name makes of its arguments.
    fn call(&self, callee: Value<'a>, args: Value<'a>) -> Result<Made<'a>> {
        let tuple = |args| {
            self.tuple(args)
                .ok_or(malformed("the pickle calls with what is no tuple"))
        };
        match (callee, tuple(args)?) {
            (Value::Global(Global::OrderedDict), []) => Ok(Made::Node(Node::Dict(Vec::new()))),
            (Value::Global(Global::Size), &[sizes]) => Ok(Made::Value(sizes)),
            // Only one wrapper deep: a wrapper of a wrapper is nothing that torch writes.
            (
                Value::Global(Global::RebuildFromType),
                &[inner, Value::Global(Global::Class), args, _],
            ) => self.rebuild(inner, tuple(args)?),
            (callee, args) => self.rebuild(callee, args),
        }
    }

    fn rebuild(&self, callee: Value<'a>, args: &[Value<'a>]) -> Result<Made<'a>> {
        match (callee, args) {
            (Value::Global(Global::RebuildParameter), &[data, Value::Bool, _])
            | (Value::Global(Global::RebuildParameterWithState), &[data, Value::Bool, _, _]) => {
                Ok(Made::Value(data))
            }
            (
                Value::Global(Global::RebuildTensor),
                &[storage, Value::Int(offset), shape, strides, Value::Bool, ..],
            ) => {
                let Value::Node(at) = storage else {
                    return Err(malformed(CALL));
                };
                let Some(Node::Storage(storage)) = self.nodes.get(at) else {
                    return Err(malformed(CALL));
                };
                let tensor = Strided {
                    storage: **storage,
                    offset: usize::try_from(offset).map_err(|_| {
                        malformed("the pickle has a tensor at an offset below zero")
                    })?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                Ok(Made::Node(Node::Tensor(Box::new(tensor))))
            }
            _ => Err(malformed(CALL)),
        }
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>> {
        let items = self.tuple(value).ok_or(malformed(CALL))?;
        if items.len() > MAX_DIMS {
            return Err(malformed("the pickle has a tensor of more than 8 sizes"));
        }
        let size = |item: &Value<'a>| match item {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let sizes: Option<Vec<usize>> = items.iter().map(size).collect();
        sizes.ok_or(malformed("the pickle has a size or stride below zero"))
    }
}

/// What a call gives back: something that was there, or something new.
enum Made<'a> {
    Value(Value<'a>),
    Node(Node<'a>),
}

const CALL: &str = "the pickle calls what makes no tensor, or with other arguments than torch.save";

fn extend<T: Clone>(list: &mut Vec<T>, items: &[T]) -> Result<()> {
    list.try_reserve(items.len())
        .map_err(|_| crate::error::Error::OutOfMemory {
            what: FORMAT,
            bytes: size_of_val(items),
        })?;
    list.extend_from_slice(items);
    Ok(())
}

fn pairs<'a>(flat: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>> {
    let (pairs, []) = flat.as_chunks::<2>() else {
        return Err(malformed("the pickle has a key without a value"));
    };
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

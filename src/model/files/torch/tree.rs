//! What a pickle may hold: values, containers, tensors, and the names it may import.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::model::weights::DType;

/// Most sizes of a tensor.
pub(super) const MAX_DIMS: usize = 8;

/// What the stack holds. Numbers with a point, and those of more than 64 bits, are dropped: no tensor needs one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// `None`, floats and very large numbers.
    Nothing,
    Bool,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Node(usize),
}

/// The names that a pickle may import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    RebuildParameterWithState,
    RebuildFromType,
    /// A class that is only named, as the wrapper's argument.
    Class,
    /// Element type and its bytes. A reference, since values lie about by the hundred thousand.
    Storage(&'static (DType, usize)),
}

/// What the arena holds.
#[derive(Debug)]
pub(super) enum Node<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Box<Storage<'a>>),
    Tensor(Box<Strided<'a>>),
}

/// A named run of elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) dtype: DType,
    /// Bytes of an element.
    pub(super) size: usize,
    pub(super) key: &'a str,
    pub(super) len: usize,
}

/// A view of a storage, in elements.
#[derive(Debug, Clone)]
pub(super) struct Strided<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: Value<'a>,
}

impl<'a> Tree<'a> {
    pub(super) const fn new(nodes: Vec<Node<'a>>, root: Value<'a>) -> Self {
        Self { nodes, root }
    }

    pub(super) fn root(&self) -> Value<'a> {
        self.root
    }

    /// The entries of a dictionary, if the value is one.
    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.node(value)? {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The tensor, if the value is one.
    pub(super) fn tensor(&self, value: Value<'a>) -> Option<&Strided<'a>> {
        match self.node(value)? {
            Node::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(at) => self.nodes.get(at),
            _ => None,
        }
    }
}

/// What a name stands for, if a pickle may import it.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    let storage = |element| Some(Global::Storage(element));
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch", "Size") => Some(Global::Size),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch._utils", "_rebuild_parameter_with_state") => {
            Some(Global::RebuildParameterWithState)
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Some(Global::RebuildFromType),
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Some(Global::Class),
        ("torch", "FloatStorage") => storage(&(DType::F32, 4)),
        ("torch", "HalfStorage") => storage(&(DType::F16, 2)),
        ("torch", "BFloat16Storage") => storage(&(DType::BF16, 2)),
        ("torch", "DoubleStorage") => storage(&(DType::Other("F64"), 8)),
        ("torch", "LongStorage") => storage(&(DType::Other("I64"), 8)),
        ("torch", "IntStorage") => storage(&(DType::Other("I32"), 4)),
        ("torch", "ShortStorage") => storage(&(DType::Other("I16"), 2)),
        ("torch", "CharStorage") => storage(&(DType::Other("I8"), 1)),
        ("torch", "ByteStorage") => storage(&(DType::Other("U8"), 1)),
        ("torch", "BoolStorage") => storage(&(DType::Other("BOOL"), 1)),
        _ => None,
    }
}

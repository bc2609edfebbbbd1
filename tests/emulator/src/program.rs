//! A module, decoded: what the interpreter runs.

use std::collections::BTreeMap;

use crate::Result;

/// Loaded PTX.
#[derive(Debug, Default)]
pub struct Module {
    /// Its kernels by name.
    pub kernels: BTreeMap<String, Kernel>,
}

impl Module {
    /// Parses and decodes PTX.
    ///
    /// # Errors
    /// What the interpreter does not know, by line.
    pub fn new(ptx: &str) -> Result<Self> {
        crate::parse::module(ptx)
    }
}

/// One entry function.
#[derive(Debug, Default)]
pub struct Kernel {
    pub(crate) name: String,
    /// Offset and bytes of each parameter in the parameter block.
    pub(crate) params: Vec<(usize, usize)>,
    pub(crate) param_bytes: usize,
    /// Most threads of a block, from `.maxntid`.
    pub(crate) max_threads: u32,
    /// Bytes of static shared memory, as a GPU counts them.
    pub(crate) static_bytes: usize,
    /// The same as it lies here, and where no access may go: before the arrays and between them.
    pub(crate) shared_bytes: usize,
    pub(crate) gaps: Vec<(usize, usize)>,
    pub(crate) registers: [usize; 3],
    /// Registers that hold a constant.
    pub(crate) constants32: Vec<(u32, u32)>,
    pub(crate) constants64: Vec<(u32, u64)>,
    /// Registers that hold a special register.
    pub(crate) specials: Vec<(u32, Special)>,
    pub(crate) code: Vec<Inst>,
    /// Registers of vector loads and stores.
    pub(crate) vectors: Vec<[u32; 4]>,
    /// Source lines of the instructions.
    pub(crate) lines: Vec<u32>,
    /// Where products run beside the instructions: the words that each instruction uses, a range of the second.
    pub(crate) touches: Vec<(usize, usize)>,
    pub(crate) touched: Vec<u32>,
}

impl Kernel {
    /// Whether anything happens beside the instructions, so that barriers of the block do not tell all of the order.
    pub(crate) fn is_hopper(&self) -> bool {
        let known = |inst: &Inst| matches!(inst.op, Op::Hopper(_));
        self.code.iter().any(known)
    }

    /// Whether products of four warps run beside the instructions.
    pub(crate) fn has_products(&self) -> bool {
        let product = |inst: &Inst| matches!(inst.op, Op::Hopper(Hopper::Product(_)));
        self.code.iter().any(product)
    }
}

/// What a thread knows about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
}

/// No guard.
pub(crate) const ALWAYS: u32 = u32::MAX;

/// One instruction: operands are register numbers, constants included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    /// Predicate register and whether it is negated.
    pub(crate) guard: u32,
    pub(crate) negated: bool,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    /// Offset, branch target, types: what the operation needs beside registers.
    pub(crate) extra: i64,
}

/// How two numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Unordered forms: true for NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// State spaces of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    /// Device memory that the launch never writes.
    ReadOnly,
    Shared,
    Generic,
}

/// Types of conversions and memory accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
}

impl Type {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::S8 => 1,
            Self::U16 | Self::S16 | Self::F16 => 2,
            Self::U32 | Self::S32 | Self::F32 => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }
}

/// How a number is rounded when it is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Exact,
    Nearest,
    Zero,
    Down,
    Up,
    Saturate,
}

/// Where a shuffle reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Idx,
    Bfly,
    Up,
    Down,
}

/// What an atomic operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    MinU32,
    MaxU32,
}

/// What GPUs of compute capability 9.0 alone have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hopper {
    /// Barriers of shared memory that count arrivals, and bytes of copies.
    Init,
    Arrive,
    /// An arrival that expects so many bytes.
    Expect,
    /// Whether the phase of a parity is over.
    TryWait,
    /// Tells copies of the barriers that this thread began.
    FenceInit,
    /// A run of bytes from global into shared memory, of which a barrier is told.
    CopyBulk,
    /// Registers of a thread, for all of a warpgroup.
    Registers,
    /// What registers hold is there for products.
    Fence,
    /// BF16 of 64 x 16 in registers times 16 rows of so many times 8 in shared memory, onto floats.
    Product(u8),
    Commit,
    /// All groups of products but the youngest are done.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Mov32,
    Mov64,
    MovPred,
    /// Two halves into one register, and back.
    Join,
    Split,
    Param32,
    Param64,
    /// A word into 64 bits.
    ParamWide,
    Add32,
    Sub32,
    Mul32,
    MulHiU32,
    MulHiS32,
    Mad32,
    MulWideU32,
    MulWideS32,
    MadWideU32,
    MadWideS32,
    DivU32,
    RemU32,
    DivS32,
    RemS32,
    MinU32,
    MaxU32,
    MinS32,
    MaxS32,
    And32,
    Or32,
    Xor32,
    Not32,
    Neg32,
    Popc32,
    Shl32,
    ShrU32,
    ShrS32,
    Prmt,
    Bfi32,
    /// A table's bit for every three bits.
    Lop3,
    Dp4aSS,
    Dp4aUU,
    Add64,
    Sub64,
    Mul64,
    Mad64,
    DivU64,
    RemU64,
    MinU64,
    MaxU64,
    And64,
    Or64,
    Xor64,
    Not64,
    Neg64,
    Shl64,
    ShrU64,
    ShrS64,
    Bfi64,
    AddF,
    SubF,
    MulF,
    FmaF,
    /// Two floats to BF16, the second to the low half.
    JoinBf16,
    /// 2^x, which a GPU gives to some two units in the last place.
    PowerF,
    DivF,
    RcpF,
    SqrtF,
    MinF,
    MaxF,
    NegF,
    AbsF,
    AddF64,
    MulF64,
    SetU32(Cmp),
    SetS32(Cmp),
    SetU64(Cmp),
    SetS64(Cmp),
    SetF(Cmp),
    Sel32,
    Sel64,
    AndP,
    OrP,
    XorP,
    NotP,
    Cvt(Type, Type, Round),
    Load(Space, Type, u8),
    Store(Space, Type, u8),
    Reduce(Space, Atomic),
    Fetch(Space, Atomic),
    Shuffle(Shuffle),
    Ballot,
    Branch,
    Exit,
    Barrier,
    BarrierOr,
    WarpBarrier,
    /// A shared address as a generic one, and back.
    ToGeneric,
    FromGeneric,
    /// So many bytes from global into shared memory, which land at a wait.
    CopyAsync(u8),
    CopyCommit,
    /// Lands all of a thread's groups but the youngest.
    CopyWait,
    CopyWaitAll,
    /// Matrices of 8 x 8 halves out of shared memory.
    LoadMatrix(u8, bool),
    /// Bytes of 16 x 32 times bytes of 32 x 8.
    MultiplyS8,
    /// BF16 of 16 x 16 times BF16 of 16 x 8, to floats.
    MultiplyBf16,
    Hopper(Hopper),
}

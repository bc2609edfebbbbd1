//! Products of a warpgroup, four warps that follow each other. Each does its own 16 of the 64 rows, beside its
//! instructions: at once or, in the other order, when it waits for them. Registers that belong to one may not be touched.

use super::matrices::halves;
use super::{Block, Warp, place};
use crate::Result;
use crate::program::{Hopper, Kernel};

/// A register that a product only reads; else the product's columns.
const READ: u8 = u8::MAX;

/// Fields of a matrix's descriptor: 14 bits each, in pieces of 16 bytes.
const FIELD: u64 = 0x3fff;

/// A product that is still to be made.
#[derive(Debug, Clone, Copy)]
struct Product {
    group: u32,
    pc: usize,
    /// Where rows lie in shared memory: the first, from one half of 16 inputs to the other, from 8 rows to the next.
    rows: [usize; 3],
}

#[derive(Debug, Default)]
pub(super) struct Products {
    /// Fences so far, and for each word the number of them when it was touched last.
    fences: u32,
    touched: Vec<u32>,
    /// For each word the youngest group that has a product with it, and what it is there.
    group: Vec<u32>,
    role: Vec<u8>,
    /// Groups that were ended, and that were waited for; the youngest that has a product.
    committed: u32,
    retired: u32,
    youngest: u32,
    waiting: Vec<Product>,
    /// What a warpgroup's warps must do alike.
    log: Vec<usize>,
}

impl Products {
    pub(super) fn new(kernel: &Kernel) -> Self {
        let words = if kernel.touches.is_empty() {
            0
        } else {
            kernel.registers[1]
        };
        Self {
            touched: vec![0; words],
            group: vec![0; words],
            role: vec![0; words],
            ..Self::default()
        }
    }

    /// For a new block.
    pub(super) fn begin(&mut self) {
        self.touched.fill(0);
        self.group.fill(0);
        (self.fences, self.committed, self.retired, self.youngest) = (0, 0, 0, 0);
        self.waiting.clear();
        self.log.clear();
    }

    /// Whether products were not waited for.
    pub(super) fn are_left(&self) -> bool {
        self.youngest > self.retired
    }

    /// What a word is on behalf of a product on its way.
    fn busy(&self, word: u32) -> Option<u8> {
        let word = word as usize;
        (self.group[word] > self.retired).then(|| self.role[word])
    }
}

impl Warp {
    /// Notes the words that an instruction uses.
    pub(super) fn touch(&mut self, kernel: &Kernel, pc: usize) -> Result<()> {
        let (begin, end) = kernel.touches[pc];
        for &word in &kernel.touched[begin..end] {
            if self.products.busy(word).is_some() {
                return Err("uses a register of a product that was not waited for".into());
            }
            self.products.touched[word as usize] = self.products.fences;
        }
        Ok(())
    }

    /// What all lanes of a warpgroup do at once.
    #[inline(never)]
    pub(super) fn group_operation(
        &mut self,
        op: Hopper,
        pc: usize,
        block: &mut Block<'_>,
    ) -> Result<()> {
        self.products.log.push(pc);
        match op {
            Hopper::Fence => self.products.fences += 1,
            Hopper::Commit => self.products.committed += 1,
            Hopper::Wait => {
                let rest = u32::try_from(block.kernel.code[pc].extra).unwrap_or(0);
                self.products_done(rest, block);
            }
            Hopper::Product(eights) => return self.begin_product(eights, pc, block),
            _ => {}
        }
        Ok(())
    }

    /// Waits for all groups but the youngest.
    fn products_done(&mut self, rest: u32, block: &mut Block<'_>) {
        let ended = self.products.committed.saturating_sub(rest);
        let mut waiting = std::mem::take(&mut self.products.waiting);
        waiting.retain(|product| {
            if product.group <= ended {
                self.make_product(*product, block);
            }
            product.group > ended
        });
        self.products.waiting = waiting;
        self.products.retired = self.products.retired.max(ended);
        if let Some(ordered) = &mut block.shared.ordered {
            let done = self.products.retired;
            ordered.clocks.products_done(self.index, done);
        }
    }

    fn begin_product(&mut self, eights: u8, pc: usize, block: &mut Block<'_>) -> Result<()> {
        let kernel = block.kernel;
        let i = &kernel.code[pc];
        let descriptor = self.longs[i.b as usize][0];
        if self.longs[i.b as usize] != [descriptor; 32] {
            return Err("lanes have matrices in different places".into());
        }
        if descriptor & !(FIELD << 32 | FIELD << 16 | FIELD) != 0 {
            return Err(format!(
                "a matrix in shared memory by {descriptor:#x}: such a mode is not known"
            ));
        }
        let rows = [0, 16, 32].map(|shift| (descriptor >> shift & FIELD) as usize * 16);
        let group = self.products.committed + 1;
        self.registers_of(eights, pc, group, kernel)?;
        let by = self.access(0, u32::MAX, block);
        for at in row_places(rows, eights) {
            block.shared.range(at as u64, 16)?;
        }
        if let Some(ordered) = &mut block.shared.ordered {
            ordered.product_reads(row_places(rows, eights), by, group)?;
        }
        self.products.youngest = group;
        let product = Product { group, pc, rows };
        if block.shared.ordered.as_ref().is_some_and(|o| o.late) {
            self.products.waiting.push(product);
        } else {
            self.make_product(product, block);
        }
        Ok(())
    }

    /// Takes the registers of a product: none may be another's but sums of the same shape, and what the instructions did
    /// with them must lie behind a fence.
    fn registers_of(&mut self, eights: u8, pc: usize, group: u32, kernel: &Kernel) -> Result<()> {
        let i = &kernel.code[pc];
        let own = &mut self.products;
        let sums = &kernel.vectors[i.d as usize..][..usize::from(eights)];
        let sums = sums.iter().flatten().map(|&word| (word, eights));
        let read = kernel.vectors[i.a as usize].map(|word| (word, READ));
        for (word, role) in sums.chain(read) {
            if own.busy(word).is_some_and(|other| other != role) {
                return Err("uses a register of another product that was not waited for".into());
            }
            let word = word as usize;
            if own.fences == 0 || own.touched[word] == own.fences {
                return Err("a product of registers without a fence behind their last use".into());
            }
            (own.group[word], own.role[word]) = (group, role);
        }
        Ok(())
    }

    /// Lane 4 g + t holds of the words the rows g and g + 8, both at k = 2 t and 2 t + 8 and the one behind; of the sums the
    /// columns 2 t and the next of these rows, eight columns further in the next four. Each sum is rounded once.
    fn make_product(&mut self, product: Product, block: &Block<'_>) {
        let kernel = block.kernel;
        let i = &kernel.code[product.pc];
        let Hopper::Product(eights) = (match i.op {
            crate::program::Op::Hopper(op) => op,
            _ => return,
        }) else {
            return;
        };
        // By input, then by row.
        let mut words = [[0.0_f64; 16]; 16];
        for (part, register) in kernel.vectors[i.a as usize].into_iter().enumerate() {
            for (lane, word) in self.words[register as usize].into_iter().enumerate() {
                let (row, k) = (lane / 4 + part % 2 * 8, lane % 4 * 2 + part / 2 * 8);
                for (more, half) in halves(word).into_iter().enumerate() {
                    words[k + more][row] = f64::from(half);
                }
            }
        }
        let [first, across, down] = product.rows;
        for eight in 0..usize::from(eights) {
            let registers = kernel.vectors[i.d as usize + eight];
            for column in 0..8 {
                let mut dots = [0.0_f64; 16];
                for half in 0..2 {
                    let at = first + eight * down + half * across + column * 16;
                    let ordered = block.shared.ordered.as_ref();
                    if ordered.is_some_and(|o| !o.are_there(at)) {
                        dots.fill(f64::NAN);
                    }
                    let row: &[[u8; 2]] = block.shared.bytes[at..at + 16].as_chunks().0;
                    for (k, x) in row.iter().enumerate() {
                        let x = f64::from(halves(u16::from_le_bytes(*x).into())[0]);
                        for (dot, word) in dots.iter_mut().zip(&words[half * 8 + k]) {
                            *dot += x * word;
                        }
                    }
                }
                for (row, dot) in dots.into_iter().enumerate() {
                    let register = registers[row / 8 * 2 + column % 2] as usize;
                    let sum = &mut self.words[register][row % 8 * 4 + column / 2];
                    #[expect(clippy::cast_possible_truncation, reason = "rounds")]
                    let new = (f64::from(f32::from_bits(*sum)) + dot) as f32;
                    *sum = new.to_bits();
                }
            }
        }
    }

    /// That the four warps of each warpgroup did the same for it.
    pub(crate) fn ran_the_same(warps: &[Self], kernel: &Kernel) -> Result<()> {
        for four in warps.chunks(4) {
            let Some(first) = four.iter().find(|w| !w.products.log.is_empty()) else {
                continue;
            };
            let log = &first.products.log;
            if four.len() != 4 || four.iter().any(|w| w.products.log != *log) {
                return Err(format!(
                    "{}: the warps of a warpgroup part, that of warp {}",
                    place(kernel, log[0]),
                    first.index
                ));
            }
        }
        Ok(())
    }
}

/// Where the rows of a matrix begin, 16 bytes each.
fn row_places([first, across, down]: [usize; 3], eights: u8) -> impl Iterator<Item = usize> {
    let all = (0..usize::from(eights)).flat_map(move |eight| [(eight, 0), (eight, 1)]);
    all.flat_map(move |(eight, half)| {
        (0..8).map(move |row| first + eight * down + half * across + row * 16)
    })
}

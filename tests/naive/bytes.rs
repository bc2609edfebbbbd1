//! Numbers from any bytes; after their end there are zeros.

pub struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&first, rest)) => {
                self.rest = rest;
                first
            }
            None => 0,
        }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.byte() as usize % bound
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Any float at all, or a small one that others are likely to equal.
    pub fn float(&mut self, wild: bool) -> f32 {
        if wild {
            f32::from_bits(self.word())
        } else {
            f32::from(self.byte().cast_signed()) / 16.0
        }
    }
}

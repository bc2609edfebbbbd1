//! Prompts whose text rows lie in the cache: computed once, shared by all their candidates.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::session::reserved;
use crate::prompt::TokenId;

/// One cached prompt.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its text rows, pads left out; empty while the place is free.
    pub(super) tokens: Vec<TokenId>,
    /// First cache row.
    pub(super) row: u32,
    /// Candidates that use it.
    pub(super) users: usize,
    /// Whether its step-0 logits are in place.
    pub(super) first: bool,
    used: u64,
}

/// The places for prompts.
#[derive(Debug)]
pub(super) struct Prompts {
    entries: Vec<Entry>,
    clock: u64,
}

impl Prompts {
    /// `count` places of `rows` cache rows each, from row `from` on.
    pub(super) fn new(count: usize, rows: u32, from: u32) -> Result<Self> {
        let mut entries = reserved(count)?;
        for i in (0..).take(count) {
            entries.push(Entry {
                tokens: reserved(rows as usize)?,
                row: from + i * rows,
                users: 0,
                first: false,
                used: 0,
            });
        }
        Ok(Self { entries, clock: 0 })
    }

    pub(super) fn entry(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[place]
    }

    pub(super) fn get(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    /// The place of a prompt that is cached.
    pub(super) fn find(&mut self, tokens: &[TokenId]) -> Option<usize> {
        self.clock += 1;
        let place = self.entries.iter().position(|e| e.tokens == tokens)?;
        self.entries[place].used = self.clock;
        Some(place)
    }

    /// Empties the place that was unused for longest and has no candidates.
    pub(super) fn free(&mut self) -> Result<usize> {
        let limit = self.entries.len();
        let place = (0..limit)
            .filter(|&i| self.entries[i].users == 0)
            .min_by_key(|&i| self.entries[i].used)
            .ok_or(Error::Full {
                what: "prompts of a session",
                limit,
            })?;
        let entry = &mut self.entries[place];
        entry.tokens.clear();
        entry.first = false;
        entry.used = self.clock;
        Ok(place)
    }
}

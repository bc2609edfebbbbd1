//! Prefixes whose keys and values lie in the cache: computed once, shared by all candidates that begin with them.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::model::session::reserved;

/// One cached prefix.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Words that identify it; empty while the place is free.
    words: Vec<u32>,
    /// Rows it has.
    pub(super) len: usize,
    /// Candidates that use it.
    pub(super) users: usize,
    used: u64,
}

/// The places for prefixes.
#[derive(Debug)]
pub(super) struct Prefixes {
    entries: Vec<Entry>,
    clock: u64,
}

impl Prefixes {
    pub(super) fn new(count: usize) -> Result<Self> {
        let mut entries = reserved(count)?;
        entries.resize_with(count, Entry::default);
        Ok(Self { entries, clock: 0 })
    }

    pub(super) fn get(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    pub(super) fn entry(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[place]
    }

    /// The place of a prefix that is cached.
    pub(super) fn find(&mut self, words: &[u32]) -> Option<usize> {
        self.clock += 1;
        let place = self.entries.iter().position(|e| e.words == words)?;
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
        self.entries[place].words.clear();
        Ok(place)
    }

    /// Says what a place holds now.
    pub(super) fn fill(&mut self, place: usize, words: &[u32], len: usize) -> Result<()> {
        let entry = &mut self.entries[place];
        let room = entry.words.try_reserve(words.len());
        room.map_err(|_| Error::OutOfMemory {
            what: "prompts of a session",
            bytes: size_of_val(words),
        })?;
        entry.words.extend_from_slice(words);
        (entry.len, entry.used) = (len, self.clock);
        Ok(())
    }
}

//! Worker threads that stay, and the lists of tasks they share.

use core::any::Any;
use core::hint;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{SERIAL_WORK, grow};
use crate::error::{Error, Foreign, Result};

/// Looks at the generation before a worker sleeps: some 300 µs, the longest pause between two operations of a model. Few
/// under Miri, so that its schedules have sleepers as well.
const SPINS: usize = if cfg!(miri) { 4 } else { 10000 };

/// Pauses of a caller between two looks at whether the workers are done.
const PAUSES: usize = if cfg!(miri) { 2 } else { 16 };

/// Scratch that nobody uses now: as much as callers ever used at the same time.
#[derive(Debug, Default)]
struct Spare<T>(Mutex<Vec<Vec<T>>>);

impl<T> Spare<T> {
    fn take(&self) -> Vec<T> {
        locked(&self.0).pop().unwrap_or_default()
    }

    fn give(&self, scratch: Vec<T>) {
        let mut spare = locked(&self.0);
        // Scratch that cannot be kept is reserved again, which costs time and nothing else.
        if spare.try_reserve(1).is_ok() {
            spare.push(scratch);
        }
    }
}

/// Threads that help the caller.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose job the workers do.
    entry: Mutex<()>,
    scratch: Spare<f32>,
    words: Spare<u32>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
    /// Counts jobs and the stop; changed only under the lock of `state`.
    generation: AtomicUsize,
}

#[derive(Default)]
struct State {
    job: Option<&'static (dyn Fn() + Sync)>,
    /// Workers inside the job.
    running: usize,
    sleeping: usize,
    /// Whether the caller sleeps until they are done.
    waiting: bool,
    stop: bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("State")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker does until the pool is dropped.
    fn work(&self) {
        let mut seen = 0;
        loop {
            for _ in 0..SPINS {
                if self.generation.load(Ordering::Acquire) != seen {
                    break;
                }
                hint::spin_loop();
            }
            let mut state = self.lock();
            while self.generation.load(Ordering::Acquire) == seen {
                state.sleeping += 1;
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.sleeping -= 1;
            }
            seen = self.generation.load(Ordering::Acquire);
            if state.stop {
                return;
            }
            // None: the caller has done all of it already.
            let Some(job) = state.job else { continue };
            state.running += 1;
            drop(state);
            let result = catch_unwind(AssertUnwindSafe(job));
            let mut state = self.lock();
            state.running -= 1;
            if let Err(panic) = result {
                state.panic = Some(panic);
            }
            if state.running == 0 && state.waiting {
                self.done.notify_all();
            }
        }
    }
}

/// Takes the job away from the workers and waits for those inside it, also when the caller's part panics.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.job = None;
        // Tasks are short: sleeping and being woken would mostly take longer than the last of them.
        for _ in 0..SPINS / PAUSES {
            if state.running == 0 {
                return;
            }
            drop(state);
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
            state = self.0.lock();
        }
        while state.running > 0 {
            state.waiting = true;
            state = self
                .0
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting = false;
    }
}

impl Pool {
    /// Starts `n − 1` workers: the caller is the last one.
    pub(super) fn new(n: usize) -> Result<Self> {
        let mut pool = Self {
            shared: Arc::default(),
            workers: Vec::new(),
            entry: Mutex::default(),
            scratch: Spare::default(),
            words: Spare::default(),
        };
        for _ in 1..n {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name("maquette".into())
                .spawn(move || shared.work());
            pool.workers
                .push(worker.map_err(|e| Error::Foreign(Foreign::new(e)))?);
        }
        Ok(pool)
    }

    /// As many threads as the machine runs at once, or fewer where they cannot be had.
    pub(super) fn of_machine() -> Self {
        let mut n = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(super::MAX_THREADS);
        loop {
            match Self::new(n) {
                Ok(pool) => return pool,
                Err(_) => n = (n / 2).max(1),
            }
        }
    }

    /// Threads that work, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` once on this thread and on every worker that is free meanwhile. If the workers are busy for another
    /// caller, this thread does it all: a job shares out its tasks itself.
    #[expect(
        unsafe_code,
        reason = "workers outlive every borrow, so the job's lifetime must be hidden from them"
    )]
    fn run(&self, job: &(dyn Fn() + Sync)) {
        let _entry = match self.entry.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return job(),
        };
        // SAFETY: the reference is used only between here and the end of `Finish::drop`, which runs before this
        // function returns or unwinds: it takes the reference out of `state.job`, so that no worker can start, and
        // waits until no worker is inside. `entry` keeps other callers out of `state.job` meanwhile.
        let job_for_workers =
            unsafe { core::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(job) };
        let finish = Finish(&self.shared);
        let mut state = self.shared.lock();
        state.job = Some(job_for_workers);
        // Where the caller's part panicked as well, nobody has taken the workers' panic.
        state.panic = None;
        self.shared.generation.fetch_add(1, Ordering::Release);
        let sleeping = state.sleeping;
        drop(state);
        if sleeping > 0 {
            self.shared.wake.notify_all();
        }
        job();
        drop(finish);
        if let Some(panic) = self.shared.lock().panic.take() {
            resume_unwind(panic);
        }
    }

    /// Calls `f` with every task, on all threads if the whole takes at least some `SERIAL_WORK` operations.
    pub(super) fn each<I: Iterator + Send>(
        &self,
        work: usize,
        tasks: I,
        f: impl Fn(I::Item) + Sync,
    ) {
        if work < SERIAL_WORK || self.workers.is_empty() {
            return tasks.for_each(f);
        }
        let tasks = Mutex::new(tasks);
        self.run(&|| {
            while let Some(task) = next(&tasks) {
                f(task);
            }
        });
    }

    /// As `each`, with `len` floats of scratch for each thread that has a task, of unknown content.
    pub(super) fn each_with<I: Iterator + Send>(
        &self,
        work: usize,
        len: usize,
        tasks: I,
        f: impl Fn(&mut [f32], I::Item) + Sync,
    ) -> Result<()> {
        let alone = work < SERIAL_WORK || self.workers.is_empty();
        let most = if alone { 1 } else { self.threads() };
        let threads = tasks.size_hint().1.map_or(most, |tasks| tasks.min(most));
        let mut scratch = self.scratch.take();
        let result = grow(&mut scratch, len, threads);
        if result.is_ok() {
            let pieces = Mutex::new(scratch.chunks_mut(len.max(1)));
            let tasks = Mutex::new(tasks);
            let job = || {
                let piece = next(&pieces).unwrap_or_default();
                while piece.len() >= len
                    && let Some(task) = next(&tasks)
                {
                    f(piece, task);
                }
            };
            if alone { job() } else { self.run(&job) }
        }
        self.scratch.give(scratch);
        result
    }

    /// Lends `len` words, of unknown content, that all threads share.
    pub(super) fn with_words<T>(&self, len: usize, f: impl FnOnce(&mut [u32]) -> T) -> Result<T> {
        let mut words = self.words.take();
        let result = grow(&mut words, len, 1).map(|()| f(&mut words[..len]));
        self.words.give(words);
        result
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next element, whoever asks.
fn next<I: Iterator>(items: &Mutex<I>) -> Option<I::Item> {
    locked(items).next()
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        self.shared.generation.fetch_add(1, Ordering::Release);
        drop(state);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so that there is nothing to learn here.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::sync::Barrier;

    use super::*;

    /// Times that something is tried: Miri takes another schedule for each of its seeds instead.
    const ROUNDS: usize = if cfg!(miri) { 2 } else { 200 };

    /// Numbers of one task each, by two lists: those that were added up, and thrice those that were written.
    fn count(pool: &Pool, n: usize) -> (usize, Vec<f32>) {
        let sum = AtomicUsize::new(0);
        pool.each(SERIAL_WORK, 1..=n, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        let mut written = alloc::vec![0.0; n];
        let tasks = written.iter_mut().enumerate();
        pool.each_with(SERIAL_WORK, 3, tasks, |scratch, (i, out)| {
            // What two threads had at once would be torn.
            scratch[..3].fill(i as f32);
            *out = scratch[..3].iter().sum();
        })
        .unwrap();
        (sum.into_inner(), written)
    }

    #[test]
    fn callers_who_share_the_workers_have_each_task_done_once() {
        let pool = Pool::new(3).unwrap();
        thread::scope(|scope| {
            for caller in 0..3 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let n = 1 + (caller + round) % 9;
                        let want = (0..n).map(|i| 3.0 * i as f32).collect();
                        assert_eq!(count(pool, n), (n * (n + 1) / 2, want));
                    }
                });
            }
        });
    }

    #[test]
    fn scratch_is_reserved_for_those_who_have_a_task() {
        let pool = Pool::new(3).unwrap();
        for (work, tasks, want) in [
            (SERIAL_WORK, 0, 0),
            (SERIAL_WORK - 1, 9, 5),
            (SERIAL_WORK, 1, 5),
            (SERIAL_WORK, 2, 10),
            (SERIAL_WORK, 9, 15),
        ] {
            let done = AtomicUsize::new(0);
            pool.each_with(work, 5, 0..tasks, |scratch, _| {
                scratch[..5].fill(1.0);
                done.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(done.into_inner(), tasks);
            assert_eq!(locked(&pool.scratch.0).pop().unwrap().len(), want);
        }
    }

    #[test]
    fn a_panic_in_any_task_reaches_its_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(2).unwrap();
        for round in 0..ROUNDS {
            let bad = round % 5;
            let job = AssertUnwindSafe(|| {
                pool.each(SERIAL_WORK, 0..5, |i| {
                    if i == bad {
                        // No message: hundreds of them would hide the others.
                        resume_unwind(Box::new(i));
                    }
                });
            });
            let panic = catch_unwind(job).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&bad));
            assert_eq!(count(&pool, 4).0, 10);
        }
    }

    #[test]
    fn panics_of_several_threads_are_over_with_their_call() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..ROUNDS {
            // Each thread has one of the tasks.
            let both = Barrier::new(2);
            let job = AssertUnwindSafe(|| {
                pool.each(SERIAL_WORK, 0..2, |i| {
                    both.wait();
                    resume_unwind(Box::new(i));
                });
            });
            assert!(catch_unwind(job).is_err());
            assert_eq!(count(&pool, 4).0, 10);
        }
    }

    #[test]
    fn a_pool_ends_whether_it_was_used_or_not() {
        for round in 0..ROUNDS {
            let pool = Pool::new(3).unwrap();
            if round % 2 == 0 {
                assert_eq!(count(&pool, 2).0, 3);
            }
        }
    }

    /// Asleep in the wait for a wake-up a thread takes no time of the processor; how soon it gets there is not asked.
    #[test]
    fn workers_without_a_job_go_to_sleep_and_wake_for_the_next() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..ROUNDS.min(3) {
            let done = AtomicUsize::new(0);
            pool.each(SERIAL_WORK, 0..100_usize, |i| {
                done.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 4950);
            let asleep = (0..60_000).any(|_| {
                thread::sleep(Duration::from_millis(1));
                pool.shared.lock().sleeping == 2
            });
            assert!(asleep);
        }
    }
}

//! What a search may compute, and what the dearest of its steps and questions took of that.

use super::MultiplyAdds;
use crate::error::{Error, Result};

/// What was announced, of how many candidates or views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Step(u64),
    Question(u64),
}

/// Multiply-adds of one search as its announcements tell them.
#[derive(Debug)]
pub(super) struct Meter {
    limit: u64,
    /// What had been computed when the search began.
    begun: u64,
    /// What it has computed up to the last announcement.
    spent: u64,
    under_way: Option<Work>,
    /// The dearest step of a candidate, and the dearest question about a view.
    step: u64,
    question: u64,
}

impl Meter {
    /// A search that begins where so much has been computed.
    pub(super) fn new(limit: u64, begun: &MultiplyAdds) -> Result<Self> {
        Ok(Self {
            limit,
            begun: counted(begun)?,
            spent: 0,
            under_way: None,
            step: 0,
            question: 0,
        })
    }

    /// Books everything up to here under what was announced last.
    pub(super) fn read(&mut self, now: &MultiplyAdds) -> Result<()> {
        let spent = counted(now)?.saturating_sub(self.begun);
        let last = spent.saturating_sub(self.spent);
        match self.under_way.take() {
            Some(Work::Step(n)) => self.step = self.step.max(last.div_ceil(n.max(1))),
            Some(Work::Question(n)) => self.question = self.question.max(last.div_ceil(n.max(1))),
            None => {}
        }
        self.spent = spent;
        Ok(())
    }

    /// Whether this and so many steps after it fit in by the dearest so far.
    pub(super) fn allows(&self, next: Work, after: u64) -> bool {
        let next = match next {
            Work::Step(n) => self.step.saturating_mul(n),
            Work::Question(n) => self.question.saturating_mul(n),
        };
        let rest = self.step.saturating_mul(after);
        self.spent.saturating_add(next).saturating_add(rest) <= self.limit
    }

    /// What was announced is going to be done.
    pub(super) const fn begin(&mut self, work: Work) {
        self.under_way = Some(work);
    }

    /// Steps of a candidate that still fit in.
    pub(super) const fn steps(&self) -> u64 {
        let left = self.limit.saturating_sub(self.spent);
        match left.checked_div(self.step) {
            Some(steps) => steps,
            None => u64::MAX,
        }
    }
}

/// All parts together.
fn counted(work: &MultiplyAdds) -> Result<u64> {
    work.total().ok_or(Error::Unsupported {
        what: "a budget of multiply-adds where generator, judge or strategy does not count them",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(n: u64) -> MultiplyAdds {
        MultiplyAdds {
            generator: Some(n),
            decoder: Some(0),
            judge: Some(1000),
        }
    }

    #[test]
    fn the_dearest_step_decides_what_fits() {
        let mut meter = Meter::new(100, &told(7)).unwrap();
        // Nothing is known yet: anything fits.
        assert!(meter.allows(Work::Step(50), 50) && meter.steps() == u64::MAX);
        meter.begin(Work::Step(2));
        meter.read(&told(7 + 21)).unwrap();
        // 11 a step, since 10 and a half is not whole: 79 are left.
        assert!(meter.allows(Work::Step(7), 0) && !meter.allows(Work::Step(8), 0));
        assert!(meter.allows(Work::Step(2), 5) && !meter.allows(Work::Step(2), 6));
        assert_eq!(meter.steps(), 7);
        meter.begin(Work::Step(1));
        meter.read(&told(7 + 23)).unwrap();
        assert_eq!(meter.steps(), 7);
        // Questions are known apart, and need room for the steps after them.
        assert!(meter.allows(Work::Question(99), 7) && !meter.allows(Work::Question(1), 8));
        meter.begin(Work::Question(4));
        meter.read(&told(7 + 23 + 20)).unwrap();
        assert!(meter.allows(Work::Question(11), 0) && !meter.allows(Work::Question(12), 0));
        // What nobody announced is paid, and dearer than nothing.
        meter.read(&told(7 + 100)).unwrap();
        assert!(!meter.allows(Work::Question(1), 0) && meter.allows(Work::Question(0), 0));
        assert_eq!(meter.steps(), 0);
    }

    #[test]
    fn what_is_not_counted_cannot_be_bounded() {
        let mut unknown = told(0);
        unknown.judge = None;
        assert!(matches!(
            Meter::new(1, &unknown),
            Err(Error::Unsupported { .. })
        ));
        let mut meter = Meter::new(1, &told(0)).unwrap();
        assert!(matches!(
            meter.read(&unknown),
            Err(Error::Unsupported { .. })
        ));
    }
}

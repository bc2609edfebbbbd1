//! Fakes of the contracts, and checks of foreign implementations against them.
//!
//! ```
//! use maquette::testing::{OracleReward, ScriptedGenerator, conformance};
//! use maquette::{Prompt, reward::Judgement};
//!
//! let (mut generator, mut reward) = (ScriptedGenerator::new(4), OracleReward::new(1));
//! conformance::generator(&mut generator, &Prompt::new("a red car"))?;
//! conformance::reward(&mut reward, &mut generator, &Prompt::new("a red car"), Judgement::Process)?;
//! # Ok::<(), conformance::Violation>(())
//! ```

pub mod conformance;
mod generator;
mod reward;

pub use generator::{Calls, ScriptedGenerator};
pub use reward::{OracleReward, ScriptedReward};

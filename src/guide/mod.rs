//! Guides: how to put something of one's own beside what the crate has. Every example here is compiled and run.
//!
//! - [`strategy`]: decide which candidates live
//! - [`generator`]: let the strategies drive a model that is not one of ours
//! - [`judge`]: ask a judge that sits behind HTTP
//! - [`embedding`]: link the crate into a program without std
//!
//! Steps for a new operation, kernel or model inside the crate stand in the README.

#[doc = include_str!("strategy.md")]
pub mod strategy {}

#[doc = include_str!("generator.md")]
pub mod generator {}

#[doc = include_str!("judge.md")]
pub mod judge {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

//! Guides: how to put something of one's own beside what the crate has. Every example here is compiled and run.
//!
//! - [`strategy`]: decide which candidates live
//! - [`generator`]: let the strategies drive a model that is not one of ours
//! - [`judge`]: ask a judge that sits behind HTTP
//! - [`embedding`]: link the crate into a program without std
//! - [`model`]: a model over the crate's own matrices, transformer and caches
//! - [`kernel`]: an operation with a kernel of its own, from its loop to its counters

#[doc = include_str!("strategy.md")]
pub mod strategy {}

#[doc = include_str!("generator.md")]
pub mod generator {}

#[doc = include_str!("judge.md")]
pub mod judge {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

#[doc = include_str!("model.md")]
pub mod model {}

#[doc = include_str!("kernel.md")]
pub mod kernel {}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What the guide shows of a file, by the name before it, stands in the file.
    #[test]
    fn excerpts_stand_in_their_files() {
        let mut shown = 0;
        let mut parts = include_str!("kernel.md").split("```");
        while let (Some(before), Some(block)) = (parts.next(), parts.next()) {
            let Some(excerpt) = block.strip_prefix("text\n") else {
                continue;
            };
            let name = before.rsplit('`').nth(1).unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            let file = fs::read_to_string(path).unwrap();
            assert!(file.contains(excerpt), "{name} has no longer\n{excerpt}");
            shown += 1;
        }
        assert_eq!(shown, 2);
    }
}

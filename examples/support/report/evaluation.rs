//! One page about evaluations, for a browser: tables with intervals, gain against cost, curves. It needs no network.

use serde_json::Value;

const PAGE: &str = include_str!("evaluation.html");

/// The page of what [`json`](crate::comparison::json) tells, with a `title`.
#[must_use]
pub fn page(told: &Value) -> String {
    // Inside a script element no text may look like its end.
    let data = told.to_string().replace('<', "\\u003c");
    PAGE.replacen("{{data}}", &data, 1)
}

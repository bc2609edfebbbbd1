//! Files stand in layers, and name only what lies below them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Part of a module path, and the parts that it may name beside itself.
const RULES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("math", &[]),
    ("codes", &["error"]),
    ("image", &["error"]),
    ("rng", &["math", "error"]),
    ("prompt", &["error", "codes"]),
    ("generator", GROUND),
    (
        "reward",
        &[
            "error",
            "math",
            "rng",
            "prompt",
            "codes",
            "image",
            "generator",
        ],
    ),
    ("combine", CONTRACTS),
    ("human", CONTRACTS),
    ("reason", &[]),
    (
        "parts",
        &["error", "prompt", "generator", "reason", "reward"],
    ),
    (
        "search",
        &[
            "error",
            "math",
            "rng",
            "prompt",
            "codes",
            "image",
            "generator",
            "parts",
            "reason",
            "reward",
        ],
    ),
    ("quant", GROUND),
    (
        "ops",
        &["error", "math", "rng", "prompt", "codes", "image", "quant"],
    ),
    (
        "cpu",
        &[
            "error", "math", "rng", "prompt", "codes", "image", "quant", "ops",
        ],
    ),
    (
        "cuda",
        &[
            "error", "math", "rng", "prompt", "codes", "image", "quant", "ops",
        ],
    ),
    (
        "model",
        &[
            "error",
            "math",
            "rng",
            "prompt",
            "codes",
            "image",
            "generator",
            "reward",
            "combine",
            "quant",
            "ops",
        ],
    ),
    (
        "align",
        &[
            "error",
            "math",
            "rng",
            "prompt",
            "codes",
            "image",
            "generator",
            "reward",
            "quant",
            "ops",
            "model",
        ],
    ),
    ("guide", &[]),
    (
        "testing",
        &[
            "error",
            "math",
            "rng",
            "prompt",
            "codes",
            "image",
            "generator",
            "reward",
            "combine",
            "search",
        ],
    ),
    // The root only lists and re-exports.
    (
        "lib",
        &[
            "codes",
            "error",
            "generator",
            "image",
            "prompt",
            "reward",
            "search",
        ],
    ),
];
const GROUND: &[&str] = &["error", "math", "rng", "prompt", "codes", "image"];
const CONTRACTS: &[&str] = &[
    "error",
    "math",
    "rng",
    "prompt",
    "codes",
    "image",
    "generator",
    "reward",
];

/// Top-level modules that a source file names through `crate::`, outside comments and tests.
fn named(source: &str) -> Vec<String> {
    let code = source
        .split("\n#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(source);
    let mut out = Vec::new();
    for line in code.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
        let line = line.split("//").next().unwrap_or(line);
        for rest in line.split("crate::").skip(1) {
            // A group names one module after each comma of its outer braces.
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group.split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let name: String = name
                    .trim()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if name.chars().next().is_some_and(char::is_lowercase) {
                    out.push(name);
                }
            }
        }
    }
    out
}

/// What a file of `module` names although it lies above or beside.
fn faults(module: &str, source: &str) -> Result<Vec<String>, String> {
    let rules: BTreeMap<_, _> = RULES.iter().copied().collect();
    let allowed = rules
        .get(module)
        .ok_or_else(|| format!("the module {module} has no layer: add it to the table"))?;
    let below = |name: &String| {
        name == module || allowed.contains(&name.as_str()) || !rules.contains_key(name.as_str())
    };
    Ok(named(source)
        .into_iter()
        .filter(|name| !below(name))
        .collect())
}

fn visit(folder: &Path, module: Option<&str>, found: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let module = module.unwrap_or(&stem);
        if path.is_dir() {
            files += visit(&path, Some(module), found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files += 1;
            match faults(module, &fs::read_to_string(&path).unwrap()) {
                Ok(names) => found.extend(
                    names
                        .iter()
                        .map(|n| format!("{} names crate::{n}", path.display())),
                ),
                Err(e) => found.push(e),
            }
        }
    }
    files
}

#[test]
fn no_file_names_what_lies_above_it() {
    let mut found = Vec::new();
    let files = visit(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        None,
        &mut found,
    );
    assert!(files > 10, "only {files} files were read");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_line_that_points_up_is_found() {
    assert_eq!(
        faults(
            "ops",
            "use crate::error::Error;\nuse crate::model::linear::Linear;"
        )
        .unwrap(),
        ["model"]
    );
    assert_eq!(
        faults("search", "    crate::model::run();").unwrap(),
        ["model"]
    );
    assert_eq!(
        faults("model", "use crate::{error::Error, cpu::Cpu};").unwrap(),
        ["cpu"]
    );
    assert_eq!(
        faults("reward", "use crate::search::Cost;").unwrap(),
        ["search"]
    );
}

#[test]
fn comments_tests_and_the_own_module_are_free() {
    let source = "//! See crate::model.\nuse crate::ops::gemm;\n\n#[cfg(test)]\nmod tests {\n    use crate::cpu::Cpu;\n}\n";
    assert!(faults("ops", source).unwrap().is_empty());
}

#[test]
fn a_module_without_a_layer_is_refused() {
    assert!(faults("elsewhere", "").is_err());
}

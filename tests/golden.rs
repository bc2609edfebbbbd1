//! Every case of the golden folder against every device: `MAQUETTE_GOLDEN` names the folder, else `tests/golden`.
//!
//! A case is a folder with `config.json`, `golden.safetensors` (`in.*` and `out.*`) and mostly `model.safetensors`, whose
//! large matrices are kept as F32; where it holds BF16, in BF16 as well, and every output has the same bits. Its
//! family is the longest entry of [`families`] that its name begins with. To add a family, write
//! `golden_families/x.rs` with `pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()>` and one line below.
#![cfg(feature = "safetensors")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use maquette::Result;
use maquette::cpu::Cpu;
use maquette::ops::Reference;
use maquette::quant::Format;
use serde_json::Value;

use case::Case;

#[path = "golden_families/case.rs"]
mod case;
#[path = "golden_families/janus.rs"]
mod janus;
#[path = "golden_families/llamagen.rs"]
mod llamagen;
#[path = "golden_families/llamagen_vq.rs"]
mod llamagen_vq;
#[path = "golden_families/llava.rs"]
mod llava;
#[path = "golden_families/magvit.rs"]
mod magvit;
#[path = "golden_families/quant.rs"]
mod quant;
#[path = "golden_families/samplers.rs"]
mod samplers;
#[path = "golden_families/show_o.rs"]
mod show_o;
#[path = "golden_families/t5.rs"]
mod t5;
#[cfg(feature = "align")]
#[path = "golden_families/train.rs"]
mod train;

#[cfg(feature = "cuda")]
mod gpu;

struct Family {
    name: &'static str,
    reference: fn(&Case, &Arc<Reference>) -> Result<()>,
    cpu: fn(&Case, &Arc<Cpu>) -> Result<()>,
    #[cfg(feature = "cuda")]
    cuda: fn(&Case, &Arc<maquette::cuda::Device>) -> Result<()>,
}

macro_rules! family {
    ($name:literal, $module:ident) => {
        Family {
            name: $name,
            reference: $module::run::<Reference>,
            cpu: $module::run::<Cpu>,
            #[cfg(feature = "cuda")]
            cuda: $module::run::<maquette::cuda::Device>,
        }
    };
}

fn families() -> Vec<Family> {
    let mut all = vec![
        family!("janus-", janus),
        family!("llamagen-", llamagen),
        family!("llamagen-vq", llamagen_vq),
        family!("llava-", llava),
        family!("magvit-v2", magvit),
        family!("quant-blocks", quant),
        family!("samplers", samplers),
        family!("showo-", show_o),
        family!("t5-", t5),
    ];
    all.extend(training());
    all
}

#[cfg(feature = "align")]
fn training() -> Option<Family> {
    Some(family!("train-", train))
}

#[cfg(not(feature = "align"))]
fn training() -> Option<Family> {
    None
}

/// What a case has in the names of the transformers library, too.
const TRANSFORMERS: &str = "golden.transformers.safetensors";
/// The crate's own cases, and how many of them have that.
const CASES: [usize; 2] = [20, 4];

/// Families of a feature that may be off.
const OPTIONAL: [&str; 1] = ["train-"];

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut cases: Vec<_> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("config.json").is_file())
        .collect();
    cases.sort();
    if folder.join("config.json").is_file() {
        cases.push(folder.to_owned());
    }
    cases
}

fn longest<'a>(families: &'a [Family], name: &str) -> Option<&'a Family> {
    families
        .iter()
        .filter(|f| name.starts_with(f.name))
        .max_by_key(|f| f.name.len())
}

/// A device by name, whether names are the transformers library's, and how the device runs a case.
type Pass<'a> = (
    &'a str,
    bool,
    &'a (dyn Fn(&Family, &Case) -> Result<()> + Sync),
);

#[test]
fn every_case_agrees_on_every_device() {
    let (reference, cpu) = (Arc::new(Reference), Arc::new(Cpu::new()));
    let on_reference = |family: &Family, case: &Case| (family.reference)(case, &reference);
    let on_cpu = |family: &Family, case: &Case| (family.cpu)(case, &cpu);
    let passes: [Pass<'_>; 4] = [
        ("reference", false, &on_reference),
        ("cpu", false, &on_cpu),
        ("reference", true, &on_reference),
        ("cpu", true, &on_cpu),
    ];
    agree(&passes);
}

#[cfg(feature = "cuda")]
#[test]
fn every_case_agrees_on_a_gpu() {
    let cuda = Arc::new(gpu::device());
    agree(&[("cuda", false, &|family, case| (family.cuda)(case, &cuda))]);
}

/// Runs every case of the folder; several at once, told in the folder's order.
fn agree(passes: &[Pass<'_>]) {
    let folder = std::env::var_os("MAQUETTE_GOLDEN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    );
    let (families, cases) = (families(), cases(&folder));
    let (next, told) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = cases.get(at) else { return };
            let outcome = case_agrees(path, &families, passes);
            told.lock().unwrap().insert(at, outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (mut ran, mut failures) = (0, Vec::new());
    for outcome in told.into_inner().unwrap().into_values() {
        outcome.lines.iter().for_each(|line| println!("{line}"));
        ran += outcome.ran;
        failures.extend(outcome.failures);
    }
    if ran == 0 {
        failures.push(format!(
            "{}: no case of a family that is built",
            folder.display()
        ));
    }
    // A case or a file that is lost is not one that agrees.
    if std::env::var_os("MAQUETTE_GOLDEN").is_none() {
        let of_transformers = |case: &&PathBuf| case.join(TRANSFORMERS).is_file();
        let got = [cases.len(), cases.iter().filter(of_transformers).count()];
        if got != CASES {
            failures.push(format!("{got:?} cases, not {CASES:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What became of a case.
#[derive(Default)]
struct Outcome {
    ran: usize,
    lines: Vec<String>,
    failures: Vec<String>,
}

fn case_agrees(path: &Path, families: &[Family], passes: &[Pass<'_>]) -> Outcome {
    let mut out = Outcome::default();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path.join("config.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let own = json["fixture"]["case"].as_str().unwrap_or_default();
    let Some(family) = longest(families, &name).or_else(|| longest(families, own)) else {
        if OPTIONAL
            .iter()
            .any(|f| name.starts_with(f) || own.starts_with(f))
        {
            out.lines
                .push(format!("{name}: skipped, its feature is off"));
        } else {
            out.failures
                .push(format!("{name}: no family has this name"));
        }
        return out;
    };
    for &(device, transformers, run) in passes {
        let Some(mut case) = Case::open(path, transformers) else {
            if !transformers {
                out.failures
                    .push(format!("{name}: golden.safetensors is missing"));
            } else if path.join(TRANSFORMERS).is_file() {
                out.failures
                    .push(format!("{name}: the weights of {TRANSFORMERS} are missing"));
            }
            continue;
        };
        let mut given = None;
        for format in case.formats() {
            case.format = format;
            out.ran += 1;
            let result = run(family, &case);
            let mut pass = format!("{name} on {device}");
            if transformers {
                pass += ", transformers names";
            }
            if format != Format::F32 {
                pass += &format!(", kept in {}", format.name());
            }
            if let Err(error) = result {
                case.problem(error.to_string());
            }
            let (report, outputs) = (case.report.take(), case.outputs());
            let [(share, tensor), (rounded, far)] = &report.largest;
            out.lines.push(format!(
                "{pass}: {} of {} outputs compared, largest deviation {share:.3} of its tolerance {tensor}",
                report.compared.len(),
                outputs.len()
            ));
            if !far.is_empty() {
                out.lines.push(format!(
                    "{pass}: largest deviation from the BF16 run {rounded:.3} {far}"
                ));
            }
            let told = report.problems.iter().map(|p| format!("{pass}: {p}"));
            out.failures.extend(told);
            let left: Vec<_> = outputs
                .iter()
                .filter(|o| !report.compared.contains(*o))
                .collect();
            if !left.is_empty() {
                out.failures.push(format!("{pass}: not compared: {left:?}"));
            }
            // A format that loses nothing changes no bit.
            if *given.get_or_insert_with(|| report.given.clone()) != report.given {
                out.failures.push(format!("{pass}: other bits than in F32"));
            }
        }
    }
    out
}

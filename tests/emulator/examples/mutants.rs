//! A test of the tests: plants faults in the shipped kernels, one at a time, and runs the tests on each.
//!
//! ```sh
//! cargo run --profile ci -p maquette-emulator --example mutants
//! ```
//!
//! Every file of `kernels/ptx` is a family. Of its faults a fixed number is chosen, by a fixed seed and the kernel's name,
//! evenly over the kernels and the kinds of faults: a change to one kernel leaves the faults of the others as they are. A
//! fault counts as caught when a test of `tests/ops` or `tests/cuda` that launches its kernel fails; tests with random
//! cases are left out, so that the figure is the same every time.
//! What no test catches must stand in `survivors.tsv` with the reason why; it is an error if it does not, if what stands
//! there is caught or names a line that is another one by now, or if fewer than 95 of 100 are caught. What is explained
//! counts as not caught.
//!
//! `--family NAME` looks at the families whose names begin so, `--seed N` chooses other faults, `--each N` chooses so many
//! for every kernel, `--only TEXT` those whose description (kernel, place, changed line, with colons between) holds the
//! text, `--list` prints the chosen ones and runs nothing. Names and texts may be several, an option each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use maquette_emulator::{Module, Mutant, changed, mutants};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SEED: u64 = 1;
/// Faults of a family, at least, and of each of its kernels.
const FAMILY: usize = 24;
const EACH: usize = 4;
/// Share of faults that tests must catch.
const WANTED: f64 = 0.95;
/// A test that hangs on a fault has caught it: it takes so many times what it takes without one, and at least so long.
const PATIENCE: (u32, Duration) = (20, Duration::from_secs(120));

struct Options {
    seed: u64,
    families: Vec<String>,
    only: Vec<String>,
    each: usize,
    list: bool,
}

/// One test, and what it launches: a kernel, and the instructions of its longest launch.
struct Test {
    file: PathBuf,
    name: String,
    took: Duration,
    kernels: BTreeMap<String, u64>,
}

/// A generator whose numbers only need to be spread.
struct Random(u64);

impl Random {
    /// Of a kernel: its numbers know no other kernel.
    fn of(seed: u64, kernel: &str) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(kernel.bytes().fold(seed, mix))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            #[expect(clippy::cast_possible_truncation, reason = "below a length")]
            list.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// A module without its other kernels, which are quicker not to be read.
fn alone(ptx: &str, kernel: &str) -> String {
    let entry = format!(".visible .entry {kernel}(");
    let (mut other, mut depth) = (false, 0);
    let mut text = String::new();
    for line in ptx.lines() {
        other = if line.starts_with(".visible .entry ") {
            line != entry
        } else {
            other
        };
        if !other {
            text.push_str(line);
            text.push('\n');
        }
        // There are braces within a kernel.
        match line.trim() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        other &= line != "}" || depth > 0;
    }
    text
}

/// So many faults of a kernel that the interpreter can run, the kinds in turn.
fn choose(ptx: &str, all: Vec<Mutant>, count: usize, random: &mut Random) -> Vec<Mutant> {
    let mut kinds: BTreeMap<&str, Vec<Mutant>> = BTreeMap::new();
    for mutant in all {
        kinds.entry(mutant.kind).or_default().push(mutant);
    }
    let mut kinds: Vec<Vec<Mutant>> = kinds.into_values().collect();
    kinds.iter_mut().for_each(|kind| random.shuffle(kind));
    random.shuffle(&mut kinds);
    let mut chosen = Vec::new();
    let mut places = BTreeSet::new();
    while chosen.len() < count && kinds.iter().any(|kind| !kind.is_empty()) {
        for kind in &mut kinds {
            while let Some(mutant) = kind.pop() {
                // One fault a line.
                let text = changed(ptx, &mutant.kernel, mutant.place, &mutant.to);
                if places.insert(mutant.place) && text.is_some_and(|t| Module::new(&t).is_ok()) {
                    chosen.push(mutant);
                    break;
                }
            }
        }
    }
    chosen.truncate(count);
    chosen
}

/// The tests' executables, built as the whole suite builds them.
fn executables(root: &Path) -> Outcome<Vec<PathBuf>> {
    let tests = ["--test", "ops", "--test", "cuda"];
    let out = Command::new("cargo")
        .args(["test", "--profile", "ci", "--all-features", "--no-run"])
        .args(tests)
        .args(["--message-format", "json"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    let found = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(file, _)| PathBuf::from(file))
    });
    let found: Vec<PathBuf> = found.collect();
    if found.len() == 2 {
        Ok(found)
    } else {
        Err(format!("cargo built {} test files, not 2", found.len()).into())
    }
}

fn command(file: &Path, test: &str) -> Command {
    let mut command = Command::new(file);
    command
        .args(["--exact", test, "--test-threads", "1"])
        .env("GPU_TESTS", "emulate")
        .env("EMULATOR_MUTANT", "")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs what `work` says of each item, on all processors.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Outcome<R> + Sync,
) -> Outcome<Vec<(&T, R)>> {
    let queue = Mutex::new(items.iter());
    let worker = || -> Result<Vec<(&T, R)>, String> {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().map_err(|e| e.to_string())?.next();
            let Some(item) = next else {
                return Ok(done);
            };
            done.push((item, work(item).map_err(|e| e.to_string())?));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| "a thread panicked")??);
        }
        Ok(all)
    })
}

/// All tests that launch kernels, the quickest first.
fn tests(root: &Path) -> Outcome<Vec<Test>> {
    let mut names = Vec::new();
    for file in executables(root)? {
        let list = Command::new(&file)
            .args(["--list", "--format", "terse"])
            .output()?;
        for line in String::from_utf8(list.stdout)?.lines() {
            let name = line.strip_suffix(": test");
            names.extend(name.map(|name| (file.clone(), name.to_owned())));
        }
    }
    names.retain(|(_, name)| !name.contains("prop_"));
    let traced = each(&names, |(file, name)| {
        let trace = format!("maquette-{}-{name}", std::process::id()).replace(':', "-");
        let trace = std::env::temp_dir().join(trace);
        let begin = Instant::now();
        let status = command(file, name)
            .env("EMULATOR_TRACE", &trace)
            .current_dir(root)
            .status()?;
        if !status.success() {
            return Err(format!("{name} fails without a fault").into());
        }
        let took = begin.elapsed();
        let mut kernels = BTreeMap::new();
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        std::fs::remove_file(&trace).ok();
        for (kernel, instructions) in text.lines().filter_map(|l| l.split_once('\t')) {
            kernels.insert(kernel.to_owned(), instructions.parse()?);
        }
        Ok((took, kernels))
    })?;
    let mut all: Vec<Test> = traced
        .into_iter()
        .map(|((file, name), (took, kernels))| Test {
            file: file.clone(),
            name: name.clone(),
            took,
            kernels,
        })
        .filter(|test| !test.kernels.is_empty())
        .collect();
    all.sort_by_key(|test| test.took);
    Ok(all)
}

/// The test that catches a fault.
fn caught<'a>(root: &Path, tests: &'a [Test], mutant: &Mutant) -> Outcome<Option<&'a str>> {
    for test in tests {
        let Some(instructions) = test.kernels.get(&mutant.kernel) else {
            continue;
        };
        let mut child = command(&test.file, &test.name)
            .env("EMULATOR_MUTANT", mutant.to_string())
            .env(
                "EMULATOR_BUDGET",
                (instructions * 4 + 1_000_000).to_string(),
            )
            .current_dir(root)
            .spawn()?;
        let begin = Instant::now();
        let passed = loop {
            if let Some(status) = child.try_wait()? {
                break status.success();
            }
            if begin.elapsed() > PATIENCE.1.max(test.took * PATIENCE.0) {
                child.kill()?;
                child.wait()?;
                break false;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if !passed {
            return Ok(Some(&test.name));
        }
    }
    Ok(None)
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        seed: SEED,
        families: Vec::new(),
        only: Vec::new(),
        each: EACH,
        list: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--seed" => options.seed = value()?.parse()?,
            "--each" => options.each = value()?.parse()?,
            "--family" => options.families.push(value()?),
            "--only" => options.only.push(value()?),
            "--list" => options.list = true,
            _ => {
                return Err(
                    format!("{arg} is not known; the options stand in the file's head").into(),
                );
            }
        }
    }
    Ok(options)
}

/// The families and their PTX.
fn families(root: &Path) -> Outcome<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("kernels/ptx"))? {
        let file = entry?.path();
        let family = file.file_stem().unwrap_or_default().to_string_lossy();
        if file.extension().is_some_and(|e| e == "ptx") {
            all.insert(family.into_owned(), std::fs::read_to_string(&file)?);
        }
    }
    Ok(all)
}

/// The chosen faults by family.
fn chosen(root: &Path, options: &Options) -> Outcome<Vec<(String, Mutant)>> {
    let mut all = Vec::new();
    for (family, ptx) in families(root)? {
        let named = options.families.iter().any(|name| family.starts_with(name));
        if !named && !options.families.is_empty() {
            continue;
        }
        let kernels = mutants(&ptx);
        let each = options.each.max(FAMILY.div_ceil(kernels.len().max(1)));
        for (kernel, mutants) in kernels {
            let mut random = Random::of(options.seed, &kernel);
            let some = choose(&alone(&ptx, &kernel), mutants, each, &mut random);
            all.extend(some.into_iter().map(|mutant| (family.clone(), mutant)));
        }
    }
    let wanted = |mutant: &Mutant| {
        let text = mutant.to_string();
        options.only.iter().any(|part| text.contains(part))
    };
    all.retain(|(_, mutant)| options.only.is_empty() || wanted(mutant));
    Ok(all)
}

/// Reasons why some faults change nothing that a test could see, by the fault.
fn explained(root: &Path, file: &Path) -> Outcome<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file)?;
    let mut shipped = BTreeSet::new();
    for ptx in families(root)?.values() {
        let faults = mutants(ptx).into_values().flatten();
        shipped.extend(faults.map(|m| format!("{m}\t{}", m.from)));
    }
    let mut reasons = BTreeMap::new();
    let mut gone = Vec::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kernel, place, from, to, reason] = columns[..] else {
            return Err(format!("{}: \"{line}\" has not five columns", file.display()).into());
        };
        let fault = format!("{kernel}:{place}:{to}");
        if !shipped.contains(&format!("{fault}\t{from}")) {
            gone.push(line);
        }
        reasons.insert(fault, reason.to_owned());
    }
    if gone.is_empty() {
        Ok(reasons)
    } else {
        Err(format!("not in the kernels any more:\n{}", gone.join("\n")).into())
    }
}

fn run() -> Outcome<bool> {
    let options = options()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.join("../..").canonicalize()?;
    let reasons = explained(&root, &here.join("survivors.tsv"))?;
    let all = chosen(&root, &options)?;
    if options.list {
        for (family, mutant) in &all {
            println!(
                "{family}\t{}\t{}\t{} -> {}",
                mutant.kernel, mutant.kind, mutant.from, mutant.to
            );
        }
        return Ok(true);
    }
    let begin = Instant::now();
    let tests = tests(&root)?;
    println!(
        "{} tests in {:.0} s, {} faults",
        tests.len(),
        begin.elapsed().as_secs_f64(),
        all.len()
    );
    let results = each(&all, |(_, mutant)| {
        let by = caught(&root, &tests, mutant)?;
        if by.is_none() {
            eprintln!("survives: {mutant}");
        }
        Ok(by)
    })?;
    let mut good = true;
    let mut totals: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for ((family, mutant), by) in &results {
        let total = totals.entry(family).or_default();
        total[1] += 1;
        let reason = reasons.get(&mutant.to_string());
        match (by, reason) {
            (Some(_), None) => total[0] += 1,
            (Some(test), Some(_)) => {
                total[0] += 1;
                good = false;
                println!("caught by {test}, though survivors.tsv says that it cannot be: {mutant}");
            }
            (None, Some(reason)) => {
                println!("not caught\t{mutant}\tinstead of {}\t{reason}", mutant.from);
            }
            (None, None) => {
                good = false;
                println!(
                    "NOT EXPLAINED\t{}\t{}\t{}\t{}\t({})",
                    mutant.kernel, mutant.place, mutant.from, mutant.to, mutant.kind
                );
            }
        }
    }
    let mut sum = [0; 2];
    for (family, total) in &totals {
        println!("{family}: {} of {} caught", total[0], total[1]);
        sum = [sum[0] + total[0], sum[1] + total[1]];
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let share = sum[0] as f64 / sum[1].max(1) as f64;
    println!(
        "all: {} of {} caught, {:.1} %, in {:.0} s",
        sum[0],
        sum[1],
        share * 100.0,
        begin.elapsed().as_secs_f64()
    );
    Ok(good && share >= WANTED)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

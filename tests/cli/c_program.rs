//! The crate without std: a static library with its own panic handler and allocator, called from C, draws the same
//! codes as the std build.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use maquette::rng::Stream;
use maquette::search::{Plain, SearchStrategy};
use maquette::{Flow, Prompt};
use support::open;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: open::Settings,
}

fn run(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        out.status.success(),
        "{command:?}\n{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    text(&out.stdout)
}

/// Builds library and program, and runs it.
fn c_program(features: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_std");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_std");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"));
    cargo
        .arg("--target-dir")
        .arg(&target)
        .args(["--features", &features.join(",")]);
    // Flags of the outer build would reach this one through the environment.
    cargo
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run(&mut cargo);
    let program = target.join("main");
    let mut cc = Command::new("cc");
    cc.arg(root.join("main.c"))
        .arg(target.join("release/libmaquette_no_std.a"))
        .arg("-o")
        .arg(&program);
    cc.args(features.iter().map(|_| "-DDRAW"))
        .args(["-lm", "-lgcc_s"]);
    run(&mut cc);
    run(&mut Command::new(program))
}

#[test]
#[ignore = "builds the crate twice more: a stage of .ci/run"]
fn without_std_a_search_runs_and_a_picture_has_the_same_codes() {
    // One after the other: the two libraries have one name and share what they are built of.
    assert_eq!(c_program(&[]), "contracts ok\n");
    let cli = Cli::parse_from(["no_std", "--guidance", "2.75", "--steps", "4"]);
    let models = open::Models::load(&cli.settings, false).unwrap();
    let (mut generator, mut judge) = (models.generator(1).unwrap(), models.judge(1).unwrap());
    let prompt = Prompt::new("a photo of a red car");
    let found = Plain
        .search(
            &mut *generator,
            &mut *judge,
            &prompt,
            &mut Stream::new(7),
            &mut |_| Flow::Continue,
        )
        .unwrap();
    let mut codes = vec![0; generator.grid().len()];
    generator.save(found.winner, &mut codes).unwrap();
    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
    assert_eq!(
        c_program(&["alloc"]),
        format!("contracts ok\n{}\n", codes.join(" "))
    );
}

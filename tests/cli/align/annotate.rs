//! Training sets: kills, ranks, leakage, balance.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{killed_again_and_again, prompts, tree};
use crate::programs::{example, fails, folder, succeeds};

fn annotate(prompts: &Path, out: &Path) -> Command {
    let mut command = example("annotate");
    command.args(["--quiet", "--jobs", "1", "--images", "3", "--steps", "3"]);
    command.args(["--prompts".as_ref(), prompts.as_os_str()]);
    command.arg("--out").arg(out);
    command
}

const ALL: [&str; 4] = [
    "--sets",
    "pairs,outcome,process,parm,reflection",
    "--rollouts",
    "2",
];

#[test]
fn annotation_survives_fifty_kills() {
    let home = folder("annotate-prompts");
    let list = prompts(&home, 5);
    killed_again_and_again("annotate-kills", &|out| {
        let mut command = annotate(&list, &out.join("x.jsonl"));
        command.args(ALL).args(["--images", "2", "--limit", "2"]);
        command
    });
}

#[test]
fn two_ranks_become_what_one_process_makes() {
    let home = folder("annotate-ranks");
    let list = prompts(&home, 7);
    let (one, two) = (home.join("one"), home.join("two"));
    succeeds(annotate(&list, &one.join("x.jsonl")).args(ALL));
    let rank = |rank: &str| {
        let mut command = annotate(&list, &two.join("x.jsonl"));
        command.args(ALL).env("RANK", rank).env("WORLD_SIZE", "2");
        command
    };
    let merge = || {
        let mut command = example("annotate");
        command.args(["--merge", "--out"]).arg(two.join("x.jsonl"));
        command
    };
    succeeds(&mut rank("1"));
    let told = fails(&mut merge());
    assert!(told.contains("rank 0 of 2 is missing"), "{told}");
    succeeds(&mut rank("0"));
    let told = succeeds(&mut merge());
    assert!(
        told.contains("overall") && told.contains("potential"),
        "{told}"
    );
    for rank in 0..2 {
        fs::remove_file(two.join(format!("x.rank-{rank}-of-2.jsonl"))).unwrap();
    }
    assert!(tree(&one) == tree(&two));
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn no_prompt_of_the_evaluation_is_trained_on() {
    let home = folder("annotate-leakage");
    let list = prompts(&home, 10);
    let evaluation = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/eval_prompts.jsonl");
    let text = fs::read_to_string(&evaluation).unwrap();
    let held_out: Vec<&str> = text.lines().step_by(40).collect();
    let mixed = home.join("mixed.jsonl");
    let mut all = fs::read_to_string(&list).unwrap();
    for line in &held_out {
        // As it is, and in another dress.
        all += &format!("{line}\n{}\n", line.replace("a photo of", "A PHOTO of,"));
    }
    all += &fs::read_to_string(&list).unwrap();
    fs::write(&mixed, all).unwrap();
    let out = home.join("x.jsonl");
    succeeds(&mut annotate(&mixed, &out));
    let texts: BTreeSet<String> = lines(&evaluation)
        .iter()
        .map(|line| line["prompt"].as_str().unwrap().to_lowercase())
        .collect();
    let drawn = lines(&out);
    let header = &drawn[0];
    assert!(header["leaked"].as_u64().unwrap() >= 2 * held_out.len() as u64);
    assert!(header["repeated"].as_u64().unwrap() > 0 && drawn.len() > 10);
    for line in &drawn[1..] {
        let prompt = line["prompt"].as_str().unwrap().to_lowercase();
        assert!(!texts.contains(&prompt.replace(',', "")), "{prompt}");
    }
    fs::write(&mixed, held_out.join("\n")).unwrap();
    let told = fails(&mut annotate(&mixed, &home.join("y.jsonl")));
    assert!(told.contains("nothing to draw"), "{told}");
}

#[test]
fn sets_hold_what_they_say() {
    let home = folder("annotate-sets");
    let list = prompts(&home, 8);
    let out = home.join("x.jsonl");
    let mut command = annotate(&list, &out);
    // So many steps that some are clear and some are not.
    command.args(["--steps", "6"]).args(ALL);
    succeeds(&mut command);
    let set = |name: &str| lines(&home.join(format!("x.{name}.jsonl")));
    let drawn = lines(&out);
    let of = |prompt: &Value, codes: &Value| {
        let mut all = drawn[1..].iter();
        let found = all.find(|p| p["prompt"] == *prompt && p["codes"] == *codes);
        found.unwrap().clone()
    };
    for pair in set("pairs") {
        let [a, b] = ["chosen", "rejected"].map(|side| of(&pair["prompt"], &pair[side]));
        assert!(a["reward"].as_f64() > b["reward"].as_f64());
    }
    for (name, parts) in [
        ("outcome", [1, 1]),
        ("process", [1, 1]),
        ("clarity", [1, 1]),
        ("potential", [1, 1]),
        ("reflection", [1, 4]),
    ] {
        let items = set(name);
        let yes = items.iter().filter(|item| item["answer"] == "yes").count();
        assert_eq!(yes * parts[1], (items.len() - yes) * parts[0], "{name}");
    }
    for item in set("outcome") {
        let picture = of(&item["prompt"], &item["codes"]);
        assert_eq!(picture["correct"] == true, item["answer"] == "yes");
    }
    assert!(!set("clarity").is_empty());
    for item in set("clarity") {
        let step = item["step"].as_u64().unwrap();
        assert_eq!(item["answer"], if step > 3 { "yes" } else { "no" });
    }
    for item in set("correction") {
        assert!(
            item["reason"].as_str().unwrap().contains("expected"),
            "{item}"
        );
    }
}

#[test]
fn rules_and_judge_mark_together_and_pairs_keep_their_distance() {
    let home = folder("annotate-both");
    let list = prompts(&home, 6);
    let marked = |scorer: &str, args: &[&str]| {
        let out = home.join(format!("{scorer}.jsonl"));
        let mut command = annotate(&list, &out);
        command.args(["--scorer", scorer, "--pairs", "3"]);
        // As many as it takes for marks that agree and marks that do not.
        command.args(["--images", "6", "--steps", "6"]).args(args);
        succeeds(&mut command);
        lines(&out).split_off(1)
    };
    let [rules, judge] = ["rules", "judge"].map(|scorer| marked(scorer, &[]));
    let both = marked("both", &["--across", "0.5", "--margin", "0.25"]);
    let reward = |line: &Value| line["reward"].as_f64().unwrap();
    let mut kinds = BTreeSet::new();
    for ((rules, judge), both) in rules.iter().zip(&judge).zip(&both) {
        assert!(rules["codes"] == both["codes"] && judge["codes"] == both["codes"]);
        let mean = (reward(rules) + reward(judge)) / 2.0;
        assert!((reward(both) - mean).abs() < 1e-12);
        let [a, b] = [rules, judge].map(|line| line["correct"] == true);
        assert_eq!(both["correct"], a && b);
        assert_eq!(both["reason"], rules["reason"]);
        kinds.insert((a, b));
    }
    assert!(kinds.len() >= 3, "{kinds:?}");
    let pairs = lines(&home.join("both.pairs.jsonl"));
    assert!(!pairs.is_empty());
    for pair in &pairs {
        let [better, worse] = [0, 1].map(|side| pair["rewards"][side].as_f64().unwrap());
        assert!(
            better >= 0.5 && 0.5 > worse && better - worse >= 0.25,
            "{pair}"
        );
    }
    // The judge's rewards differ nearly always: without a distance every picture has its pair.
    assert_eq!(
        lines(&home.join("judge.pairs.jsonl")).len(),
        3 * rules.len() / 6
    );
    let told = fails(annotate(&list, &home.join("x.jsonl")).args(["--margin", "nan"]));
    assert!(told.contains("--margin NaN: not a distance"), "{told}");
}

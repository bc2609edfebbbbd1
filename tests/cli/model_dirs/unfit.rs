//! Folders and settings that do not fit, and what is said of them.

use std::fs;
use std::path::PathBuf;

use super::generate;
use super::tiny::{self, PROMPT};
use crate::programs::{example, fails, folder};

/// Folders, further arguments, and what the error must say.
type Case<'a> = (&'a [(&'a str, &'a PathBuf)], &'a [&'a str], &'a [&'a str]);

#[test]
fn what_does_not_fit_is_told() {
    let home = folder("unfit");
    let [show_o, pixels] = tiny::show_o(&home, 20);
    let [text, text_vq, t5] = tiny::llamagen_text(&home);
    let [class, class_vq] = tiny::llamagen_class(&home);
    let janus = home.join("janus");
    tiny::janus(&janus);
    let nowhere = home.join("nowhere");
    let told = |dirs: &[(&str, &PathBuf)], more: &[&str]| {
        fails(generate(PROMPT, dirs, more).arg("--out").arg(&home))
    };
    let plain = ["--strategy", "plain"];
    let show = [("model-dir", &show_o), ("tokenizer-dir", &pixels)];
    // Neither tokenizer.json nor vocab.txt, then one that needs a feature.
    let none = told(&show, &plain);
    assert!(
        none.contains("tokenizer.json") && none.contains("vocab.txt"),
        "{none}"
    );
    assert!(
        none.contains("feature") != cfg!(feature = "tokenizers"),
        "{none}"
    );
    fs::copy(tiny::tokenizer("show-o"), show_o.join("tokenizer.json")).unwrap();
    if !cfg!(feature = "tokenizers") {
        let off = told(&show, &plain);
        assert!(off.contains("feature `tokenizers`"), "{off}");
    }
    fs::remove_file(show_o.join("tokenizer.json")).unwrap();
    tiny::vocabulary(&show_o, 20, &[(0, "a"), (1, "red"), (2, "car")]);

    let published = home.join("t2i_XL_stage1_256.pt");
    let unknown = home.join("mine.pt");
    for file in [&published, &unknown] {
        fs::write(file, "no archive").unwrap();
    }
    let cases: &[Case] = &[
        (
            &[("model-dir", &published)],
            &plain,
            &["a LlamaGen", "--tokenizer-dir"],
        ),
        (
            &[("model-dir", &unknown)],
            &plain,
            &["mine.pt", "no published model"],
        ),
        (
            &[("model-dir", &nowhere)],
            &plain,
            &["nowhere", "No such file"],
        ),
        (
            &[("model-dir", &janus), ("judge-dir", &nowhere)],
            &[],
            &["nowhere", "No such file"],
        ),
        (
            &[("model-dir", &janus), ("judge-dir", &show_o)],
            &[],
            &["this is a Show-o", "a judge"],
        ),
        (
            &[("model-dir", &pixels)],
            &plain,
            &["MAGVIT-v2", "a generator"],
        ),
        (&[("model-dir", &show_o)], &plain, &["--tokenizer-dir"]),
        (
            &[("model-dir", &show_o), ("tokenizer-dir", &class_vq)],
            &plain,
            &["this is a VQ image tokenizer", "MAGVIT-v2"],
        ),
        (&show, &[], &["--judge-dir"]),
        (
            &show,
            &["--strategy", "plain", "--top-k", "3"],
            &["--top-k", "a Show-o"],
        ),
        (
            &[("model-dir", &text), ("tokenizer-dir", &text_vq)],
            &plain,
            &["--text-dir"],
        ),
        (
            &[
                ("model-dir", &text),
                ("tokenizer-dir", &text_vq),
                ("text-dir", &janus),
            ],
            &plain,
            &["this is a Janus", "T5"],
        ),
        (
            &[
                ("model-dir", &text),
                ("tokenizer-dir", &class_vq),
                ("text-dir", &t5),
            ],
            &plain,
            &["codebook_size"],
        ),
        (
            &[("model-dir", &class), ("tokenizer-dir", &class_vq)],
            &plain,
            &["\"a red car\""],
        ),
        (
            &[("model-dir", &janus), ("tokenizer-dir", &class_vq)],
            &plain,
            &["--tokenizer-dir", "itself"],
        ),
        (
            &[("model-dir", &janus)],
            &["--temperature-policy", "reset"],
            &["--temperature-policy"],
        ),
        (
            &[("model-dir", &janus)],
            &["--steps", "3"],
            &["4 rows", "3 steps"],
        ),
        (
            &[("model-dir", &janus)],
            &["--temperature", "NaN"],
            &["--temperature"],
        ),
        (&[("model-dir", &janus)], &["--top-p", "0"], &["--top-p"]),
    ];
    for (dirs, more, want) in cases {
        let told = told(dirs, more);
        assert!(
            want.iter().all(|want| told.contains(want)),
            "{dirs:?} {more:?}: {told}"
        );
    }
    let told = fails(example("measure").arg("--model-dir").arg(&nowhere));
    assert!(told.contains("No such file"), "{told}");
}

//! Parts of the crate beside the plainest models of them, on random input; the fuzz targets run the same bodies.

mod bytes;
mod codebooks;
mod records;
mod sampling;
mod searches;
mod sessions;
mod settings;
#[path = "../tiny_janus/mod.rs"]
mod tiny_janus;

use proptest::prelude::*;

fn any_bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..len)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_filters_and_draws_are_the_plain_ones(bytes in any_bytes(900)) {
        sampling::sampling(&bytes);
    }

    #[test]
    fn prop_any_code_and_any_latent_is_safe(bytes in any_bytes(600)) {
        codebooks::codebooks(&bytes);
    }

    #[test]
    fn prop_a_search_ends_and_frees_everything(bytes in any_bytes(80)) {
        searches::searches(&bytes);
    }

    #[test]
    fn prop_a_candidate_has_its_own_history(bytes in any_bytes(72)) {
        sessions::sessions(&bytes);
    }

    #[test]
    fn prop_settings_are_sound_or_refused(
        keys in prop::collection::vec((0_usize..KEYS.len(), any::<i32>()), 0..40),
    ) {
        let entries: Vec<String> =
            keys.iter().map(|(key, value)| format!("\"{}\": {value}", KEYS[*key])).collect();
        settings::settings(format!("{{{}}}", entries.join(", ")).as_bytes());
    }

    #[test]
    fn prop_records_read_back_as_themselves(
        lines in prop::collection::vec((0_usize..LINES.len(), 0_usize..60), 0..6),
    ) {
        let text: String = lines.iter().map(|(line, at)| changed(LINES[*line], *at)).collect();
        records::records(text.as_bytes());
    }
}

/// One byte of a line is another; without a line's end there is none.
fn changed(line: &str, at: usize) -> String {
    let mut bytes = line.as_bytes().to_vec();
    if let Some(byte) = bytes.get_mut(at * 3) {
        *byte = b"0}\"x"[at % 4];
    }
    String::from_utf8_lossy(&bytes).into_owned() + "\n"
}

#[test]
fn whole_records_are_read() {
    let whole = |line: &str| records::records((line.to_owned() + "\n").as_bytes());
    // The header alone is no result; a result's line tells a prompt, too.
    assert_eq!(LINES.map(whole), [1, 0, 1, 2, 1]);
    assert_eq!(whole(&LINES[1..3].join("\n")), 1);
}

/// Lines of an evaluation: a prompt, a header and a result of this crate, one of the official scorer, detections.
const LINES: [&str; 5] = [
    r#"{"tag":"single_object","prompt":"a dog","include":[{"class":"dog","count":1}]}"#,
    r#"{"images":2,"strategy":"plain"}"#,
    r#"{"prompt_index":3,"image":1,"tag":"colors","prompt":"a red car","correct":true}"#,
    r#"{"filename":"out/00003/samples/0001.png","tag":"colors","prompt":"a","correct":false}"#,
    r#"{"filename":"00003/samples/0001.png","metadata":{"tag":"single_object","prompt":"a dog","include":[{"class":"dog","count":1}]},"details":{"dog":[[0,0,9,9,0.5]]},"colors":{}}"#,
];

/// Names that some model's settings have.
const KEYS: &[&str] = &[
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
    "dim",
    "n_layer",
    "n_head",
    "codebook_size",
    "d_model",
    "num_heads",
    "d_kv",
    "d_ff",
    "num_layers",
    "z_channels",
    "image_size",
    "patch_size",
    "block_size",
    "rope_theta",
    "llm_vocab_size",
    "num_vq_tokens",
    "num_new_special_tokens",
];

#[test]
fn settings_that_are_published_are_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/weights");
    for name in ["show-o", "judge", "janus", "magvitv2"] {
        let bytes = std::fs::read(folder.join(name).join("config.json")).unwrap();
        assert!(settings::settings(&bytes), "{name}");
    }
}

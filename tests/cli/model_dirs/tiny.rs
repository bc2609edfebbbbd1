//! Folders of tiny random models in the layouts that are published.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};

use support::layouts::show_o as layout;
use support::random_file;

/// What every tiny model reads.
pub const PROMPT: &str = "a red car";

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

/// The configuration of a fixture.
pub fn config(case: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(case).join("config.json")).unwrap()).unwrap()
}

/// The fixture of a tokenizer in its published form.
pub fn tokenizer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tokenizers/data")
        .join(format!("{name}.json"))
}

/// One word an id: these at their places, others that no prompt has between them.
pub fn vocabulary(folder: &Path, len: usize, words: &[(usize, &str)]) {
    let mut lines: Vec<String> = (0..len).map(|id| format!("word{id}")).collect();
    for (id, word) in words {
        lines[*id] = (*word).to_owned();
    }
    fs::write(folder.join("vocab.txt"), lines.join("\n")).unwrap();
}

/// Writes a folder of one file of weights from a fixture.
pub struct Copy<'a> {
    pub case: &'a str,
    pub file: &'a str,
    pub config: Value,
    /// The names that a tensor's rows are shared out to; none leaves it away.
    pub names: &'a dyn Fn(&str) -> Vec<String>,
    /// Tensors with more or fewer rows.
    pub rows: &'a [(&'a str, usize)],
}

impl<'a> Copy<'a> {
    /// A fixture as it is.
    pub fn of(case: &'a str) -> Self {
        Self {
            case,
            file: "model.safetensors",
            config: config(case),
            names: &|name| vec![name.to_owned()],
            rows: &[],
        }
    }

    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let bytes = fs::read(fixture(self.case).join(self.file)).unwrap();
        let mut owned = Vec::new();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let mut shape = view.shape().to_vec();
            let row = view.data().len() / shape[0];
            if let Some((_, rows)) = self.rows.iter().find(|(changed, _)| *changed == name) {
                shape[0] = *rows;
            }
            let names = (self.names)(name);
            let len = shape[0] * row;
            let data: Vec<u8> = view.data().iter().copied().cycle().take(len).collect();
            shape[0] /= names.len().max(1);
            let parts = data.chunks_exact(shape[0] * row);
            for (name, part) in names.into_iter().zip(parts) {
                owned.push((name, view.dtype(), shape.clone(), part.to_vec()));
            }
        }
        let views = owned.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    }
}

/// Show-o and its MAGVIT-v2: 16 codes of 16, 64 pixels. Without a tokenizer for text.
pub fn show_o(home: &Path, llm_vocab: usize) -> [PathBuf; 2] {
    let shape = layout::ShowO {
        width: 64,
        layers: 2,
        heads: 2,
        mlp: 96,
        llm_vocab,
        codebook: 16,
        codes: 16,
    };
    let folders = ["show-o", "magvitv2"].map(|name| home.join(name));
    random_file::write(&layout::show_o(&shape, 2), None, 3, &folders[0]).unwrap();
    random_file::write(&layout::magvit(8, 4), None, 3, &folders[1]).unwrap();
    folders
}

/// The VQ of a LlamaGen of so many codes.
pub fn vq(folder: &Path, codes: usize) {
    let mut copy = Copy::of("llamagen-vq8");
    copy.config["codebook_size"] = codes.into();
    let rows = [("quantize.embedding.weight", codes)];
    Copy {
        rows: &rows,
        ..copy
    }
    .write(folder);
}

/// LlamaGen that reads text, its VQ and its T5, which knows the prompt's words.
pub fn llamagen_text(home: &Path) -> [PathBuf; 3] {
    let folders = ["t2i", "t2i-vq", "flan-t5"].map(|name| home.join(name));
    Copy::of("llamagen-t2i-draws").write(&folders[0]);
    vq(&folders[1], 64);
    Copy::of("t5-encoder").write(&folders[2]);
    vocabulary(&folders[2], 50, &[(2, "a"), (3, "red"), (4, "car")]);
    folders
}

/// LlamaGen that draws classes, and its VQ.
pub fn llamagen_class(home: &Path) -> [PathBuf; 2] {
    let folders = ["c2i", "c2i-vq"].map(|name| home.join(name));
    Copy::of("llamagen-c2i").write(&folders[0]);
    vq(&folders[1], 48);
    folders
}

/// LLaVA-OneVision with short questions; `file` holds the weights in either naming.
pub fn llava(folder: &Path, file: &str) {
    let mut copy = Copy::of("llava-onevision");
    copy.file = file;
    copy.config["templates"] = json!({
        "outcome": "<image> {prompt} match ?", "process": "<image> {prompt} process ?",
        "clarity": "<image> {prompt} clear ?", "potential": "yes potential ?",
    });
    copy.write(folder);
    let words = [
        "a",
        "red",
        "car",
        "match",
        "process",
        "clear",
        "potential",
        "?",
        "7",
    ];
    let mut words: Vec<_> = words.into_iter().enumerate().collect();
    words.extend([(127, "yes"), (19, "no")]);
    vocabulary(folder, 160, &words);
}

/// Janus with short layouts in the form that says all of it, and the words they need.
pub fn janus(folder: &Path) {
    let begin = "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>";
    let ask = |question: &str| format!("{begin}<begin_of_image><image><end_of_image> {question}");
    let mut copy = Copy::of("janus-pro");
    copy.config["templates"] = json!({
        "draw": format!("{begin}{{prompt}}<begin_of_image>"),
        "outcome": ask("{prompt} match ?"), "process": ask("{prompt} process ?"),
        "clarity": ask("{prompt} clear ?"), "potential": "yes potential ?",
    });
    copy.write(folder);
    let words = [
        "a",
        "red",
        "car",
        "match",
        "process",
        "clear",
        "potential",
        "no",
        "?",
    ];
    let mut words: Vec<_> = words.into_iter().enumerate().collect();
    words.extend([
        (123, "yes"),
        (132, begin),
        (134, "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>"),
        (135, "<begin_of_image>"),
        (136, "<end_of_image>"),
    ]);
    vocabulary(folder, 140, &words);
}

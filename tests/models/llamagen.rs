//! Laws of the raster session on tiny random LlamaGen models: a picture is a function of prompt and seed alone.

mod pages;
mod refusals;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use maquette::codes::UNKNOWN;
use maquette::cpu::Cpu;
use maquette::generator::{Needs, Partial, Views};
use maquette::model::files::config::JsonConfig;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::llamagen::{LlamaGen, LlamaGenConfig, LlamaGenPrompts, LlamaGenSession};
use maquette::model::raster::{Preview, RasterOptions};
use maquette::model::t5::{T5, T5Config};
use maquette::model::vq::{Vq, VqConfig};
use maquette::model::weights::{Tensor, WeightSource};
use maquette::model::words::Words;
use maquette::ops::attention::KvFormat;
use maquette::ops::{Backend, Reference};
use maquette::quant::Format;
use maquette::search::{BestOfN, Parm, Prm, SearchStrategy};
use maquette::testing::{ScriptedReward, conformance};
use maquette::{CandidateId, Code, Error, Flow, Generator, Prompt, Result, rng};

/// Rows and columns of the class-conditional model's grid.
const SIDE: usize = 5;
const PLACES: usize = SIDE * SIDE;

fn file(case: &str, name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read(folder.join(case).join(name)).unwrap()
}

fn json(case: &str) -> JsonConfig {
    JsonConfig::parse(&String::from_utf8(file(case, "config.json")).unwrap()).unwrap()
}

/// A checkpoint whose tensors may be changed: bytes and shape of the one that is named.
struct Changed<'a> {
    source: SafetensorsSource<'a>,
    name: &'static str,
    shape: Vec<usize>,
    bytes: Option<Vec<u8>>,
}

impl<'a> Changed<'a> {
    fn nothing(bytes: &'a [u8]) -> Self {
        Self {
            source: SafetensorsSource::new(bytes).unwrap(),
            name: "",
            shape: Vec::new(),
            bytes: None,
        }
    }

    /// The first `rows` rows of a matrix.
    fn cut(bytes: &'a [u8], name: &'static str, rows: usize) -> Self {
        let source = SafetensorsSource::new(bytes).unwrap();
        let tensor = source.tensor(name).unwrap();
        let row = tensor.bytes.len() / tensor.shape[0];
        Self {
            shape: vec![rows, tensor.shape[1]],
            bytes: Some(tensor.bytes[..rows * row].to_vec()),
            name,
            source,
        }
    }

    /// A tensor that holds one number throughout.
    fn filled(bytes: &'a [u8], name: &'static str, value: f32) -> Self {
        let source = SafetensorsSource::new(bytes).unwrap();
        let tensor = source.tensor(name).unwrap();
        Self {
            shape: tensor.shape.clone(),
            bytes: Some(value.to_le_bytes().repeat(tensor.bytes.len() / 4)),
            name,
            source,
        }
    }
}

impl WeightSource for Changed<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let mut tensor = self.source.tensor(name)?;
        if let Some(bytes) = self.bytes.as_ref().filter(|_| name == self.name) {
            tensor.shape.clone_from(&self.shape);
            tensor.bytes = bytes;
        }
        Some(tensor)
    }

    fn names(&self, visit: &mut dyn FnMut(&str)) {
        self.source.names(visit);
    }
}

/// A model and the image tokenizer of as many codes.
struct Drawing<B: Backend> {
    model: Arc<LlamaGen<B>>,
    pixels: Arc<Vq<B>>,
    encoder: Option<Arc<T5<B>>>,
}

impl<B: Backend> Drawing<B> {
    fn load(backend: B, case: &str) -> Self {
        Self::load_grid(backend, case, None)
    }

    /// Where it says so with another grid: no weight knows its size.
    fn load_grid(backend: B, case: &str, side: Option<usize>) -> Self {
        let backend = Arc::new(backend);
        let weights = file(case, "model.safetensors");
        let mut config = LlamaGenConfig::from_json(&json(case)).unwrap();
        config.grid = side.unwrap_or(config.grid);
        let source = Changed::nothing(&weights);
        let model = LlamaGen::load(Arc::clone(&backend), config, &source, Format::F32).unwrap();
        let weights = file("llamagen-vq8", "model.safetensors");
        let codes = config.vocab_size;
        let source = Changed::cut(&weights, "quantize.embedding.weight", codes);
        let mut config = VqConfig::from_json(&json("llamagen-vq8")).unwrap();
        config.codebook_size = codes;
        let pixels = Vq::load(backend, config, &source, Format::F32).unwrap();
        Self {
            model: Arc::new(model),
            pixels: Arc::new(pixels),
            encoder: None,
        }
    }

    fn classes(backend: B) -> Self {
        Self::load(backend, "llamagen-c2i")
    }

    fn text(backend: B) -> Self {
        let mut drawing = Self::load(backend, "llamagen-t2i-draws");
        let weights = file("t5-encoder", "model.safetensors");
        let config = T5Config::from_json(&json("t5-encoder")).unwrap();
        let source = Changed::nothing(&weights);
        let backend = Arc::clone(drawing.pixels.backend());
        let encoder = T5::load(backend, config, &source, Format::F32).unwrap();
        drawing.encoder = Some(Arc::new(encoder));
        drawing
    }

    fn reader(&self) -> LlamaGenPrompts<B, Words> {
        let words = Words::new("tench\ngoldfish\nwhite shark\nphoto\na\ncar").unwrap();
        LlamaGenPrompts::new(Arc::clone(&self.model), self.encoder.clone(), words).unwrap()
    }

    fn session(&self, options: RasterOptions) -> LlamaGenSession<B, Words> {
        self.session_of(self.reader(), options).unwrap()
    }

    fn session_of(
        &self,
        reader: LlamaGenPrompts<B, Words>,
        options: RasterOptions,
    ) -> Result<LlamaGenSession<B, Words>> {
        let (model, pixels) = (Arc::clone(&self.model), Arc::clone(&self.pixels));
        LlamaGenSession::new(model, pixels, reader, options)
    }
}

fn options() -> RasterOptions {
    let mut o = RasterOptions::default();
    (o.guidance_scale, o.filter.top_k, o.filter.top_p) = (2.0, 30, 0.95);
    (o.candidates, o.batch, o.prompts) = (8, 3, 2);
    o
}

type Session<B> = LlamaGenSession<B, Words>;

fn start<B: Backend>(s: &mut Session<B>, text: &str, seeds: &[u64]) -> Vec<CandidateId> {
    let mut ids = vec![CandidateId::default(); seeds.len()];
    s.start(&Prompt::new(text), seeds, &mut ids).unwrap();
    ids
}

fn settled<B: Backend>(s: &Session<B>, id: CandidateId) -> Vec<Code> {
    let mut codes = vec![0; s.grid().len()];
    s.save(id, &mut codes).unwrap();
    codes
}

fn finish<B: Backend>(s: &mut Session<B>, id: CandidateId) -> Vec<Code> {
    while s.taken(id).unwrap() < s.steps() {
        s.step(&[id]).unwrap();
    }
    settled(s, id)
}

fn alone<B: Backend>(s: &mut Session<B>, text: &str, seed: u64) -> Vec<Code> {
    let id = start(s, text, &[seed])[0];
    let codes = finish(s, id);
    s.prune(&[id]).unwrap();
    codes
}

fn hidden<B: Backend>(s: &mut Session<B>, id: CandidateId) -> Vec<u32> {
    let mut rows = vec![0.0; s.grid().len() * s.hidden_width()];
    s.observe(&[id], Needs::HIDDEN, &mut Views::hidden(&mut rows))
        .unwrap();
    rows.into_iter().map(f32::to_bits).collect()
}

#[test]
fn the_contract_holds() {
    let classes = Drawing::classes(Cpu::new());
    for preview in [
        Preview::RepeatRow,
        Preview::Mean,
        Preview::Zeros,
        Preview::Grey,
    ] {
        let mut o = options();
        (o.preview, o.hidden) = (preview, true);
        conformance::generator(&mut classes.session(o), &Prompt::new("3")).unwrap();
    }
    let text = Drawing::text(Cpu::new());
    let mut o = options();
    (o.tokens_per_step, o.guidance_interval) = (Some(7), Some(4));
    conformance::generator(&mut text.session(o), &Prompt::new("a photo")).unwrap();
    let mut o = options();
    o.guidance_scale = 1.0;
    conformance::generator(&mut text.session(o), &Prompt::new("a photo")).unwrap();
    // A prefix that is one row, and prompts whose rows are kept, in 8 bits.
    let mut o = options();
    o.kv = KvFormat::Q8;
    conformance::generator(&mut text.session(o), &Prompt::new("a photo")).unwrap();
    conformance::generator(&mut classes.session(o), &Prompt::new("3")).unwrap();
}

#[test]
fn eight_bit_keys_and_values_draw_the_same_on_every_device() {
    let mut o = options();
    o.kv = KvFormat::Q8;
    let cpu = alone(&mut Drawing::text(Cpu::new()).session(o), "a photo", 5);
    let reference = alone(&mut Drawing::text(Reference).session(o), "a photo", 5);
    assert_eq!(cpu, reference);
}

#[test]
fn company_and_places_change_nothing() {
    let drawing = Drawing::classes(Cpu::new());
    let mut s = drawing.session(options());
    let want: Vec<_> = (0..4).map(|seed| alone(&mut s, "3", seed)).collect();
    let other = alone(&mut s, "goldfish", 9);
    assert_eq!(other, alone(&mut s, "1", 9), "a label and its number");
    assert_ne!(want[0], want[1]);
    let ids = start(&mut s, "3", &[0, 1, 2, 3]);
    let guest = start(&mut s, "goldfish", &[9])[0];
    // Different places and prompts in one batch, one candidate parked, one pruned on the way.
    s.step(&ids).unwrap();
    s.step(&[ids[3], guest, ids[0]]).unwrap();
    s.prune(&[ids[1]]).unwrap();
    while s.taken(ids[0]).unwrap() < s.steps() {
        let mut live = vec![ids[0], ids[3]];
        if s.taken(guest).unwrap() < s.steps() {
            live.insert(1, guest);
        }
        s.step(&live).unwrap();
    }
    assert_eq!(settled(&s, ids[0]), want[0]);
    assert_eq!(settled(&s, ids[3]), want[3]);
    assert_eq!(finish(&mut s, guest), other);
    assert_eq!(finish(&mut s, ids[2]), want[2]);
}

#[test]
fn codes_of_a_step_and_of_a_batch_change_nothing() {
    let drawing = Drawing::classes(Cpu::new());
    let mut o = options();
    o.guidance_interval = Some(11);
    let want = alone(&mut drawing.session(o), "3", 5);
    for (tokens, batch) in [(1, 1), (3, 8), (7, 2), (PLACES, 3), (1000, 3)] {
        (o.tokens_per_step, o.batch) = (Some(tokens), batch);
        let mut s = drawing.session(o);
        let steps = PLACES.div_ceil(tokens);
        assert_eq!(s.steps() as usize, steps);
        let ids = start(&mut s, "3", &[4, 5, 6]);
        for _ in 0..steps {
            s.step(&ids).unwrap();
        }
        assert_eq!(settled(&s, ids[1]), want, "{tokens} codes a step");
    }
}

#[test]
fn threads_devices_and_sessions_give_the_same_codes() {
    let want = alone(&mut Drawing::text(Reference).session(options()), "a car", 5);
    for threads in [1, 3] {
        let drawing = Drawing::text(Cpu::with_threads(threads).unwrap());
        assert_eq!(alone(&mut drawing.session(options()), "a car", 5), want);
    }
    let shared = Drawing::text(Cpu::with_threads(2).unwrap());
    let draw = |seed| alone(&mut shared.session(options()), "a car", seed);
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| draw(5)), scope.spawn(|| draw(6)));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!((a, b), (want, draw(6)));
}

#[test]
fn forks_and_saved_states_go_on_as_if_nothing_happened() {
    let drawing = Drawing::classes(Cpu::new());
    let mut o = options();
    // Fewer rows a pass than codes to feed again.
    (o.hidden, o.batch, o.tokens_per_step) = (true, 2, Some(4));
    let mut s = drawing.session(o);
    let steps = s.steps();
    let id = start(&mut s, "3", &[3])[0];
    let want = finish(&mut s, id);
    let rows = hidden(&mut s, id);
    s.prune(&[id]).unwrap();
    for taken in 0..=steps {
        let id = start(&mut s, "3", &[3])[0];
        for _ in 0..taken {
            s.step(&[id]).unwrap();
        }
        let mut forks = [CandidateId::default(); 2];
        s.fork(id, &[3, 4], &mut forks).unwrap();
        let mut state = vec![0; PLACES];
        let partial = s.save(id, &mut state).unwrap();
        assert_eq!(partial.codes.contains(&UNKNOWN), taken < steps);
        let mut later = drawing.session(o);
        let mut resumed = [CandidateId::default(); 2];
        later
            .resume(&Prompt::new("3"), &partial, &[3, 3], &mut resumed)
            .unwrap();
        for resumed in resumed {
            assert_eq!(finish(&mut later, resumed), want, "after {taken} steps");
            assert_eq!(hidden(&mut later, resumed), rows, "after {taken} steps");
        }
        assert_eq!(finish(&mut s, forks[0]), want);
        assert_eq!(hidden(&mut s, forks[0]), rows);
        assert_eq!(finish(&mut s, forks[1]) == want, taken == steps);
        assert_eq!(finish(&mut s, id), want);
        s.prune(&[id, forks[0], forks[1]]).unwrap();
    }
}

#[test]
fn a_preview_shows_what_is_drawn() {
    let drawing = Drawing::classes(Cpu::new());
    let mut seen = Vec::new();
    for preview in [
        Preview::RepeatRow,
        Preview::Mean,
        Preview::Zeros,
        Preview::Grey,
    ] {
        let mut o = options();
        (o.preview, o.hidden, o.tokens_per_step) = (preview, true, Some(7));
        let mut s = drawing.session(o);
        let id = start(&mut s, "3", &[1])[0];
        s.step(&[id]).unwrap();
        let (mut codes, size) = (vec![0; PLACES], s.image_size());
        let mut pixels = vec![0; size.len_bytes()];
        let needs = Needs::CODES.or(Needs::PIXELS);
        let mut views = Views::codes(&mut codes);
        views.pixels = Some(&mut pixels);
        s.observe(&[id], needs, &mut views).unwrap();
        let drawn = settled(&s, id);
        assert_eq!(codes[..7], drawn[..7]);
        match preview {
            Preview::Mean | Preview::Zeros => assert_eq!(codes, drawn),
            _ => {
                assert_eq!(codes[7..10], drawn[2..5]);
                assert_eq!(codes[20..22], drawn[5..7]);
            }
        }
        let scale = size.width as usize / SIDE;
        let last = &pixels[pixels.len() - 3 * scale..];
        assert_eq!(last.iter().all(|&b| b == 127), preview == Preview::Grey);
        let rows = hidden(&mut s, id);
        let (known, open) = rows.split_at(7 * s.hidden_width());
        assert!(
            known
                .chunks(s.hidden_width())
                .all(|row| row.iter().any(|&v| v != 0))
        );
        assert!(open.iter().all(|&v| v == 0));
        finish(&mut s, id);
        s.observe(&[id], Needs::PIXELS, &mut Views::pixels(&mut pixels))
            .unwrap();
        seen.push(pixels);
    }
    assert!(
        seen.iter().all(|whole| whole == &seen[0]),
        "a whole picture has no preview"
    );
}

#[test]
fn every_strategy_runs() {
    let drawing = Drawing::classes(Cpu::new());
    let mut strategies: [Box<dyn SearchStrategy<Session<Cpu>, ScriptedReward>>; 3] = [
        Box::new(BestOfN::new(4)),
        Box::new(Prm::new(3)),
        Box::new(Parm::new(4)),
    ];
    for strategy in &mut strategies {
        let mut s = drawing.session(options());
        let mut reward = ScriptedReward::seeded(7).with_needs(Needs::PIXELS.or(Needs::CODES));
        let found = strategy
            .search(
                &mut s,
                &mut reward,
                &Prompt::new("3"),
                &mut rng::Stream::new(1),
                &mut |_| Flow::Continue,
            )
            .unwrap();
        assert!(settled(&s, found.winner).iter().all(|&code| code < 48));
        assert!(found.cost.decodes > 0);
        s.prune(&[found.winner]).unwrap();
        // Nobody else is left: all places are free again.
        assert_eq!(start(&mut s, "3", &[0; 8]).len(), 8);
    }
}

#[test]
fn text_is_read_by_the_encoder() {
    let drawing = Drawing::text(Cpu::new());
    let mut s = drawing.session(options());
    let want = alone(&mut s, "a photo", 1);
    assert_eq!(alone(&mut s, "  A\n PHOTO ", 1), want);
    assert_ne!(alone(&mut s, "a car", 1), want);
    assert_eq!(alone(&mut s, "", 1).len(), s.grid().len());
    let long = "a ".repeat(6);
    let refused = s.start(&Prompt::new(&long), &[0], &mut [CandidateId::default()]);
    assert!(matches!(
        refused,
        Err(Error::PromptTooLong { got: 7, max: 6 })
    ));
    let reader = drawing.reader().truncating();
    let mut cut = drawing.session_of(reader, options()).unwrap();
    assert_eq!(alone(&mut cut, &long, 1), alone(&mut s, &"a ".repeat(5), 1));
    let unknown = s.start(
        &Prompt::new("a unicorn"),
        &[0],
        &mut [CandidateId::default()],
    );
    assert!(matches!(unknown, Err(Error::UnknownWord { at: 2, .. })));
}

#[test]
fn multiply_adds_are_those_of_the_rows_that_are_fed() {
    // Two blocks, 40 wide, an inner width of 128, and a head of 48 codes; a row sees its prefix row and the codes so far.
    let row = |seen: u64| 2 * (4 * 40 * 40 + 3 * 40 * 128 + 2 * 40 * seen) + 48 * 40;
    let counts = |s: &Session<Cpu>| s.multiply_adds().unwrap();
    let drawing = Drawing::classes(Cpu::new());
    let mut s = drawing.session(options());
    assert_eq!(counts(&s).drawing, 0);
    let ids = start(&mut s, "3", &[1, 2, 3, 4]);
    // The class and the class that stands for none: the first code is drawn from what they leave. What is kept of them is
    // the mean of their values, one attention more in each block.
    let prefixes = 2 * (row(1) + 2 * 2 * 40);
    let mut due = prefixes;
    assert_eq!(counts(&s).drawing, due);
    for step in 0..s.steps() {
        s.step(&ids[..3]).unwrap();
        let codes = u64::from(step) * 5;
        due += (codes.max(1)..codes + 5)
            .map(|fed| 2 * 3 * row(1 + fed))
            .sum::<u64>();
        assert_eq!(counts(&s).drawing, due, "step {step}");
    }
    // Guided for the first codes alone: one half is left out behind them.
    let mut short = options();
    short.guidance_interval = Some(4);
    let mut s = drawing.session(short);
    let ids = start(&mut s, "3", &[1]);
    for _ in 0..s.steps() {
        s.step(&ids).unwrap();
    }
    let halves = |fed: u64| if fed <= 5 { 2 } else { 1 };
    let due = prefixes + (1..25).map(|fed| halves(fed) * row(1 + fed)).sum::<u64>();
    assert_eq!(counts(&s).drawing, due);
    // Decoding costs what it costs, whoever draws.
    let mut pixels = vec![0; s.image_size().len_bytes()];
    s.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))
        .unwrap();
    let once = counts(&s).decoding;
    s.observe(&ids, Needs::PIXELS, &mut Views::pixels(&mut pixels))
        .unwrap();
    assert_eq!((counts(&s).drawing, counts(&s).decoding), (due, 2 * once));
    assert!(once > 0);
}

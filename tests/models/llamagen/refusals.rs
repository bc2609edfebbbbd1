//! What a LlamaGen refuses: prompts, calls, settings, checkpoints, logits.

use super::*;

#[test]
fn bad_prompts_and_wrong_calls_are_errors() {
    let drawing = Drawing::classes(Cpu::new());
    let mut s = drawing.session(options());
    let mut one = [CandidateId::default()];
    let mut fails = |text: &str| s.start(&Prompt::new(text), &[0], &mut one).unwrap_err();
    assert!(matches!(
        fails("10"),
        Error::Range {
            arg: "class",
            got: 10,
            max: 9,
            ..
        }
    ));
    assert!(matches!(
        fails("99999999999"),
        Error::Range { arg: "class", .. }
    ));
    assert!(matches!(fails("unicorn"), Error::UnknownWord { .. }));
    assert!(matches!(fails("-1"), Error::UnknownWord { .. }));
    let planned = Prompt::new("3").with_plan("first a wheel");
    assert!(matches!(
        s.start(&planned, &[0], &mut one),
        Err(Error::Unsupported { .. })
    ));
    let many = s.start(&Prompt::new("3"), &[0; 9], &mut [CandidateId::default(); 9]);
    assert!(matches!(many, Err(Error::Full { limit: 8, .. })));
    assert_eq!(alone(&mut s, "", 1).len(), PLACES, "no class at all");
    assert!(LlamaGenPrompts::<Cpu, Words>::features(&drawing.model, &[0.0]).is_err());
    let text = Drawing::text(Cpu::new());
    for len in [0, 5, 25, 7 * 24] {
        let given = vec![0.0; len];
        assert!(LlamaGenPrompts::<Cpu, Words>::features(&text.model, &given).is_err());
    }
    // More prompts with candidates than the session keeps.
    let mut s = drawing.session(options());
    start(&mut s, "1", &[0]);
    start(&mut s, "2", &[0]);
    start(&mut s, "3", &[0]);
    let full = s.start(&Prompt::new("4"), &[0], &mut one);
    assert!(matches!(full, Err(Error::Full { limit: 4, .. })));

    let mut resume = |step: u32, codes: &[Code]| {
        let from = Partial::new(step, codes);
        s.resume(&Prompt::new("3"), &from, &[0], &mut one)
    };
    let mut state = vec![UNKNOWN; PLACES];
    assert!(resume(0, &state).is_ok());
    assert!(matches!(resume(6, &state), Err(Error::Range { .. })));
    assert!(matches!(resume(1, &state), Err(Error::Range { .. })));
    assert!(matches!(resume(0, &state[1..]), Err(Error::Length { .. })));
    state[..SIDE].fill(4);
    assert!(resume(1, &state).is_ok());
    assert!(matches!(resume(0, &state), Err(Error::Config { .. })));
    state[0] = 48;
    assert!(matches!(resume(1, &state), Err(Error::Range { .. })));
}

#[test]
fn wrong_settings_and_checkpoints_are_errors() {
    let drawing = Drawing::classes(Cpu::new());
    let refused = |change: fn(&mut RasterOptions)| {
        let mut o = options();
        change(&mut o);
        drawing.session_of(drawing.reader(), o).is_err()
    };
    assert!(refused(|o| o.candidates = 0));
    assert!(refused(|o| o.batch = 1 << 20));
    assert!(refused(|o| o.tokens_per_step = Some(0)));
    assert!(refused(|o| o.guidance_scale = f32::NAN));
    assert!(refused(|o| o.filter.top_p = f32::INFINITY));
    let config = *drawing.model.config();
    let weights = file("llamagen-c2i", "model.safetensors");
    let load = |config, source: &Changed<'_>| {
        LlamaGen::load(Arc::new(Cpu::new()), config, source, Format::F32)
    };
    let mut wider = config;
    wider.ffn_hidden += 32;
    assert!(matches!(
        load(wider, &Changed::nothing(&weights)),
        Err(Error::TensorShape { .. })
    ));
    let mut deeper = config;
    deeper.n_layer += 1;
    assert!(matches!(
        load(deeper, &Changed::nothing(&weights)),
        Err(Error::MissingTensor { .. })
    ));
    let mut flatter = config;
    flatter.n_layer -= 1;
    assert!(matches!(
        load(flatter, &Changed::nothing(&weights)),
        Err(Error::UnknownTensor { .. })
    ));
    let (text, other) = (Drawing::text(Cpu::new()), Arc::clone(&drawing.pixels));
    let mismatch = LlamaGenSession::new(Arc::clone(&text.model), other, text.reader(), options());
    assert!(matches!(
        mismatch,
        Err(Error::Config {
            key: "codebook_size",
            ..
        })
    ));
}

#[test]
fn logits_that_are_no_numbers_are_an_error_and_move_nobody() {
    let mut drawing = Drawing::classes(Cpu::new());
    let weights = file("llamagen-c2i", "model.safetensors");
    let source = Changed::filled(&weights, "output.weight", f32::MAX);
    let config = *drawing.model.config();
    let model = LlamaGen::load(Arc::new(Cpu::new()), config, &source, Format::F32).unwrap();
    drawing.model = Arc::new(model);
    for top_k in [0, 10] {
        let mut o = options();
        (o.filter.top_k, o.filter.top_p) = (top_k, 1.0);
        let mut s = drawing.session(o);
        let ids = start(&mut s, "3", &[0, 1]);
        assert!(matches!(s.step(&ids), Err(Error::NotFinite { .. })));
        assert_eq!(s.taken(ids[0]).unwrap(), 0);
        assert_eq!(settled(&s, ids[1]), [UNKNOWN; PLACES]);
    }
}

#[test]
fn a_prompt_that_lacks_a_place_for_one_half_is_refused() {
    let drawing = Drawing::text(Cpu::new());
    // Of four places two prompts of equal length take three: they share what stands for no prompt of that length.
    let long = Prompt::new("a photo a car");
    let want = alone(&mut drawing.session(options()), long.text(), 1);
    let mut s = drawing.session(options());
    let id = start(&mut s, "a photo", &[1])[0];
    let other = start(&mut s, "a car", &[1])[0];
    let (mut one, state) = ([CandidateId::default()], vec![UNKNOWN; want.len()]);
    for _ in 0..2 {
        let started = s.start(&long, &[1], &mut one);
        assert!(
            matches!(started, Err(Error::Full { limit: 4, .. })),
            "{started:?}"
        );
        let resumed = s.resume(&long, &Partial::new(0, &state), &[1], &mut one);
        assert!(
            matches!(resumed, Err(Error::Full { limit: 4, .. })),
            "{resumed:?}"
        );
    }
    s.prune(&[id]).unwrap();
    assert_eq!(alone(&mut s, long.text(), 1), want);
    // Nobody holds a place who does not live.
    s.prune(&[other]).unwrap();
    for text in ["a", "a photo", "a photo a car"] {
        alone(&mut s, text, 1);
    }
}

#[test]
fn a_codebook_whose_entries_have_no_length_is_refused() {
    let weights = file("llamagen-vq8", "model.safetensors");
    let config = VqConfig::from_json(&json("llamagen-vq8")).unwrap();
    assert!(config.codebook_l2_norm);
    let source = Changed::filled(&weights, "quantize.embedding.weight", 1e20);
    let error = Vq::load(Arc::new(Cpu::new()), config, &source, Format::F32).unwrap_err();
    assert!(
        matches!(&error, Error::TensorNumber { name, element: 0 } if name.as_str() == "quantize.embedding.weight"),
        "{error}"
    );
}

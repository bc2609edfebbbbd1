//! A generator's hidden rows, and the bundled head over them.

use super::*;

fn rows(s: &mut dyn Generator, id: CandidateId) -> Vec<f32> {
    let mut rows = vec![0.0; 64 * s.hidden_width()];
    s.observe(&[id], Needs::HIDDEN, &mut Views::hidden(&mut rows))
        .unwrap();
    rows
}

#[test]
fn hidden_rows_are_those_of_the_last_step_in_any_company() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.batch) = (4, 8, 2);
    let mut blind = drawing.session(options);
    assert_eq!(blind.hidden_width(), 0);
    options.hidden = true;
    let mut s = drawing.session(options);
    assert_eq!(s.hidden_width(), 128);
    let mut ids = [CandidateId::default(); 5];
    s.start(&PROMPT, &[1, 2, 3, 1, 4], &mut ids).unwrap();
    s.start(&Prompt::new("a photo of a blue car"), &[1], &mut ids[4..])
        .unwrap();
    let mut alone = [CandidateId::default()];
    blind.start(&PROMPT, &[1], &mut alone).unwrap();
    let observe = |s: &mut dyn Generator, id| {
        let mut rows = vec![0.0; 64 * 128];
        s.observe(&[id], Needs::HIDDEN, &mut Views::hidden(&mut rows))
    };
    assert!(observe(&mut s, ids[0]).is_err(), "before the first step");
    s.step(&ids).unwrap();
    // All begin alike, and another prompt otherwise.
    let first = rows(&mut s, ids[0]);
    assert_eq!(rows(&mut s, ids[1]), first);
    assert_ne!(rows(&mut s, ids[4]), first);
    s.step(&ids).unwrap();
    let second = rows(&mut s, ids[0]);
    assert_eq!(rows(&mut s, ids[3]), second, "the same seed");
    assert_ne!(rows(&mut s, ids[1]), second, "another seed");
    assert_ne!(first, second);
    // A fork has its parent's; a step that fails and others' steps change nothing.
    let mut fork = [CandidateId::default()];
    s.fork(ids[0], &[9], &mut fork).unwrap();
    assert_eq!(rows(&mut s, fork[0]), second);
    s.prune(&ids[2..3]).unwrap();
    assert!(s.step(&[ids[1], ids[2]]).is_err());
    s.step(&ids[1..2]).unwrap();
    assert_eq!(rows(&mut s, ids[0]), second);
    // What is kept changes no code.
    s.step(&ids[..1]).unwrap();
    for _ in 0..3 {
        blind.step(&alone).unwrap();
    }
    let (mut a, mut b) = ([0; 64], [0; 64]);
    s.save(ids[0], &mut a).unwrap();
    blind.save(alone[0], &mut b).unwrap();
    assert_eq!(a, b);
    assert!(observe(&mut blind, alone[0]).is_err(), "not kept");
    // A resumed candidate has rows again after a step.
    let from = s.save(ids[0], &mut a).unwrap();
    let (step, codes, anneal) = (from.step, from.codes.to_vec(), from.anneal);
    let from = maquette::generator::Partial::new(step, &codes).with_anneal(anneal);
    let mut resumed = [CandidateId::default()];
    s.resume(&PROMPT, &from, &[1], &mut resumed).unwrap();
    assert!(observe(&mut s, resumed[0]).is_err());
    s.step(&[ids[0], resumed[0]]).unwrap();
    assert_eq!(rows(&mut s, ids[0]), rows(&mut s, resumed[0]));
}

fn bundled() -> LatentSession<Cpu> {
    let json = JsonConfig::parse(&text("latent/config.json")).unwrap();
    let config = LatentConfig::from_json(&json).unwrap();
    loaded(Cpu::new(), &config, &bytes("latent/model.safetensors")).unwrap()
}

#[test]
fn the_bundled_head_knows_the_prompt_from_another() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut options = ShowOOptions::default();
    (options.candidates, options.guidance_scale, options.hidden) = (12, 3.0, true);
    let mut s = drawing.session(options);
    let mut judge = bundled();
    let asked = Prompt::new("a photo of two pink kites");
    let mut ids = [CandidateId::default(); 12];
    s.start(&PROMPT, &[1, 2, 3, 4], &mut ids[..4]).unwrap();
    for _ in 0..17 {
        s.step(&ids[..4]).unwrap();
    }
    // The same pictures before their last step, drawn for either prompt.
    for i in 0..4 {
        let mut codes = [0; 64];
        let from = s.save(ids[i], &mut codes).unwrap();
        let seed = [i as u64 + 1];
        s.resume(&PROMPT, &from, &seed, &mut ids[4 + i..5 + i])
            .unwrap();
        s.resume(&asked, &from, &seed, &mut ids[8 + i..9 + i])
            .unwrap();
    }
    s.step(&ids[4..]).unwrap();
    let mut yes = [0.0; 2];
    for (sum, ids) in yes.iter_mut().zip(ids[4..].chunks(4)) {
        let mut hidden = vec![0.0; 4 * 64 * 128];
        s.observe(ids, Needs::HIDDEN, &mut Views::hidden(&mut hidden))
            .unwrap();
        let key = |&candidate: &CandidateId| ViewKey {
            candidate,
            step: 18,
        };
        let keys: Vec<ViewKey> = ids.iter().map(key).collect();
        let mut out = [Verdict::malformed(); 4];
        let ask = Ask::new(Judgement::Outcome, &PROMPT, &keys).with_hidden(&hidden);
        judge.judge(&ask, &mut out).unwrap();
        *sum = out.iter().map(|verdict| verdict.p_yes).sum::<f32>() / 4.0;
    }
    assert!(yes[0] > yes[1] + 0.2, "{yes:?}");
}

#[test]
fn a_search_decodes_only_what_the_judge_is_asked_about() {
    let drawing = Drawing::load(Cpu::new(), Format::F32);
    let mut options = ShowOOptions::default();
    (options.steps, options.candidates, options.hidden) = (6, 6, true);
    let mut s = drawing.session(options);
    let questions = QUESTIONS[1..].to_vec();
    let judge = ScriptedReward::seeded(3).with_needs(Needs::PIXELS);
    let mut both = Split::new(bundled(), judge, questions);
    let mut run = |strategy: &mut dyn SearchStrategy<_, _>| {
        let found = strategy
            .search(&mut s, &mut both, &PROMPT, &mut Stream::new(1), &mut |_| {
                Flow::Continue
            })
            .unwrap();
        s.prune(&[found.winner]).unwrap();
        found.cost
    };
    let halved = run(&mut Halving::new(6, [2, 4]).with_judgement(Judgement::Potential));
    assert_eq!((halved.decodes, halved.outcome), (2, 2));
    assert_eq!(
        (halved.potential, halved.steps),
        (6 + 3, 2 * 6 + 2 * 3 + 2 * 2)
    );
    let parm = run(&mut Parm::new(6).with_survivors(2));
    assert_eq!(parm.decodes, parm.outcome);
    assert!(parm.clarity >= 6 && parm.decodes <= 2);
}

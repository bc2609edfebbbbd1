//! Trajectories and rollouts, on a generator without a model.

use maquette::align::annotation::{draw, edit, rollouts};
use maquette::codes::UNKNOWN;
use maquette::generator::{Needs, Partial, Views};
use maquette::testing::ScriptedGenerator;
use maquette::{CandidateId, Error, Generator, Prompt};

const STEPS: u32 = 4;
const PROMPT: Prompt<'_> = Prompt::new("a cup");

fn codes(generator: &mut ScriptedGenerator, id: CandidateId) -> Vec<u32> {
    let mut codes = vec![0; generator.grid().len()];
    generator
        .observe(&[id], Needs::CODES, &mut Views::codes(&mut codes))
        .unwrap();
    codes
}

#[test]
fn a_trajectory_is_what_the_generator_does_by_itself() {
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut seen = Vec::new();
    let drawn = draw(&mut generator, &PROMPT, &[3, 4], &mut |_, ids, step| {
        seen.push((ids.len(), step));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(2, 1), (2, 2), (2, 3), (2, 4)]);
    assert_eq!(generator.alive(), 0);
    for (seed, one) in [3, 4].into_iter().zip(&drawn) {
        let mut ids = [CandidateId::default()];
        generator.start(&PROMPT, &[seed], &mut ids).unwrap();
        assert!(one.states[0].iter().all(|&code| code == UNKNOWN));
        for step in 0..STEPS as usize {
            let mut state = vec![0; 16];
            generator.save(ids[0], &mut state).unwrap();
            assert_eq!(one.states[step], state);
            generator.step(&ids).unwrap();
            assert_eq!(one.previews[step], codes(&mut generator, ids[0]));
        }
        assert_eq!(one.codes(), codes(&mut generator, ids[0]));
        generator.prune(&ids).unwrap();
    }
}

#[test]
fn an_edit_goes_on_from_its_state_and_ends_where_the_picture_ended() {
    let mut generator = ScriptedGenerator::new(STEPS);
    let mut nothing = |_: &mut ScriptedGenerator, _: &[CandidateId], _| Ok(());
    let drawn = draw(&mut generator, &PROMPT, &[3], &mut nothing).unwrap();
    let begun = Partial::new(2, &drawn[0].states[2]);
    let mut seen = Vec::new();
    let edited = edit(
        &mut generator,
        &PROMPT,
        &begun,
        &[3, 4],
        &mut |_, ids, step| {
            seen.push((ids.len(), step));
            Ok(())
        },
    );
    let edited = edited.unwrap();
    assert_eq!(seen, [(2, 3), (2, 4)]);
    assert_eq!(edited[0].states, drawn[0].states[2..]);
    assert_eq!(edited[0].codes(), drawn[0].codes());
    assert_eq!(edited[1].states[0], drawn[0].states[2]);
    assert_eq!(generator.alive(), 0);
    let short = Partial::new(2, &drawn[0].states[2][1..]);
    assert!(edit(&mut generator, &PROMPT, &short, &[3], &mut nothing).is_err());
    assert_eq!(generator.alive(), 0);
}

#[test]
fn rollouts_leave_their_parent_alone_and_end_where_forks_end() {
    let run = |ways: bool| {
        let mut generator = ScriptedGenerator::new(STEPS);
        let mut labels = Vec::new();
        let drawn = draw(
            &mut generator,
            &PROMPT,
            &[9],
            &mut |generator, ids, step| {
                if ways && step < STEPS {
                    let ends = rollouts(generator, ids[0], &[1, 2, 9], &mut |generator, ids| {
                        assert!(generator.taken(ids[0])? == STEPS && ids.len() == 3);
                        let codes: Vec<_> = ids.iter().map(|&id| codes(generator, id)).collect();
                        // Its own seed leads where the picture itself goes.
                        labels.push(codes[2].clone());
                        Ok(codes.iter().map(|codes| *codes == codes[..]).collect())
                    })?;
                    assert_eq!(ends.len(), 3);
                }
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(generator.alive(), 0);
        (drawn, labels)
    };
    let ((alone, _), (drawn, labels)) = (run(false), run(true));
    assert_eq!(alone, drawn);
    assert_eq!(labels.len(), 3);
    assert!(labels.iter().all(|codes| codes == drawn[0].codes()));
}

#[test]
fn whatever_fails_leaves_nothing_alive() {
    let mut calls = 0;
    while calls < 40 {
        let mut generator = ScriptedGenerator::new(STEPS).failing_at(calls);
        let drawn = draw(
            &mut generator,
            &PROMPT,
            &[5, 6],
            &mut |generator, ids, _| {
                rollouts(generator, ids[0], &[1, 2], &mut |_, ids| {
                    Ok(vec![true; ids.len()])
                })
                .map(drop)
            },
        );
        assert!(
            drawn.is_err() || generator.calls().calls <= calls,
            "{calls}"
        );
        assert!(generator.alive() <= 2, "{calls}");
        calls += 1;
    }
    let mut generator = ScriptedGenerator::new(STEPS);
    let stopped = draw(&mut generator, &PROMPT, &[5], &mut |generator, ids, _| {
        rollouts(generator, ids[0], &[], &mut |_, _| Ok(Vec::new())).map(drop)
    });
    assert!(matches!(stopped, Err(Error::Example { .. })));
    let stopped = draw(&mut generator, &PROMPT, &[5], &mut |generator, ids, _| {
        rollouts(generator, ids[0], &[1, 2], &mut |_, _| Ok(vec![true])).map(drop)
    });
    assert!(matches!(stopped, Err(Error::Length { .. })));
    assert_eq!(generator.alive(), 0);
}

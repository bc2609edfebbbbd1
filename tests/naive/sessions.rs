//! A session under any order of starts, forks, steps and prunes beside each candidate's own history, drawn alone.

use std::sync::{Arc, OnceLock};

use maquette::cpu::Cpu;
use maquette::generator::Partial;
use maquette::model::janus::{Janus, JanusSession};
use maquette::model::words::Words;
use maquette::{CandidateId, Code, Error, Generator, Prompt};

use crate::bytes::Bytes;
use crate::tiny_janus;

const PROMPTS: [&str; 3] = [" a photo of a red car\n", " red\n", " a car of a car\n"];
const ROOM: usize = 5;

/// Where a candidate comes from: its prompt, the seeds it had, and the steps it took with each.
#[derive(Clone)]
struct History {
    prompt: usize,
    legs: Vec<(u64, u32)>,
}

impl History {
    fn taken(&self) -> u32 {
        self.legs.iter().map(|leg| leg.1).sum()
    }
}

type Session = JanusSession<Cpu, Words>;

fn session() -> Session {
    static MODEL: OnceLock<Arc<Janus<Cpu>>> = OnceLock::new();
    let model =
        MODEL.get_or_init(|| tiny_janus::load(Cpu::with_threads(1).unwrap(), tiny_janus::config()));
    let mut options = tiny_janus::config().options();
    (options.candidates, options.prompts, options.batch) = (ROOM, 2, 2);
    model.draw(tiny_janus::words(), options).unwrap()
}

fn codes(session: &Session, id: CandidateId) -> Vec<Code> {
    let mut codes = vec![0; session.grid().len()];
    session.save(id, &mut codes).unwrap();
    codes
}

/// The history again, alone, resumed from saved codes at every fork.
fn alone(session: &mut Session, history: &History) -> Vec<Code> {
    let prompt = Prompt::new(PROMPTS[history.prompt]);
    let (mut held, mut step) = (vec![maquette::codes::UNKNOWN; session.grid().len()], 0);
    for &(seed, steps) in &history.legs {
        let mut id = [CandidateId::default()];
        session
            .resume(&prompt, &Partial::new(step, &held), &[seed], &mut id)
            .unwrap();
        for _ in 0..steps {
            session.step(&id).unwrap();
        }
        step += steps;
        held = codes(session, id[0]);
        session.prune(&id).unwrap();
    }
    held
}

/// Any script of calls leaves every living candidate with the codes of its own history.
pub fn sessions(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let mut session = session();
    let mut alive: Vec<(CandidateId, History)> = Vec::new();
    let mut calls = 0;
    while !bytes.is_empty() && calls < 24 {
        calls += 1;
        let (what, seed) = (bytes.below(8), u64::from(bytes.byte()));
        let mut id = [CandidateId::default()];
        let which = bytes.below(alive.len().max(1));
        match what {
            0 | 1 => {
                let prompt = which % PROMPTS.len();
                let started = session.start(&Prompt::new(PROMPTS[prompt]), &[seed], &mut id);
                let legs = vec![(seed, 0)];
                match started {
                    Ok(()) => alive.push((id[0], History { prompt, legs })),
                    Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
                }
            }
            2 if !alive.is_empty() => {
                let mut history = alive[which].1.clone();
                match session.fork(alive[which].0, &[seed], &mut id) {
                    Ok(()) => {
                        history.legs.push((seed, 0));
                        alive.push((id[0], history));
                    }
                    Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
                }
            }
            3 if !alive.is_empty() => {
                let (gone, _) = alive.swap_remove(which);
                session.prune(&[gone]).unwrap();
                assert!(matches!(
                    session.step(&[gone]),
                    Err(Error::UnknownCandidate { .. })
                ));
            }
            _ => {
                // Some of the living that can still step; the seed's bits say which.
                let goes =
                    |i: usize, h: &History| seed >> (i % 8) & 1 == 1 && h.taken() < session.steps();
                let picked: Vec<usize> =
                    (0..alive.len()).filter(|&i| goes(i, &alive[i].1)).collect();
                let ids: Vec<CandidateId> = picked.iter().map(|&i| alive[i].0).collect();
                if !ids.is_empty() {
                    session.step(&ids).unwrap();
                }
                for i in picked {
                    alive[i].1.legs.last_mut().unwrap().1 += 1;
                }
            }
        }
    }
    assert!(alive.len() <= ROOM);
    let got: Vec<_> = alive.iter().map(|&(id, _)| codes(&session, id)).collect();
    let ids: Vec<_> = alive.iter().map(|&(id, _)| id).collect();
    session.prune(&ids).unwrap();
    for ((_, history), got) in alive.iter().zip(got) {
        assert_eq!(got, alone(&mut session, history), "{:?}", history.legs);
    }
}

//! Pictures that the policy draws while it is trained, and what the scorer says of them.

use maquette::align::annotation::{Trajectory, draw, edit, rollouts};
use maquette::generator::Partial;
use maquette::rng::philox;
use maquette::{Generator, Prompt};
use support::rules::Request;
use support::scorer::{Mark, Marker};

use crate::Res;

/// Pictures of one prompt.
#[derive(Debug, Default)]
pub struct Group {
    pub prompt: String,
    pub drawn: Vec<Trajectory>,
    pub marks: Vec<Mark>,
    /// What each picture is worth.
    pub rewards: Vec<f64>,
    /// The plan before each, if there are any.
    pub plans: Vec<Plan>,
}

/// What was written before a picture.
#[derive(Debug)]
pub struct Plan {
    pub text: String,
    /// Mean reward of several pictures with it.
    pub reward: f64,
}

impl Plan {
    /// Its words.
    pub fn len(&self) -> usize {
        self.text.split_whitespace().count()
    }
}

/// Another seed for every place.
pub fn seed(of: u64, place: [u32; 3]) -> u64 {
    let [a, b, c] = place;
    let [low, high, ..] = philox([(of & 0xFFFF_FFFF) as u32, (of >> 32) as u32], [a, b, c, 7]);
    u64::from(low) | u64::from(high) << 32
}

impl Group {
    /// Draws a group and has it marked.
    pub fn draw<'g>(
        generator: &mut (dyn Generator + 'g),
        marker: &mut Marker<'_>,
        request: &Request,
        seeds: &[u64],
    ) -> Res<Self> {
        let (steps, mut marks) = (generator.steps(), Vec::new());
        let prompt = Prompt::new(&request.prompt);
        let drawn = draw(generator, &prompt, seeds, &mut |generator, ids, step| {
            if step == steps {
                marks = marker.mark(&mut &mut *generator, request, ids)?;
            }
            Ok(())
        })?;
        Ok(Self::of(request, drawn, marks))
    }

    /// The same, from some codes of another picture.
    pub fn edit<'g>(
        generator: &mut (dyn Generator + 'g),
        marker: &mut Marker<'_>,
        request: &Request,
        begun: &Partial<'_>,
        seeds: &[u64],
    ) -> Res<Self> {
        let (steps, mut marks) = (generator.steps(), Vec::new());
        let prompt = Prompt::new(&request.prompt);
        let drawn = edit(
            generator,
            &prompt,
            begun,
            seeds,
            &mut |generator, ids, step| {
                if step == steps {
                    marks = marker.mark(&mut &mut *generator, request, ids)?;
                }
                Ok(())
            },
        )?;
        Ok(Self::of(request, drawn, marks))
    }

    /// A plan and a picture a seed. With stages, so many pictures of each plan are what the plan is worth, and a picture is
    /// worth half as much again as the share of so many others that are right and go on from it halfway.
    pub fn plan<'g>(
        generator: &mut (dyn Generator + 'g),
        marker: &mut Marker<'_>,
        request: &Request,
        seeds: &[u64],
        stages: u32,
    ) -> Res<Self> {
        let mut group = Self {
            prompt: request.prompt.clone(),
            ..Self::default()
        };
        let steps = generator.steps();
        for &of in seeds {
            let mut text = String::new();
            generator.plan(&Prompt::new(&request.prompt), of, &mut text)?;
            let prompt = Prompt::new(&request.prompt).with_plan(&text);
            let each: Vec<u64> = (0..stages.max(1)).map(|i| seed(of, [i, 0, 0])).collect();
            let ways: Vec<u64> = (0..stages).map(|i| seed(of, [i, 1, 0])).collect();
            let (mut marks, mut halfway) = (Vec::new(), 0.0);
            let drawn = draw(generator, &prompt, &each, &mut |generator, ids, step| {
                if step == steps {
                    marks = marker.mark(&mut &mut *generator, request, ids)?;
                } else if step == steps / 2 && !ways.is_empty() {
                    let ends = rollouts(generator, ids[0], &ways, &mut |generator, ids| {
                        let marks = marker.mark(&mut &mut *generator, request, ids)?;
                        Ok(marks.iter().map(|mark| mark.correct).collect())
                    })?;
                    let right = ends.iter().filter(|right| **right).count();
                    halfway = right as f64 / ends.len() as f64;
                }
                Ok(())
            })?;
            let sum: f64 = marks.iter().map(|mark| mark.reward).sum();
            group.plans.push(Plan {
                text,
                reward: sum / marks.len() as f64,
            });
            group.rewards.push(marks[0].reward + 0.5 * halfway);
            group.drawn.extend(drawn.into_iter().take(1));
            group.marks.extend(marks.into_iter().take(1));
        }
        Ok(group)
    }

    fn of(request: &Request, drawn: Vec<Trajectory>, marks: Vec<Mark>) -> Self {
        Self {
            prompt: request.prompt.clone(),
            drawn,
            rewards: marks.iter().map(|mark| mark.reward).collect(),
            marks,
            plans: Vec::new(),
        }
    }

    /// Whether no picture is better than another one.
    pub fn is_equal(&self) -> bool {
        let mut bits = self.rewards.iter().map(|reward| reward.to_bits());
        let first = bits.next();
        bits.all(|bits| Some(bits) == first)
    }
}

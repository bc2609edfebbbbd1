//! Pictures that the policy draws while it is trained, and what the scorer says of them.

use maquette::align::annotation::{Trajectory, draw};
use maquette::rng::philox;
use maquette::{Generator, Prompt};
use support::rules::Request;
use support::scorer::{Mark, Marker};

use crate::Res;

/// Pictures of one prompt.
#[derive(Debug)]
pub struct Group {
    pub prompt: String,
    pub drawn: Vec<Trajectory>,
    pub marks: Vec<Mark>,
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
        Ok(Self {
            prompt: request.prompt.clone(),
            drawn,
            marks,
        })
    }

    /// The rewards.
    pub fn rewards(&self) -> Vec<f64> {
        self.marks.iter().map(|mark| mark.reward).collect()
    }

    /// Whether no picture is better than another one.
    pub fn is_equal(&self) -> bool {
        let mut bits = self.marks.iter().map(|mark| mark.reward.to_bits());
        let first = bits.next();
        bits.all(|bits| Some(bits) == first)
    }
}

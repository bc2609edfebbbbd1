//! A model of another crate behind the contracts: a Llama of candle draws, a judge of our own looks on, best of N and PARM
//! search, and the conformance checks hold.
//!
//! `cargo run -- "a quiet sky"`

mod generator;

use maquette::generator::Needs;
use maquette::reward::Ask;
use maquette::rng::Stream;
use maquette::search::{BestOfN, Parm, Plain, SearchStrategy};
use maquette::{Error, Flow, Generator, Judgement, Prompt, Result, RewardModel, Verdict};

use generator::{CandleLlama, SHADES, SIDE};

/// Likes neighbours of like shades. It sees codes, not pixels, and answers every question alike.
struct Calm;

impl RewardModel for Calm {
    fn needs(&self, _: Judgement) -> Needs {
        Needs::CODES
    }

    fn judge(&mut self, ask: &Ask<'_>, out: &mut [Verdict]) -> Result<()> {
        let codes = ask
            .codes
            .ok_or(Error::foreign("the judge is shown no codes"))?;
        for (codes, out) in codes.chunks_exact(SIDE * SIDE).zip(out) {
            let rows = codes.chunks_exact(SIDE);
            let steps = rows.flat_map(|row| row.windows(2).map(|w| w[0].abs_diff(w[1])));
            let mean = steps.sum::<u32>() as f32 / (SIDE * (SIDE - 1)) as f32;
            let yes = 1.0 - (mean / (SHADES - 1) as f32).min(1.0);
            *out = Verdict::new(yes, 1.0 - yes);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let text = std::env::args().nth(1);
    let prompt = Prompt::new(text.as_deref().unwrap_or("a quiet sky"));
    let mut model = CandleLlama::random()?;
    let mut strategies: [(&str, &mut dyn SearchStrategy<CandleLlama, Calm>); 3] = [
        ("plain", &mut Plain),
        ("best of 8", &mut BestOfN::new(8)),
        ("PARM of 8", &mut Parm::new(8)),
    ];
    for (name, strategy) in &mut strategies {
        let mut rng = Stream::new(1);
        let found = strategy.search(&mut model, &mut Calm, &prompt, &mut rng, &mut |_| {
            Flow::Continue
        })?;
        let mut codes = [0; SIDE * SIDE];
        model.save(found.winner, &mut codes)?;
        model.prune(&[found.winner])?;
        let steps = found.cost.steps;
        let liked = found
            .verdict
            .map_or(String::new(), |v| format!(", liked {:.3}", v.p_yes));
        println!("{name}: {steps} steps{liked}");
        for row in codes.chunks_exact(SIDE) {
            let shade = |&code: &u32| b" .:-=+*#%@"[code as usize * 10 / SHADES] as char;
            println!("  {}", row.iter().map(shade).collect::<String>());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use maquette::testing::conformance;

    #[test]
    fn the_laws_hold() {
        let mut model = CandleLlama::random().unwrap();
        conformance::generator(&mut model, &Prompt::new("a red car")).unwrap();
    }

    #[test]
    fn an_empty_prompt_is_told() {
        let mut model = CandleLlama::random().unwrap();
        let mut out = [maquette::CandidateId::default()];
        let told = model.start(&Prompt::new(""), &[1], &mut out).unwrap_err();
        assert!(told.to_string().contains("the prompt is empty"), "{told}");
    }
}

//! The parts of prompts: those of the bundled world by its own grammar, of any other between commas and "and".

use maquette::Result;
use maquette::parts::{Conjuncts, Part, PromptParts, Tell};
use maquette::reason::Fault;

use crate::world::prompts::{Ask, Record, with_article};

/// Knows the prompts of the bundled world.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts;

impl PromptParts for Parts {
    fn each(&mut self, prompt: &str, tell: &mut Tell<'_>) -> Result<()> {
        match Ask::parse(prompt) {
            Some(ask) => of_record(&ask.record(), tell),
            None => Conjuncts.each(prompt, tell),
        }
    }
}

/// Each object of a GenEval record, then each colour, then what no object alone tells: a number, a relation, whose colour
/// is whose.
pub fn of_record(record: &Record, tell: &mut Tell<'_>) -> Result<()> {
    let photo = |what: &str| format!("a photo of {}", with_article(what));
    for want in &record.include {
        let object = &*want.class;
        tell(Part::new(&photo(object), Fault::Missing { object }))?;
    }
    for want in &record.include {
        if let Some(colour) = &want.color {
            let fault = Fault::Colour {
                object: &want.class,
                wanted: Some(colour),
                found: None,
            };
            tell(Part::new(
                &photo(&format!("{colour} {}", want.class)),
                fault,
            ))?;
        }
    }
    let whole = |fault: Fault<'_>, tell: &mut Tell<'_>| tell(Part::new(&record.prompt, fault));
    for want in &record.include {
        let object = &*want.class;
        let found = None;
        if want.count > 1 {
            let wanted = u32::try_from(want.count).ok();
            whole(
                Fault::Count {
                    object,
                    wanted,
                    found,
                },
                tell,
            )?;
        }
        if let Some((relation, target)) = &want.position {
            let fault = Fault::Position {
                object,
                relation: Some(relation),
                other: record.include.get(*target).map(|target| &*target.class),
            };
            whole(fault, tell)?;
        }
    }
    if let [a, b] = &record.include[..]
        && a.color.is_some()
        && b.color.is_some()
    {
        let objects = Some([&*a.class, &*b.class]);
        whole(Fault::Attribution { objects }, tell)?;
    }
    Ok(())
}

//! What a clause says.

use super::Fault;
use super::words::{COLOURS, RELATIONS, Words, number};

/// The fault that a clause names, if it names one.
pub(super) fn read(clause: &str) -> Option<Fault<'_>> {
    if let Some(fault) = by_rules(clause) {
        return Some(fault);
    }
    let words = Words::new(clause)?;
    let all = [swapped, wrong, amount, contrast, absent, extra];
    all.into_iter().find_map(|read| read(&words))
}

/// What GenEval's rules say: `expected red car>=1, found 0 red` and the like.
pub(super) fn by_rules(clause: &str) -> Option<Fault<'_>> {
    if let Some(rest) = clause.strip_prefix("no target for ") {
        let (object, relation) = rest.split_once(" to be ")?;
        let relation = RELATIONS.into_iter().find(|known| *known == relation)?;
        return Some(Fault::Position {
            object: plain(object)?,
            relation: Some(relation),
            other: None,
        });
    }
    let (want, found) = clause.strip_prefix("expected ")?.split_once(", found ")?;
    let first = found.split(' ').next()?;
    if let Some((what, n)) = want.split_once(">=") {
        let (wanted, found) = (number(n)?, number(first)?);
        let coloured = what.split_once(' ').and_then(|(colour, object)| {
            let colour = COLOURS.into_iter().find(|known| *known == colour)?;
            Some((colour, plain(object)?))
        });
        return Some(match coloured {
            Some((colour, object)) => Fault::Colour {
                object,
                wanted: Some(colour),
                found: None,
            },
            None if found == 0 => Fault::Missing {
                object: plain(what)?,
            },
            None => Fault::Count {
                object: plain(what)?,
                wanted: Some(wanted),
                found: Some(found),
            },
        });
    }
    if let Some((what, n)) = want.split_once('<') {
        let (bound, found, object) = (number(n)?, number(first)?, plain(what)?);
        return Some(match bound.checked_sub(1)? {
            0 => Fault::Extra { object },
            wanted => Fault::Count {
                object,
                wanted: Some(wanted),
                found: Some(found),
            },
        });
    }
    let want = want.strip_suffix(" target")?;
    let named = |known: &'static str| Some((want.strip_suffix(known)?.strip_suffix(' ')?, known));
    let (object, relation) = RELATIONS.into_iter().find_map(named)?;
    Some(Fault::Position {
        object: plain(object)?,
        relation: Some(relation),
        other: None,
    })
}

/// A name as it stands, if it is one and nothing else.
fn plain(name: &str) -> Option<&str> {
    let words = Words::new(name)?;
    words.object(0, words.len)
}

fn swapped<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    let traits = ["colours", "colors", "attributes"];
    let at = w.find(0, w.len, &traits)?;
    let done = w.find(
        at,
        w.len,
        &["swapped", "exchanged", "mixed", "switched", "wrong"],
    )?;
    let pair = || {
        let of = w.find(at, done, &["of"])?;
        let and = w.find(of, done, &["and"])?;
        let end = w
            .find(and, done, &["is", "are", "were", "have"])
            .unwrap_or(done);
        Some([w.object(of + 1, and)?, w.object(and + 1, end)?])
    };
    Some(Fault::Attribution { objects: pair() })
}

fn wrong<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    let at = w.find(0, w.len, &["wrong", "incorrect"])?;
    // "wrong colour of the car", "the car has the wrong colour"
    let object = || match w.find(at, w.len, &["of", "for"]) {
        Some(of) => w.object_from(of + 1),
        None => w.object(0, w.find(0, at, &["is", "are", "has", "have"])?),
    };
    let kind = at + 1;
    if w.is(kind, &["number", "count", "amount"]) {
        return Some(Fault::Count {
            object: object()?,
            wanted: None,
            found: None,
        });
    }
    if w.is(kind, &["colour", "color"]) {
        return Some(Fault::Colour {
            object: object()?,
            wanted: None,
            found: None,
        });
    }
    if w.is(kind, &["position", "place", "location", "side"]) {
        return Some(Fault::Position {
            object: object()?,
            relation: None,
            other: None,
        });
    }
    None
}

fn amount<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    let count = |object, wanted, found| Fault::Count {
        object,
        wanted,
        found,
    };
    for (phrase, second) in [("too", &["many", "few"][..]), ("not", &["enough"][..])] {
        if let Some(at) = w
            .find(0, w.len, &[phrase])
            .filter(|&at| w.is(at + 1, second))
        {
            return Some(count(w.object_from(at + 2)?, None, None));
        }
    }
    let (at, n) = w.number(0, w.len)?;
    // "2 cups instead of 3"
    if let Some(than) = w.find(at, w.len, &["instead", "rather", "not"]) {
        let (_, wanted) = w.number(than, w.len)?;
        return Some(count(w.object(at + 1, than)?, Some(wanted), Some(n)));
    }
    // "expected 3 cups, found 2", "found 2 cups"
    if let Some(expected) = w.find(0, at, &["expected"]) {
        let found = w.find(expected, w.len, &["found", "but", "only", "got", "saw"]);
        let object = w.object(at + 1, found.unwrap_or(w.len))?;
        let other = found.and_then(|from| w.number(from, w.len));
        return Some(count(object, Some(n), other.map(|other| other.1)));
    }
    w.find(0, at, &["found", "only"])?;
    Some(count(w.object_from(at + 1)?, None, Some(n)))
}

/// Something is this instead of that.
fn contrast<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    let is = w.find(0, w.len, &["is", "are", "isn't", "aren't", "should"])?;
    let object = w.object(0, is)?;
    let should = w.is(is, &["should"]) && !w.is(is + 1, &["not"]);
    let denied = w.is(is, &["isn't", "aren't"]) || w.is(is + 1, &["not"]);
    // What follows is wanted first and found later, or the other way round.
    let turn = w.find(
        is + 2,
        w.len,
        &["instead", "rather", "not", "but", "should"],
    );
    let (first, second) = (is + 1..turn.unwrap_or(w.len), turn.unwrap_or(w.len)..w.len);
    let is_wanted = should || (denied && !w.is(is, &["should"]));
    if !is_wanted && turn.is_none() && !w.is(is, &["should"]) {
        return None;
    }
    let here = w.relation(first.start, first.end);
    let there = w.relation(second.start, second.end);
    if let Some((_, behind, name)) = here {
        let other = there.and_then(|(_, behind, _)| w.object(behind, second.end));
        let relation = if is_wanted {
            Some(name)
        } else {
            there.map(|there| there.2)
        };
        let other = w.object(behind, first.end).or(other);
        return Some(Fault::Position {
            object,
            relation,
            other: relation.and(other),
        });
    }
    let (_, one) = w.colour(first.start, first.end)?;
    let other = w.colour(second.start, second.end).map(|other| other.1);
    let (wanted, found) = if is_wanted {
        (Some(one), other)
    } else {
        (other, Some(one))
    };
    Some(Fault::Colour {
        object,
        wanted,
        found,
    })
}

fn absent<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    let missing = |object| Some(Fault::Missing { object });
    if let Some(at) = w.find(0, w.len, &["missing", "absent"]) {
        // "the cup is missing", "missing cup"
        let before = w.find(0, at, &["is", "are"]).and_then(|is| w.object(0, is));
        return missing(match before {
            Some(object) => object,
            None => w.object_from(at + 1)?,
        });
    }
    if let Some(at) = w.find(0, w.len, &["without", "lacks"]) {
        return missing(w.object_from(at + 1)?);
    }
    if let Some(at) = w.find(0, w.len, &["no"]) {
        let opens = at == 0 || w.find(0, at, &["is", "are", "shows", "see", "has"]) == Some(at - 1);
        return opens
            .then(|| w.object_from(at + 1))
            .flatten()
            .and_then(missing);
    }
    // "the cup is not visible"
    let is = w.find(0, w.len, &["is", "are", "isn't", "aren't", "cannot"])?;
    let shown = ["visible", "present", "shown", "there", "found", "seen"];
    let denied = w.is(is, &["isn't", "aren't", "cannot"]) || w.is(is + 1, &["not"]);
    w.find(is + 1, is + 3, &shown).filter(|_| denied)?;
    missing(w.object(0, is)?)
}

fn extra<'a>(w: &Words<'a>) -> Option<Fault<'a>> {
    if let Some(at) = w.find(0, w.len, &["extra", "unexpected", "unwanted", "additional"]) {
        return Some(Fault::Extra {
            object: w.object_from(at + 1)?,
        });
    }
    // "the cup should not be there"
    let should = w
        .find(0, w.len, &["should"])
        .filter(|&at| w.is(at + 1, &["not"]))?;
    w.find(should, w.len, &["there", "present", "visible", "shown"])?;
    Some(Fault::Extra {
        object: w.object(0, should)?,
    })
}

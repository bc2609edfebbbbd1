//! The contact sheet of a search: a row a candidate, a column a judged step, verdicts below, the winner in green.

use std::collections::BTreeSet;

use maquette::reward::Answer;
use maquette::{Judgement, Verdict};

use crate::canvas::{Canvas, LETTER, Rgb};
use crate::png_file::Picture;
use crate::record::Record;

pub const PAPER: Rgb = [252, 252, 250];
pub const INK: Rgb = [40, 40, 44];
pub const FAINT: Rgb = [140, 140, 146];
const YES: Rgb = [22, 130, 56];
const NO: Rgb = [200, 40, 40];
const SIDE: usize = 64;
const CELL: [usize; 2] = [80, 92];
const LEFT: usize = 48;
const HEAD: usize = 120;

fn short(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Outcome => "match",
        Judgement::Process => "proc.",
        Judgement::Clarity => "clear",
        Judgement::Potential => "able ",
        _ => "?    ",
    }
}

fn percent(v: &Verdict) -> String {
    match v.answer {
        Answer::Other => "  ?".into(),
        _ => format!("{:3.0}%", v.p_yes * 100.0),
    }
}

/// Draws the sheet of one search.
pub fn sheet(record: &Record, prompt: &str, summary: &[String]) -> Canvas {
    let steps: BTreeSet<u32> = record
        .lives
        .values()
        .flat_map(|l| l.sights.keys().copied())
        .collect();
    let steps: Vec<u32> = steps.into_iter().collect();
    let text = summary
        .iter()
        .map(String::len)
        .chain([prompt.len() * 2, 90])
        .max()
        .unwrap_or_default();
    let width = (LEFT + steps.len() * CELL[0] + 8).max(HEAD + 16 + text * LETTER);
    let top = HEAD + 24;
    let mut page = Canvas::new(width, top + record.rows.max(1) * CELL[1] + 8, PAPER);
    let line = record.line_of_winner();
    let won = record.winner.and_then(|id| record.lives.get(&id));

    let last = won
        .and_then(|life| life.sights.values().next_back())
        .and_then(|s| s.pixels.as_deref());
    if let Some(pixels) = last {
        page.picture([8, 8], HEAD - 16, picture(record, pixels), None);
        page.frame([8, 8], [HEAD - 16; 2], 3, YES);
    }
    let x = HEAD + 4;
    page.text([x, 10], 2, INK, prompt);
    for (i, text) in summary.iter().enumerate() {
        page.text([x, 36 + 12 * i], 1, INK, text);
    }
    let legend =
        "crossed = dropped   green frame = chosen   colour of a line: the judge's yes or no";
    page.text([x, HEAD - 32], 1, FAINT, legend);
    page.text(
        [x, HEAD - 20],
        1,
        FAINT,
        "clear: can be judged  able: can still become the prompt  match: shows it",
    );

    for (column, step) in steps.iter().enumerate() {
        let label = format!("step {step}");
        page.text([LEFT + column * CELL[0] + 4, top - 14], 1, INK, &label);
    }
    for row in 0..record.rows {
        page.text(
            [8, top + row * CELL[1] + SIDE / 2],
            1,
            FAINT,
            &format!("{:>3}", row + 1),
        );
    }
    // The winner's line comes last, over whoever shared a cell with it.
    let mut lives: Vec<_> = record.lives.iter().collect();
    lives.sort_by_key(|(id, _)| line.contains_key(id));
    for (id, life) in lives {
        for (step, sight) in &life.sights {
            let chosen = line.get(id).is_some_and(|until| step <= until);
            let Ok(column) = steps.binary_search(step) else {
                continue;
            };
            let at = [LEFT + column * CELL[0] + 4, top + life.row * CELL[1] + 4];
            page.fill([at[0] - 4, at[1] - 4], CELL, PAPER);
            let dropped = life.rejected_at.is_some() && !life.resumed && !chosen;
            if let Some(pixels) = &sight.pixels {
                page.picture(at, SIDE, picture(record, pixels), dropped.then_some(PAPER));
            }
            if dropped && life.sights.keys().next_back() == Some(step) {
                page.cross(at, SIDE, NO);
            }
            if chosen {
                page.frame(at, [SIDE; 2], 3, YES);
            }
            for (i, (judgement, verdict)) in sight.verdicts.iter().enumerate() {
                let ink = match verdict.answer {
                    Answer::Yes => YES,
                    // Not clear yet is no fault.
                    Answer::No if *judgement == Judgement::Clarity => FAINT,
                    Answer::No => NO,
                    Answer::Other => FAINT,
                };
                let text = format!("{}{}", short(*judgement), percent(verdict));
                page.text(
                    [at[0] - 3, at[1] + SIDE + 4 + i * (LETTER + 1)],
                    1,
                    ink,
                    &text,
                );
            }
        }
    }
    page
}

/// Several finished pictures beside each other, with a line under each.
pub fn winners(size: [usize; 2], prompt: &str, pictures: &[(Vec<u8>, String)]) -> Canvas {
    let side = size[0].max(size[1]).max(192);
    let width = (pictures.len() * (side + 16) + 16).max(prompt.len() * LETTER * 2 + 32);
    let mut page = Canvas::new(width, side + 72, PAPER);
    page.text([16, 12], 2, INK, prompt);
    for (i, (pixels, text)) in pictures.iter().enumerate() {
        let x = 16 + i * (side + 16);
        page.picture(
            [x, 40],
            side,
            Picture {
                height: size[0],
                width: size[1],
                pixels,
            },
            None,
        );
        page.frame([x, 40], [side; 2], 1, FAINT);
        page.text([x, side + 50], 1, INK, text);
    }
    page
}

fn picture<'a>(record: &Record, pixels: &'a [u8]) -> Picture<'a> {
    Picture {
        width: record.size.width as usize,
        height: record.size.height as usize,
        pixels,
    }
}

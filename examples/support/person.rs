//! A person at a terminal as the judge: the views of a question lie in a picture, the answer comes from standard input.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use maquette::error::Foreign;
use maquette::human::{HumanReward, Marks};
use maquette::reward::Ask;
use maquette::{Error, Judgement, RewardModel};

use crate::canvas::{Canvas, LETTER};
use crate::png_file::Picture;
use crate::sheet::{FAINT, INK, PAPER};

type Cause = Box<dyn std::error::Error + Send + Sync>;

const SIDE: usize = 160;
const GAP: usize = 12;
const COLS: usize = 5;

fn question(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Outcome => "Which of these shows it?",
        Judgement::Process => "Unfinished: which of these shows it best?",
        Judgement::Clarity => "Unfinished: which of these can be judged already?",
        Judgement::Potential => "Unfinished: which of these can still become it?",
        _ => "Which of these?",
    }
}

/// The views beside each other, numbered from 1.
fn sheet(ask: &Ask<'_>) -> Canvas {
    let n = ask.keys.len();
    let cell = [SIDE + GAP, SIDE + GAP + LETTER * 2];
    let cols = n.min(COLS);
    let title = (ask.prompt.text().len() + 2) * LETTER;
    let width = (cols * cell[0] + GAP).max(title);
    let mut page = Canvas::new(width, n.div_ceil(COLS) * cell[1] + 2 * GAP + LETTER, PAPER);
    page.text([GAP, GAP], 1, INK, ask.prompt.text());
    let Some(shown) = ask.pixels else { return page };
    let size = shown.size();
    for i in 0..n {
        let at = [
            GAP + i % COLS * cell[0],
            2 * GAP + LETTER + i / COLS * cell[1],
        ];
        let picture = Picture {
            width: size.width as usize,
            height: size.height as usize,
            pixels: shown.picture(i).unwrap_or_default(),
        };
        page.picture(at, SIDE, picture, None);
        page.frame(at, [SIDE; 2], 1, FAINT);
        page.text([at[0], at[1] + SIDE + 4], 1, INK, &format!("{}", i + 1));
    }
    page
}

/// Numbers of an answer; nothing where it cannot be read.
fn places(line: &str, n: usize) -> Option<Vec<usize>> {
    let words = line
        .split([' ', ','])
        .map(str::trim)
        .filter(|w| !w.is_empty());
    words
        .map(|word| {
            let place = word.parse::<usize>().ok()?;
            (1..=n).contains(&place).then(|| place - 1)
        })
        .collect()
}

fn ask_once(path: &Path, ask: &Ask<'_>, marks: &mut Marks<'_>) -> maquette::Result<()> {
    let told = |e: Cause| Error::Foreign(Foreign::new(e));
    sheet(ask)
        .save(path)
        .map_err(|e| told(e.to_string().into()))?;
    let n = ask.keys.len();
    eprintln!(
        "\n\"{}\", step {}: see {}",
        ask.prompt.text(),
        ask.keys.first().map_or(0, |key| key.step),
        path.display()
    );
    loop {
        eprint!(
            "{} Numbers from 1 to {n}, none for none: ",
            question(ask.judgement)
        );
        io::stderr().flush().map_err(|e| told(e.into()))?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        if read.map_err(|e| told(e.into()))? == 0 {
            return Err(told("nobody answers: standard input has ended".into()));
        }
        if let Some(places) = places(&line, n) {
            return places.into_iter().try_for_each(|place| marks.yes(place));
        }
    }
}

/// The person at this terminal; every sheet is written to `path`.
pub fn at_terminal(path: PathBuf) -> Box<dyn RewardModel> {
    Box::new(HumanReward::new(move |ask, marks| {
        ask_once(&path, ask, marks)
    }))
}

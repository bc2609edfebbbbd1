//! A report for the browser: one page that holds everything and asks no network for anything.

use core::fmt::Write;
use std::collections::BTreeSet;
use std::error::Error;

use maquette::reward::Answer;
use maquette::{CandidateId, Judgement, Verdict};

use crate::png_file::Picture;
use crate::record::{self, Life, Record};

const SIDE: usize = 72;
const CELL: [usize; 2] = [104, 118];
const LEFT: usize = 64;
const TOP: usize = 28;
const CHART: [f64; 2] = [640.0, 200.0];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;\
color:#222;background:#fcfcfa}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.5rem}.scroll{overflow-x:auto}\
svg text{font:11px system-ui,sans-serif;fill:#333}svg .yes{fill:#16823a}svg .no{fill:#c22}svg .faint{fill:#888}\
.path{fill:none;stroke:#bbb;stroke-width:2}.won{stroke:#16823a;stroke-width:4}.out{opacity:.35}\
image{image-rendering:pixelated}figcaption,.legend{color:#555;font-size:13px}li{margin:.15rem 0}\
@media(prefers-color-scheme:dark){body{background:#1b1b1d;color:#ddd}svg text{fill:#ccc}figcaption,.legend{color:#aaa}}";

/// The whole page.
pub fn page(prompt: &str, about: &str, sections: &[String]) -> String {
    let (prompt, about) = (escaped(prompt), escaped(about));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{prompt}</title><style>{STYLE}</style></head>\n\
         <body><h1>{prompt}</h1><p>{about}</p>\n{}</body></html>\n",
        sections.concat()
    )
}

/// The part of one search.
pub fn section(record: &Record, title: &str, summary: &[String]) -> Result<String, Box<dyn Error>> {
    let mut out = format!("<section><h2>{}</h2><p>", escaped(title));
    for line in summary {
        write!(out, "{}<br>", escaped(line))?;
    }
    out.push_str("</p>\n");
    tree(record, &mut out)?;
    dropped(record, &mut out)?;
    chart(record, &mut out)?;
    out.push_str("</section>\n");
    Ok(out)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(letter),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

fn percent(verdict: &Verdict) -> String {
    match verdict.answer {
        Answer::Other => "malformed".into(),
        _ => format!("{:.0} %", verdict.p_yes * 100.0),
    }
}

/// Where the looks at the candidates stand: a row a candidate, a column a step that somebody looked at.
struct Places {
    steps: Vec<u32>,
}

impl Places {
    fn of(record: &Record) -> Self {
        let sights = record.lives.values().flat_map(|life| life.sights.keys());
        let steps: BTreeSet<u32> = sights.copied().collect();
        Self {
            steps: steps.into_iter().collect(),
        }
    }

    fn x(&self, step: u32) -> usize {
        let column = self.steps.partition_point(|&other| other < step);
        LEFT + column * CELL[0]
    }

    fn y(row: usize) -> usize {
        TOP + row * CELL[1]
    }
}

fn tree(record: &Record, out: &mut String) -> Result<(), Box<dyn Error>> {
    let places = Places::of(record);
    let (width, height) = (
        LEFT + places.steps.len().max(1) * CELL[0],
        TOP + record.rows.max(1) * CELL[1],
    );
    let line = record.line_of_winner();
    write!(
        out,
        "<figure><div class=\"scroll\"><svg class=\"tree\" width=\"{width}\" height=\"{height}\" role=\"img\">"
    )?;
    for &step in &places.steps {
        let x = places.x(step);
        write!(out, "<text x=\"{x}\" y=\"16\">step {step}</text>")?;
    }
    // Lines first, so that the pictures lie over them; the winner's come last.
    let mut lives: Vec<(&CandidateId, &Life)> = record.lives.iter().collect();
    lives.sort_by_key(|(id, _)| line.contains_key(id));
    for (id, life) in &lives {
        lines(record, &places, **id, life, line.get(*id).copied(), out)?;
    }
    for (id, life) in lives {
        for (step, sight) in &life.sights {
            let won = line.get(id).is_some_and(|until| step <= until);
            let out_of_it = !won && life.rejected_at.is_some() && !life.resumed;
            let (x, y) = (places.x(*step), Places::y(life.row));
            let class = if out_of_it { " class=\"out\"" } else { "" };
            write!(out, "<g{class}><title>candidate {}, step {step}", id.0)?;
            for (judgement, verdict) in &sight.verdicts {
                let name = record::name(*judgement);
                write!(
                    out,
                    "\n{name}: yes {:.3}, no {:.3}",
                    verdict.p_yes, verdict.p_no
                )?;
            }
            out.push_str("</title>");
            if let Some(pixels) = &sight.pixels {
                let picture = Picture {
                    width: record.size.width as usize,
                    height: record.size.height as usize,
                    pixels,
                };
                let png = base64(&picture.png()?);
                write!(
                    out,
                    "<image x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" href=\"data:image/png;base64,{png}\"/>"
                )?;
            }
            let frame = if won { "#16823a" } else { "#999" };
            let thick = if won { 3 } else { 1 };
            write!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"{frame}\" stroke-width=\"{thick}\"/>"
            )?;
            for (i, (judgement, verdict)) in sight.verdicts.iter().enumerate() {
                let class = match verdict.answer {
                    Answer::Yes => "yes",
                    Answer::No if *judgement != Judgement::Clarity => "no",
                    _ => "faint",
                };
                let (name, y) = (record::name(*judgement), y + SIDE + 12 + 12 * i);
                let share = percent(verdict);
                write!(
                    out,
                    "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{name} {share}</text>"
                )?;
            }
            out.push_str("</g>");
        }
    }
    out.push_str(
        "</svg></div><figcaption>A row a candidate, a column a step that was looked at; a line from one row to another is \
         a fork. Green leads to the winner, faded is what was dropped. Pictures tell their verdicts under the pointer.\
         </figcaption></figure>\n",
    );
    Ok(())
}

/// The line of one candidate through its looks, from its parent's row if it was forked.
fn lines(
    record: &Record,
    places: &Places,
    id: CandidateId,
    life: &Life,
    won: Option<u32>,
    out: &mut String,
) -> Result<(), Box<dyn Error>> {
    let middle = SIDE / 2;
    let mut points = String::new();
    let mut point =
        |x: usize, row: usize| write!(points, "{},{} ", x + middle, Places::y(row) + middle);
    if let Some(parent) = life.parent.and_then(|id| record.lives.get(&id)) {
        let at = places.x(life.born.max(1));
        point(at, parent.row)?;
    }
    let until = won.unwrap_or(u32::MAX);
    for step in life.sights.keys().filter(|step| **step <= until) {
        point(places.x(*step), life.row)?;
    }
    let class = if won.is_some() { "path won" } else { "path" };
    write!(
        out,
        "<polyline class=\"{class}\" points=\"{}\"/>",
        points.trim_end()
    )?;
    let (x, y) = (LEFT - 56, Places::y(life.row) + middle);
    if life.parent.is_none() {
        write!(
            out,
            "<text x=\"{x}\" y=\"{y}\" class=\"faint\">no. {}</text>",
            id.0
        )?;
    }
    Ok(())
}

/// Who was dropped, when, and after which answer.
fn dropped(record: &Record, out: &mut String) -> Result<(), Box<dyn Error>> {
    let gone = record.lives.iter().filter(|(id, life)| {
        life.rejected_at.is_some() && !life.resumed && record.winner != Some(**id)
    });
    let gone: Vec<_> = gone.collect();
    let n = gone.len();
    write!(
        out,
        "<details><summary>Dropped before the end: {n}</summary><ul>"
    )?;
    for (id, life) in gone {
        let step = life.rejected_at.unwrap_or_default();
        write!(out, "<li>candidate {} after step {step}: ", id.0)?;
        let last = life
            .sights
            .values()
            .rev()
            .find_map(|sight| sight.verdicts.last());
        match last {
            Some((judgement, verdict)) => {
                let (name, share) = (record::name(*judgement), percent(verdict));
                write!(out, "{name} {share}")?;
            }
            None => out.push_str("never judged"),
        }
        out.push_str("</li>");
    }
    out.push_str("</ul></details>\n");
    Ok(())
}

/// What was spent by when, and how good the best picture was by then.
fn chart(record: &Record, out: &mut String) -> Result<(), Box<dyn Error>> {
    let Some(last) = record.timeline.last() else {
        return Ok(());
    };
    let [width, height] = CHART;
    let seconds = last.seconds.max(1e-9);
    type Pick = fn(&record::Moment) -> f64;
    let series: [(&str, &str, Pick); 4] = [
        ("steps", "#3567b0", |m| m.counts.steps as f64),
        ("looks", "#b07a1e", |m| m.counts.decodes as f64),
        ("questions", "#8a3fa0", |m| m.counts.questions as f64),
        ("best yes so far", "#16823a", |m| f64::from(m.best)),
    ];
    write!(
        out,
        "<figure><svg class=\"chart\" width=\"{}\" height=\"{}\" role=\"img\"><rect x=\"0\" y=\"8\" width=\"{width}\" \
         height=\"{height}\" fill=\"none\" stroke=\"#999\"/>",
        width + 170.0,
        height + 34.0
    )?;
    for (i, (name, colour, pick)) in series.iter().enumerate() {
        let top = if i == 3 { 1.0 } else { pick(last).max(1.0) };
        let mut points = String::new();
        let mut before = 0.0;
        for moment in &record.timeline {
            let x = moment.seconds / seconds * width;
            let y = |value: f64| 8.0 + height - value / top * height;
            write!(
                points,
                "{x:.1},{:.1} {x:.1},{:.1} ",
                y(before),
                y(pick(moment))
            )?;
            before = pick(moment);
        }
        let y = 22 + 18 * i;
        let end = if i == 3 {
            format!("{:.2}", pick(last))
        } else {
            pick(last).to_string()
        };
        write!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{y}\" style=\"fill:{colour}\">{name}: {end}</text>",
            points.trim_end(),
            width + 10.0
        )?;
    }
    writeln!(
        out,
        "<text x=\"0\" y=\"{0}\">0 s</text><text x=\"{width}\" y=\"{0}\" text-anchor=\"end\">{seconds:.2} s</text></svg>\
         <figcaption>Cost over time, each line on its own scale up to what it came to; \"yes\" of the questions about whole \
         pictures up to 1.</figcaption></figure>",
        height + 24.0
    )?;
    Ok(())
}

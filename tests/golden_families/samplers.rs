//! Filters, guidance, mask schedules and the cut: arithmetic that no device takes part in, but for guidance.

use std::sync::Arc;

use maquette::codes::UNKNOWN;
use maquette::ops::Backend;
use maquette::ops::sample::{
    Filter, GuideShape, Remask, Schedule, cumulative_temperature, filter, remask, softmax_row,
};
use maquette::{Error, Result};

use crate::Case;

pub fn run<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    filters(case)?;
    guidance(case, device)?;
    cut(case)?;
    for name in case.outputs() {
        let parts: Vec<_> = name.split('.').collect();
        match parts[1] {
            "schedule" => schedule(case, &name),
            "trace" => trace(case, &name),
            "temperature" => temperature(case, &name),
            _ => {}
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "settings are single precision"
)]
fn number(value: &serde_json::Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn filters(case: &Case) -> Result<()> {
    let Some(filters) = case.json["filters"].as_array() else {
        return Ok(());
    };
    let (shape, logits) = case.input("in.logits");
    let width = shape[1];
    for (i, f) in filters.iter().enumerate() {
        let settings = Filter::default()
            .with_temperature(number(&f["temperature"]))
            .with_top_k(usize::try_from(f["top_k"].as_u64().unwrap()).unwrap())
            .with_top_p(number(&f["top_p"]));
        let name = format!("out.filter.{i}.probs");
        // Where the order of equal values would matter, only the rows without any are stored.
        let all = case.shape(&name)[0] == shape[0];
        let mut got = Vec::new();
        for row in logits
            .chunks_exact(width)
            .filter(|row| all || distinct(row))
        {
            let mut row = row.to_vec();
            filter(settings, &mut row, &mut vec![0; width])?;
            if !softmax_row(&mut row) {
                return Err(Error::NotFinite {
                    op: "filter",
                    arg: "logits",
                    row: i,
                });
            }
            got.extend(row);
        }
        case.compare(&name, &got);
        let kept: Vec<_> = got.iter().map(|&p| p > 0.0).collect();
        case.exact(&format!("out.filter.{i}.kept"), &kept);
    }
    Ok(())
}

fn distinct(row: &[f32]) -> bool {
    let mut finite: Vec<_> = row.iter().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f32::total_cmp);
    finite.windows(2).all(|pair| pair[0] < pair[1])
}

fn guidance<B: Backend>(case: &Case, device: &Arc<B>) -> Result<()> {
    if !case.has_input("in.guidance.cond") {
        return Ok(());
    }
    let (shape, cond) = case.input("in.guidance.cond");
    let (_, uncond) = case.input("in.guidance.uncond");
    let scales = [
        (
            "out.guidance.show_o",
            1.0 + number(&case.json["guidance_w"]),
        ),
        (
            "out.guidance.standard",
            number(&case.json["guidance_scale"]),
        ),
    ];
    for (name, scale) in scales {
        let mut logits = device.zeros(2 * cond.len())?;
        device.write(&mut logits, 0, &cond)?;
        device.write(&mut logits, cond.len(), &uncond)?;
        device.guide(
            GuideShape {
                rows: shape[0],
                width: shape[1],
                scale,
            },
            &mut logits,
        )?;
        let mut got = vec![0.0; cond.len()];
        device.read(&logits, 0, &mut got)?;
        case.compare(name, &got);
    }
    Ok(())
}

fn cut(case: &Case) -> Result<()> {
    if !case.has_input("in.cut.probs") {
        return Ok(());
    }
    let (shape, probs) = case.input("in.cut.probs");
    let (_, uniform) = case.input("in.cut.uniform");
    let (_, masked) = case.whole("in.cut.mask_len");
    let n = shape[1];
    let settings = [
        ("out.cut.masking_T0", 0.0),
        ("out.cut.masking_T1", number(&case.json["cut_temperature"])),
    ];
    for (name, temperature) in settings {
        let mut got = Vec::new();
        for (r, &masked) in masked.iter().enumerate() {
            // Known places carry the largest float there, a negative number here.
            let p: Vec<_> = probs[r * n..][..n]
                .iter()
                .map(|&p| if p < f32::MAX { p } else { -1.0 })
                .collect();
            let request = Remask {
                p: &p,
                uniform: &uniform[r * n..][..n],
                masked: usize::try_from(masked).unwrap(),
                temperature,
            };
            let mut codes = vec![0; n];
            remask(&request, &mut vec![0.0; n], &mut vec![0.0; n], &mut codes)?;
            got.extend(codes.into_iter().map(|c| c == UNKNOWN));
        }
        case.exact(name, &got);
    }
    Ok(())
}

/// Method, places and steps out of `out.x.pow0.5.n256.s18` and what follows.
fn parse(name: &str) -> Option<(Schedule, usize, u32, &str)> {
    let (_, rest) = name.strip_prefix("out.")?.split_once('.')?;
    let (method, rest) = rest.split_once(".n")?;
    let (n, rest) = rest.split_once(".s")?;
    let (steps, kind) = rest.split_once('.').unwrap_or((rest, ""));
    let schedule = match method {
        "cosine" => Schedule::Cosine,
        "linear" => Schedule::Linear,
        "sigmoid" => Schedule::Sigmoid,
        _ => Schedule::Power(method.strip_prefix("pow")?.parse().ok()?),
    };
    Some((schedule, n.parse().ok()?, steps.parse().ok()?, kind))
}

fn schedule(case: &Case, name: &str) {
    match parse(name) {
        Some((schedule, _, steps, "ratio")) => {
            case.compare(
                name,
                &(0..steps)
                    .map(|s| schedule.ratio(s, steps))
                    .collect::<Vec<_>>(),
            );
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole numbers of few digits"
        )]
        Some((schedule, n, steps, "floor")) => {
            case.exact(
                name,
                &(0..steps)
                    .map(|s| schedule.floor(n, s, steps) as i64)
                    .collect::<Vec<_>>(),
            );
        }
        _ => {}
    }
}

fn trace(case: &Case, name: &str) {
    let Some((schedule, n, steps, _)) = parse(name) else {
        return;
    };
    let mut unknown = n;
    let got: Vec<_> = (0..steps)
        .map(|step| {
            unknown = schedule.masked(n, unknown, step, steps);
            i64::try_from(unknown).unwrap()
        })
        .collect();
    case.exact(name, &got);
}

fn temperature(case: &Case, name: &str) {
    let Some(steps) = name
        .strip_prefix("out.temperature.s")
        .and_then(|s| s.parse().ok())
    else {
        return;
    };
    let got: Vec<_> = (0..steps)
        .map(|step| cumulative_temperature(1.0, step, steps))
        .collect();
    case.compare(name, &got);
}

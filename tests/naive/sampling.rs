//! Filters and draws beside plain ones that sort everything and count in double precision.

use maquette::Error;
use maquette::cpu::Cpu;
use maquette::ops::Backend;
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, draw, filter};

use crate::bytes::Bytes;

/// Mass by which single and double precision may part at the edge of top-p.
const EDGE: f64 = 1e-4;

/// What a row becomes, and which entries lie so near the edge of top-p that either is right.
fn plain(f: Filter, logits: &[f32]) -> (Vec<f32>, Vec<bool>) {
    let scaled: Vec<f32> = logits.iter().map(|v| v / f.temperature.max(1e-5)).collect();
    let mut order: Vec<usize> = (0..scaled.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]).then(a.cmp(&b)));
    let mut kept = scaled.clone();
    if f.top_k > 0 && f.top_k < kept.len() {
        let least = scaled[order[f.top_k - 1]];
        kept.iter_mut()
            .filter(|v| **v < least)
            .for_each(|v| *v = f32::NEG_INFINITY);
    }
    let mut unsure = vec![false; kept.len()];
    let largest = f64::from(scaled[order[0]]);
    if f.top_p < 1.0 && largest.is_finite() {
        let weight: Vec<f64> = kept
            .iter()
            .map(|&v| (f64::from(v) - largest).exp())
            .collect();
        let total: f64 = weight.iter().sum();
        let mut before = 0.0;
        for (rank, &i) in order.iter().enumerate() {
            let over = before - f64::from(f.top_p);
            unsure[i] = rank > 0 && over.abs() < EDGE;
            if rank > 0 && over > 0.0 {
                kept[i] = f32::NEG_INFINITY;
            }
            before += weight[i] / total;
        }
    }
    (kept, unsure)
}

/// Any logits through any filter and one draw: an error, or a legal entry that both devices draw.
pub fn sampling(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let width = 1 + bytes.below(200);
    let f = Filter::default()
        .with_temperature([1.0, 0.25, 3.0, 0.0][bytes.below(4)])
        .with_top_k(bytes.below(210))
        .with_top_p(f32::from(bytes.byte()) / 230.0);
    let wild = bytes.below(3) == 0;
    let key = [bytes.word(), bytes.word(), 3, 5];
    let logits: Vec<f32> = (0..width).map(|_| bytes.float(wild)).collect();

    let mut got = logits.clone();
    let filtered = filter(f, &mut got, &mut vec![0; width]);
    let cpu = Cpu::new();
    let mut on_cpu = cpu.zeros(width).unwrap();
    cpu.write(&mut on_cpu, 0, &logits).unwrap();
    let shape = FilterShape {
        rows: 1,
        width,
        filter: f,
    };
    let mut order = cpu.zeros(width).unwrap();
    let cpu_filtered = cpu.filter(shape, &mut on_cpu, &mut order);
    if logits.iter().any(|v| v.is_nan()) {
        assert!(matches!(filtered, Err(Error::NotFinite { .. })));
        assert!(matches!(cpu_filtered, Err(Error::NotFinite { .. })));
        return;
    }
    filtered.unwrap();
    cpu_filtered.unwrap();
    if !f.is_idle(width) {
        let (want, unsure) = plain(f, &logits);
        for i in 0..width {
            let alike = got[i].to_bits() == want[i].to_bits();
            assert!(alike || unsure[i], "entry {i}: {} for {}", got[i], want[i]);
        }
    }

    let (mut code, mut p) = ([0], [0.0]);
    let kept = got.clone();
    let drawn = draw(
        DrawShape { rows: 1, width },
        &mut got,
        &Draw::Keyed(&key),
        &mut code,
        &mut p,
    );
    let mut keys = cpu.zeros(4).unwrap();
    cpu.write(&mut keys, 0, &key).unwrap();
    let (mut cpu_code, mut cpu_p) = (cpu.zeros(1).unwrap(), cpu.zeros(1).unwrap());
    let cpu_drawn = cpu.draw(
        DrawShape { rows: 1, width },
        &mut on_cpu,
        &Draw::Keyed(&keys),
        &mut cpu_code,
        &mut cpu_p,
    );
    let largest = kept.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        assert!(matches!(drawn, Err(Error::NotFinite { .. })));
        assert!(matches!(cpu_drawn, Err(Error::NotFinite { .. })));
        return;
    }
    drawn.unwrap();
    cpu_drawn.unwrap();
    let at = code[0] as usize;
    assert!(at < width && kept[at] > f32::NEG_INFINITY, "drew {at}");
    assert!(p[0] > 0.0 && p[0] <= 1.0, "p = {}", p[0]);
    let (mut again, mut again_p) = ([0], [0.0]);
    cpu.read(&cpu_code, 0, &mut again).unwrap();
    cpu.read(&cpu_p, 0, &mut again_p).unwrap();
    assert_eq!(
        (again, again_p.map(f32::to_bits)),
        (code, p.map(f32::to_bits))
    );
}

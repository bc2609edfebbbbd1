//! Gradients on the CPU device: `cargo bench -p maquette-benches --bench backward`.

use std::process::ExitCode;

use criterion::{Criterion, Throughput};
use maquette::Result;
use maquette::cpu::Cpu;
use maquette::ops::backward::attention::SelfAttentionShape;
use maquette::ops::backward::labels::LabelShape;
use maquette::ops::gemm::GemmShape;
use maquette::ops::norm::{Activation, NormShape};
use maquette::ops::{Backend, Backward};
use maquette::quant::{Format, QuantMatrix};
use maquette_benches::{numbers, random, run, time};

fn products(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    for (m, n, k) in [(132, 512, 128), (387, 2048, 2048)] {
        let data = numbers(n * k);
        let (x, dy) = (random(cpu, m * k)?, random(cpu, m * n)?);
        let (mut y, mut dx) = (cpu.zeros(m * n)?, cpu.zeros(m * k)?);
        let (s, work) = (
            GemmShape::new(m, n, k),
            Throughput::Elements((m * n * k) as u64),
        );
        let size = format!("m{m}_n{n}_k{k}");
        for &format in Format::ALL.iter().filter(|f| f.fitting(k) == **f) {
            let mut bytes = vec![0; format.bytes(n, k)?];
            format.quantise(&data, &mut bytes);
            let view = match format {
                Format::F32 => QuantMatrix::f32(n, k, &data)?,
                _ => QuantMatrix::from_bytes(format, n, k, &bytes)?,
            };
            let (w, name) = (cpu.pack(&view)?, format.name());
            time(c, &format!("gemm/{name}/{size}"), work.clone(), || {
                cpu.gemm(s, &x, &w, None, &mut y)
            })?;
            time(c, &format!("gemm_dx/{name}/{size}"), work.clone(), || {
                cpu.gemm_dx(s, &dy, &w, &mut dx)
            })?;
        }
        let mut dw = cpu.zeros(n * k)?;
        time(c, &format!("gemm_dw/{size}"), work, || {
            cpu.gemm_dw(s, &dy, &x, &mut dw)
        })?;
    }
    Ok(())
}

fn rest(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    let s = SelfAttentionShape {
        rows: 387,
        n_heads: 32,
        n_kv_heads: 32,
        head_dim: 64,
        causal: 129,
    };
    let (rows, width) = (s.rows, s.n_heads * s.head_dim);
    let (qkv, dy) = (random(cpu, rows * s.stride())?, random(cpu, rows * width)?);
    let mut d = cpu.zeros(rows * s.stride())?;
    // q·k, dy·v, and three products back.
    let work = Throughput::Elements((5 * rows * rows * width) as u64);
    time(c, "attention_dx/t387_h32_d64", work, || {
        cpu.attention_dx(s, &qkv, &dy, &mut d)
    })?;
    let norm = NormShape {
        rows,
        width,
        eps: 1e-5,
    };
    let weight = random(cpu, width)?;
    let bytes = Throughput::Bytes(16 * (rows * width) as u64);
    let mut dx = cpu.zeros(rows * width)?;
    time(c, "layer_norm_dx/t387_d2048", bytes, || {
        cpu.layer_norm_dx(norm, &dy, &weight, &dy, &mut dx)
    })?;
    let (x, len) = (random(cpu, rows * 8192)?, rows * 8192);
    let mut d = random(cpu, len)?;
    time(
        c,
        "gelu_dx/t387_d8192",
        Throughput::Bytes(12 * len as u64),
        || cpu.activate_dx(Activation::GeluTanh, len, &x, &mut d),
    )?;
    let labels = LabelShape {
        rows: 165,
        width: 58498,
    };
    let logits = random(cpu, labels.rows * labels.width)?;
    let (index, mut out) = (cpu.zeros(labels.rows)?, cpu.zeros(labels.rows)?);
    let bytes = Throughput::Bytes(4 * (labels.rows * labels.width) as u64);
    time(c, "log_probs/n165_v58498", bytes, || {
        cpu.log_probs(labels, &logits, &index, &mut out)
    })?;
    Ok(())
}

fn main() -> ExitCode {
    let cpu = Cpu::new();
    run(|c| products(c, &cpu).and_then(|()| rest(c, &cpu)))
}

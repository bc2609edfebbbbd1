//! Every operation on the CPU device: `cargo bench -p maquette-benches --bench ops`.

use std::process::ExitCode;

use criterion::{Criterion, Throughput};
use maquette::Result;
use maquette::cpu::Cpu;
use maquette::ops::Backend;
use maquette::ops::attention::{AppendShape, AttentionShape, KvFormat, RelativeShape, RotaryShape};
use maquette::ops::conv::{ConvShape, PatchShape, Rounding};
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::ops::norm::{Activation, GateShape, GroupNormShape, HeadNormShape, NormShape};
use maquette::ops::reward_head::{AnswerShape, PoolShape};
use maquette::ops::sample::{Draw, DrawShape, Filter, FilterShape, GuideShape};
use maquette::ops::vq::{GatherShape, LfqShape, NearestShape};
use maquette::quant::{Format, QuantMatrix};
use maquette_benches::{buffer, floats, numbers, random, run, time};

fn products(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    for (m, n, k) in [
        (1, 512, 128),
        (8, 512, 128),
        (132, 512, 128),
        (1320, 512, 128),
        (1, 4096, 1024),
        (64, 4096, 1024),
    ] {
        let data = numbers(n * k);
        let mut stored = Vec::new();
        for (name, format) in [
            ("bf16", Format::Bf16),
            ("q8_0", Format::Q8_0),
            ("q4_0", Format::Q4_0),
            ("q4_k", Format::Q4K),
            ("q4_g128", Format::Q4G128),
        ] {
            if format.fitting(k) != format {
                continue;
            }
            let mut bytes = vec![0; format.bytes(n, k)?];
            format.quantise(&data, &mut bytes);
            stored.push((name, format, bytes));
        }
        let s = GemmShape::new(m, n, k);
        let (x, mut y) = (random(cpu, m * k)?, cpu.zeros(m * n)?);
        let mut forms = vec![("f32", QuantMatrix::f32(n, k, &data)?)];
        for (name, format, bytes) in &stored {
            forms.push((name, QuantMatrix::from_bytes(*format, n, k, bytes)?));
        }
        for (format, w) in forms {
            let matrix = cpu.pack(&w)?;
            // One element is one multiply and one add.
            let amount = Throughput::Elements((m * n * k) as u64);
            time(c, &format!("gemm/{format}/m{m}_n{n}_k{k}"), amount, || {
                cpu.gemm(s, &x, &matrix, None, &mut y)
            })?;
            if w.format().block() > 1 {
                let s = GemmShape {
                    activations: Activations::A8,
                    ..s
                };
                let name = format!("gemm/{format}_a8/m{m}_n{n}_k{k}");
                let amount = Throughput::Elements((m * n * k) as u64);
                time(c, &name, amount, || cpu.gemm(s, &x, &matrix, None, &mut y))?;
            }
        }
    }
    Ok(())
}

fn convolutions(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    for (size, c_in, c_out, upsample) in [
        (16, 256, 256, false),
        (32, 128, 128, true),
        (128, 64, 64, false),
        (128, 64, 3, false),
    ] {
        let s = ConvShape {
            upsample,
            ..ConvShape::same(1, [size, size], c_in, c_out, 3)
        };
        let [rows, cols] = s.output();
        let w = cpu.pack(&QuantMatrix::f32(c_out, s.k(), &numbers(c_out * s.k()))?)?;
        let (x, bias) = (random(cpu, size * size * c_in)?, random(cpu, c_out)?);
        let mut y = cpu.zeros(rows * cols * c_out)?;
        let amount = Throughput::Elements((rows * cols * c_out * s.k()) as u64);
        let up = if upsample { "_up" } else { "" };
        let name = format!("conv2d/f32/{rows}x{cols}_in{c_in}_out{c_out}{up}");
        time(c, &name, amount, || cpu.conv2d(s, &x, &w, &bias, &mut y))?;
    }
    let mut out = cpu.zeros(256 * 256 * 3)?;
    let x = random(cpu, 256 * 256 * 3)?;
    time(c, "to_bytes/f32/256x256", floats(256 * 256 * 3), || {
        cpu.to_bytes(Rounding::Truncate, 256 * 256 * 3, &x, &mut out)
    })?;
    let s = PatchShape {
        images: 1,
        height: 256,
        width: 256,
        patch: 14,
    };
    let mut patches = cpu.zeros(256 * 256 * 3)?;
    time(c, "patchify/u8/256x256_p14", floats(256 * 256 * 3), || {
        cpu.patchify(s, &out, &mut patches)
    })?;
    Ok(())
}

fn attentions(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    for (sequences, queries, keys, heads, head_dim) in [
        (10, 132, 132, 4, 32),
        (1, 1024, 1024, 8, 64),
        (8, 1, 512, 8, 64),
    ] {
        let width = heads * head_dim;
        let s = AttentionShape {
            sequences,
            queries,
            n_heads: heads,
            n_kv_heads: heads,
            head_dim,
            q_stride: width,
            q_offset: 0,
            kv_rows: sequences * keys,
            kv_stride: head_dim,
            kv_head_stride: sequences * keys * head_dim,
            k_offset: 0,
            v_offset: 0,
            causal: false,
            repeated_prefix: false,
            pages: 0,
        };
        let spans: Vec<u32> = (0..sequences)
            .flat_map(|i| [0, 0, i * keys, keys])
            .map(|word| u32::try_from(word).unwrap_or(u32::MAX))
            .collect();
        let (q, kv, spans) = (
            random(cpu, sequences * queries * width)?,
            random(cpu, sequences * keys * width)?,
            buffer(cpu, &spans)?,
        );
        let mut out = cpu.zeros(sequences * queries * width)?;
        let amount = || Throughput::Elements((2 * sequences * queries * keys * width) as u64);
        let shape = format!("s{sequences}_q{queries}_k{keys}_h{heads}_d{head_dim}");
        time(c, &format!("attention/f32/{shape}"), amount(), || {
            cpu.attention(s, &q, &kv, &kv, &spans, &mut out)
        })?;
        let words = KvFormat::Q8.words(head_dim);
        let s = AttentionShape {
            kv_stride: words,
            kv_head_stride: sequences * keys * words,
            ..s
        };
        let append = AppendShape {
            rows: sequences * keys,
            heads,
            head_dim,
            stride: width,
            offset: 0,
            cache_rows: sequences * keys,
        };
        let places: Vec<u32> = (0..).take(sequences * keys).collect();
        let places = buffer(cpu, &places)?;
        let mut rounded = cpu.zeros(sequences * keys * heads * words)?;
        let written = Throughput::Bytes(4 * (sequences * keys * (width + heads * words)) as u64);
        time(c, &format!("append/q8/{shape}"), written, || {
            cpu.append_q8(append, &kv, &places, &mut rounded)
        })?;
        time(c, &format!("attention/q8/{shape}"), amount(), || {
            cpu.attention_q8(s, &q, &rounded, &rounded, &spans, &mut out)
        })?;
    }
    let s = RelativeShape {
        rows: 120,
        n_heads: 32,
        head_dim: 64,
        scale: 1.0,
    };
    let (qkv, bias) = (
        random(cpu, 120 * 3 * 2048)?,
        random(cpu, 32 * s.distances())?,
    );
    let mut out = cpu.zeros(120 * 2048)?;
    let amount = Throughput::Elements(2 * 120 * 120 * 2048);
    time(c, "relative_attention/f32/r120_h32_d64", amount, || {
        cpu.relative_attention(s, &qkv, &bias, &mut out)
    })?;
    let s = RotaryShape {
        rows: 256,
        heads: 8,
        head_dim: 64,
        rotary_dim: 64,
        stride: 512,
        offset: 0,
        positions: 256,
    };
    let positions = buffer(cpu, &(0..256).collect::<Vec<u32>>())?;
    let (mut x, table) = (random(cpu, 256 * 512)?, random(cpu, 256 * 64)?);
    time(c, "rotary/f32/r256_h8_d64", floats(2 * 256 * 512), || {
        cpu.rotary(s, &mut x, &positions, &table)
    })?;
    let s = AppendShape {
        rows: 256,
        heads: 8,
        head_dim: 64,
        stride: 512,
        offset: 0,
        cache_rows: 256,
    };
    let mut cache = cpu.zeros(256 * 512)?;
    time(c, "append/f32/r256_w512", floats(2 * 256 * 512), || {
        cpu.append(s, &x, &positions, &mut cache)
    })?;
    Ok(())
}

fn norms(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    let (rows, width) = (1320, 128);
    let len = rows * width;
    let (x, weight, bias) = (
        random(cpu, 2 * len)?,
        random(cpu, width)?,
        random(cpu, width)?,
    );
    let (mut y, mut heads) = (cpu.zeros(len)?, random(cpu, len)?);
    let s = NormShape {
        rows,
        width,
        eps: 1e-5,
    };
    time(c, "layer_norm/f32/r1320_w128", floats(2 * len), || {
        cpu.layer_norm(s, &x, &weight, &bias, &mut y)
    })?;
    time(c, "rms_norm/f32/r1320_w128", floats(2 * len), || {
        cpu.rms_norm(s, &x, &weight, &mut y)
    })?;
    let s = HeadNormShape {
        rows,
        heads: 4,
        head_dim: 32,
        stride: width,
        offset: 0,
        eps: 1e-5,
    };
    time(c, "head_norm/f32/r1320_h4_d32", floats(2 * len), || {
        cpu.head_norm(s, &mut heads, &weight, &bias)
    })?;
    let s = GateShape {
        rows,
        width,
        activation: Activation::Silu,
    };
    time(c, "gate/f32/r1320_w128", floats(3 * len), || {
        cpu.gate(s, &x, &mut y)
    })?;
    time(c, "add/f32/168960", floats(3 * len), || {
        cpu.add(len, &x, &mut y)
    })?;
    let kinds = [
        ("gelu_tanh", Activation::GeluTanh),
        ("gelu_erf", Activation::GeluErf),
        ("silu", Activation::Silu),
        ("relu", Activation::Relu),
    ];
    for (name, activation) in kinds {
        // Fresh numbers every time: an activation over and over ends in denormal ones.
        time(
            c,
            &format!("activate/{name}/168960"),
            floats(2 * len),
            || {
                cpu.copy(&x, 0, &mut heads, 0, len)?;
                cpu.activate(activation, len, &mut heads)
            },
        )?;
    }
    let s = GroupNormShape {
        images: 1,
        pixels: 64 * 64,
        channels: 128,
        groups: 32,
        eps: 1e-6,
        swish: true,
    };
    let (x, mut y) = (random(cpu, 64 * 64 * 128)?, cpu.zeros(64 * 64 * 128)?);
    time(
        c,
        "group_norm/f32/64x64_c128_g32",
        floats(2 * 64 * 64 * 128),
        || cpu.group_norm(s, &x, &weight, &bias, &mut y),
    )?;
    Ok(())
}

fn draws(c: &mut Criterion, cpu: &Cpu) -> Result<()> {
    let (rows, width) = (64, 8192);
    let start = numbers(2 * rows * width);
    let (fresh, mut logits) = (buffer(cpu, &start)?, buffer(cpu, &start)?);
    let (keys, noise) = (
        buffer(cpu, &(0..4 * 64).collect::<Vec<u32>>())?,
        buffer(cpu, &vec![1.0; rows * width])?,
    );
    let (mut codes, mut p) = (cpu.zeros(rows)?, cpu.zeros(rows)?);
    let s = DrawShape { rows, width };
    for (name, draw) in [
        ("keyed", Draw::Keyed(&keys)),
        ("given", Draw::Given(&noise)),
    ] {
        let name = format!("draw/{name}/r64_v8192");
        time(c, &name, floats(2 * rows * width), || {
            // What a draw leaves are probabilities, from which the next one would be nearly even.
            cpu.copy(&fresh, 0, &mut logits, 0, rows * width)?;
            cpu.draw(s, &mut logits, &draw, &mut codes, &mut p)
        })?;
    }
    let mut order = cpu.zeros(rows * width)?;
    let f = FilterShape {
        rows,
        width,
        filter: Filter::default().with_top_k(1000).with_top_p(0.9),
    };
    time(
        c,
        "filter/k1000_p0.9/r64_v8192",
        floats(2 * rows * width),
        || {
            // Filtered logits would be filtered faster.
            cpu.write(&mut logits, 0, &start)?;
            cpu.filter(f, &mut logits, &mut order)
        },
    )?;
    // A filter leaves infinities.
    cpu.write(&mut logits, 0, &start)?;
    let g = GuideShape {
        rows,
        width,
        scale: 1.0,
    };
    time(c, "guide/f32/r64_v8192", floats(3 * rows * width), || {
        cpu.guide(g, &mut logits)
    })?;
    let a = AnswerShape {
        rows,
        width,
        yes: 3,
        no: 4,
    };
    let mut out = cpu.zeros(2 * rows)?;
    time(c, "answer/f32/r64_v8192", floats(rows * width), || {
        cpu.answer(a, &logits, &mut out)
    })?;
    let s = PoolShape {
        views: 20,
        rows: 256,
        heads: 8,
        head_dim: 16,
    };
    let (x, mut out) = (cpu.zeros(20 * 256 * 136)?, cpu.zeros(20 * 128)?);
    time(
        c,
        "pool_rows/f32/v20_r256_h8_d16",
        floats(20 * 256 * 136),
        || cpu.pool_rows(s, &x, &mut out),
    )?;
    let s = GatherShape {
        rows: 256,
        width: 512,
        table_rows: 256,
    };
    let index = buffer(cpu, &(0..256).rev().collect::<Vec<u32>>())?;
    let mut out = cpu.zeros(256 * 512)?;
    time(c, "gather/f32/r256_w512", floats(2 * 256 * 512), || {
        cpu.gather(s, &index, &logits, &mut out)
    })?;
    let table = cpu.matrix(Format::Q8_0, 256, 512)?;
    let amount = Throughput::Bytes(256 * 512 / 32 * 34 + 256 * 512 * 4);
    time(c, "gather_rows/q8_0/r256_w512", amount, || {
        cpu.gather_rows(s, &index, &table, &mut out)
    })?;
    let s = LfqShape { n: 256, bits: 13 };
    let mut codes = buffer(cpu, &(0..256).collect::<Vec<u32>>())?;
    time(c, "lfq_lookup/f32/n256_b13", floats(256 * 14), || {
        cpu.lfq_lookup(s, &codes, &mut out)
    })?;
    time(c, "lfq_codes/f32/n256_b13", floats(256 * 14), || {
        cpu.lfq_codes(s, &out, &mut codes)
    })?;
    let s = NearestShape {
        n: 256,
        width: 8,
        entries: 16384,
        normalise: true,
    };
    let codebook = random(cpu, s.entries * s.width)?;
    let amount = Throughput::Elements((s.n * s.entries * s.width) as u64);
    time(c, "nearest/f32/n256_v16384_d8", amount, || {
        cpu.nearest(s, &out, &codebook, &mut codes)
    })?;
    Ok(())
}

fn main() -> ExitCode {
    let cpu = Cpu::new();
    run(|c| {
        products(c, &cpu)?;
        convolutions(c, &cpu)?;
        attentions(c, &cpu)?;
        norms(c, &cpu)?;
        draws(c, &cpu)
    })
}

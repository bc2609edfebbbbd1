//! How kernels access memory, and what the assembler says of them.

use std::fmt::Write;

use maquette::ops::Backend;
use maquette::ops::attention::{AttentionShape, KvFormat};
use maquette::ops::gemm::{Activations, GemmShape};
use maquette::quant::{Format, QuantMatrix};

use super::{gpu, numbers};

/// The kernel of a product with rows in 8 bits, of a matrix with so many outputs.
fn kernel(format: Format, rows: usize, n: usize) -> String {
    let name = match format {
        Format::Q8_0 => "q8",
        Format::Q4K => "q4k",
        Format::Q4G128 => "q4g",
        _ => "q4",
    };
    let rows = match rows {
        1 => "one",
        2 => "two",
        3..=4 => "four",
        5..=8 => "few",
        9..=16 if n < BROAD => "narrow_2",
        17..=32 if n < BROAD => "narrow_4",
        33..=48 if n < BROAD => "narrow_6",
        _ if n < BROAD => "narrow_8",
        ..=24 => "broad_3",
        25..=40 => "broad_5",
        _ => "broad_8",
    };
    format!("gemm_{name}_{rows}")
}

/// Registers of a kernel's thread, by the assembler's table.
fn registers(kernel: &str, sm: &str) -> u64 {
    let table = include_str!("../../kernels/ptx/registers.tsv");
    let row = table.lines().find_map(|line| {
        let row: Vec<&str> = line.split('\t').collect();
        (row[1] == kernel && row[2] == sm).then(|| row[3].parse().unwrap())
    });
    row.unwrap()
}

/// Blocks of threads that a multiprocessor of compute capability 8.0 holds at once: as many as its shared memory,
/// threads and registers have room for.
fn resident(kernel: &str, shared_bytes: u64, threads: u64) -> u64 {
    // The driver takes a kilobyte of each block's shared memory, and gives registers to a warp in portions of 256.
    let registers = (registers(kernel, "80") * 32).next_multiple_of(256) * (threads / 32);
    let shared = (164 << 10) / (shared_bytes + 1024);
    shared.min(2048 / threads).min(65_536 / registers).min(32)
}

/// Outputs of a matrix whose strips are more than a large GPU has multiprocessors.
const BROAD: usize = 134 * 32;

/// Figures of the products' access patterns, as they are checked in, and what must hold of them whatever they are.
/// `MAQUETTE_COUNTERS=write` writes them anew.
#[test]
fn products_access_memory_as_recorded() {
    let device = gpu::device();
    let mut table = "format\tactivations\trows\toutputs\tlane instructions a weight\tuseful of sector bytes\tbank conflicts\t\
        bytes in flight a block\tof a multiprocessor\n"
        .to_owned();
    for &format in Format::ALL {
        let matrix = |n, k| {
            let data = numbers(n * k, 1);
            let mut bytes = vec![0; format.bytes(n, k).unwrap()];
            format.quantise(&data, &mut bytes);
            let w = match format {
                Format::F32 => QuantMatrix::f32(n, k, &data),
                _ => QuantMatrix::from_bytes(format, n, k, &bytes),
            };
            (n, k, device.pack(&w.unwrap()).unwrap())
        };
        let (narrow, broad) = (matrix(128, 4096), matrix(BROAD, 512));
        for activations in [Activations::F32, Activations::A8] {
            let integers = activations == Activations::A8;
            if integers && format.block() == 1 {
                continue;
            }
            // Rows of floats are taken by fours.
            let (rows, broad_rows): (&[usize], &[usize]) = match integers {
                true => (&[1, 2, 4, 8, 16, 20, 40, 64, 128], &[20, 40, 64]),
                false => (&[1, 4], &[]),
            };
            let narrow = rows.iter().map(|&m| (m, &narrow));
            let broad = broad_rows.iter().map(|&m| (m, &broad));
            for (m, (n, k, w)) in narrow.chain(broad) {
                let (n, k) = (*n, *k);
                let (x, mut y) = (device.zeros(m * k).unwrap(), device.zeros(m * n).unwrap());
                let s = GemmShape {
                    activations,
                    ..GemmShape::new(m, n, k)
                };
                let counters = gpu::counted(|| device.gemm(s, &x, w, None, &mut y).unwrap());
                let Some(
                    [
                        _,
                        lanes,
                        useful,
                        sectors,
                        _,
                        conflicts,
                        flight,
                        shared,
                        threads,
                    ],
                ) = counters
                else {
                    return;
                };
                let lanes = lanes as f64 / (n * k) as f64;
                let useful = useful as f64 / sectors as f64;
                let all = match integers {
                    true => flight * resident(&kernel(format, m, n), shared, threads),
                    false => 0,
                };
                writeln!(
                    table,
                    "{}\t{}\t{m}\t{n}\t{lanes:.3}\t{useful:.4}\t{conflicts}\t{flight}\t{all}",
                    format.name(),
                    activations.name(),
                )
                .unwrap();
                let what = format!("{format:?}, {s:?}");
                assert!(useful >= 0.97, "{what}: {useful} of the bytes are useful");
                assert_eq!(conflicts, 0, "{what}: conflicts");
                if integers {
                    assert!(all >= 32 << 10, "{what}: {all} bytes in flight");
                }
                if integers && m == 1 && format != Format::Q8_0 {
                    assert!(lanes <= 4.5, "{what}: {lanes} instructions");
                }
            }
        }
    }
    compare("counters.tsv", &table);
}

/// Compares figures with what is checked in, or writes them there.
fn compare(name: &str, table: &str) {
    let file = format!("{}/kernels/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MAQUETTE_COUNTERS").is_some_and(|v| v == "write") {
        std::fs::write(&file, table).unwrap();
    }
    let recorded = std::fs::read_to_string(file).unwrap();
    assert!(table == recorded, "recorded:\n{recorded}\nnow:\n{table}");
}

/// The same for attention of two query rows over long caches.
#[test]
fn long_caches_are_read_as_recorded() {
    let device = gpu::device();
    let (heads, kv_rows, seen) = (2, 640, 576);
    let spans = [0, 64, 64, 512, 0, 64, 100, 512];
    let mut table =
        "cache\thead\tlane instructions an element\tuseful of sector bytes\tbank conflicts\t\
        bytes in flight a block\tof a multiprocessor\n"
            .to_owned();
    for kv in [KvFormat::F32, KvFormat::Q8] {
        for head_dim in [64, 72, 100, 128] {
            let row = kv.words(head_dim);
            let s = AttentionShape {
                sequences: 2,
                queries: 1,
                n_heads: heads,
                n_kv_heads: heads,
                head_dim,
                q_stride: heads * head_dim,
                q_offset: 0,
                kv_rows,
                kv_stride: row,
                kv_head_stride: kv_rows * row,
                k_offset: 0,
                v_offset: 0,
                causal: true,
                repeated_prefix: false,
                pages: 0,
            };
            let width = heads * head_dim;
            let mut q = device.zeros(2 * width).unwrap();
            device.write(&mut q, 0, &numbers(2 * width, 1)).unwrap();
            let mut of = device.zeros(spans.len()).unwrap();
            device.write(&mut of, 0, &spans).unwrap();
            let mut out = device.zeros(2 * width).unwrap();
            let len = kv_rows * heads * row;
            let counters = match kv {
                KvFormat::F32 => {
                    let kv = device.zeros(len).unwrap();
                    let run = || device.attention(s, &q, &kv, &kv, &of, &mut out).unwrap();
                    gpu::counted(run)
                }
                _ => {
                    let kv = device.zeros(len).unwrap();
                    let run = || device.attention_q8(s, &q, &kv, &kv, &of, &mut out).unwrap();
                    gpu::counted(run)
                }
            };
            let Some(
                [
                    _,
                    lanes,
                    useful,
                    sectors,
                    turns,
                    conflicts,
                    flight,
                    shared,
                    threads,
                ],
            ) = counters
            else {
                return;
            };
            let lanes = lanes as f64 / (2 * heads * seen * 2 * head_dim) as f64;
            let useful = useful as f64 / sectors as f64;
            let columns = head_dim.next_multiple_of(64);
            let kernel = match kv {
                KvFormat::F32 => format!("attention_few_{columns}"),
                _ => format!("attention_few_q8_{columns}"),
            };
            let all = flight * resident(&kernel, shared, threads);
            writeln!(
                table,
                "{}\t{head_dim}\t{lanes:.3}\t{useful:.4}\t{conflicts}\t{flight}\t{all}",
                kv.name(),
            )
            .unwrap();
            // Of copies that go on in another row and of single scales: reading 16 bytes a lane meets none.
            assert!(conflicts * 3 <= turns, "{kv:?}, {head_dim}: {conflicts}");
            assert!(all >= 32 << 10, "{kv:?}, {head_dim}: {all} bytes in flight");
        }
    }
    compare("decode.tsv", &table);
}

/// The same for attention of many query rows: 80 of them and 96 rows of a cache.
#[test]
fn tiles_access_memory_as_recorded() {
    let device = gpu::device();
    let (queries, heads, kv_rows) = (80, 2, 96);
    let mut table =
        "cache\thead\tlane instructions a product\tuseful of sector bytes\tturns of shared memory\t\
        bank conflicts\n"
            .to_owned();
    for (kv, head_dim) in [
        (KvFormat::F32, 64),
        (KvFormat::F32, 72),
        (KvFormat::F32, 100),
        (KvFormat::F32, 128),
        (KvFormat::F32, 512),
        (KvFormat::Q8, 64),
        (KvFormat::Q8, 72),
        (KvFormat::Q8, 100),
        (KvFormat::Q8, 128),
    ] {
        let row = kv.words(head_dim);
        let width = heads * head_dim;
        let s = AttentionShape {
            sequences: 1,
            queries,
            n_heads: heads,
            n_kv_heads: heads,
            head_dim,
            q_stride: width,
            q_offset: 0,
            kv_rows,
            kv_stride: row,
            kv_head_stride: kv_rows * row,
            k_offset: 0,
            v_offset: 0,
            causal: false,
            repeated_prefix: false,
            pages: 0,
        };
        let q = device.zeros(queries * width).unwrap();
        let mut of = device.zeros(4).unwrap();
        let spans = [0, 0, 0, 96];
        device.write(&mut of, 0, &spans).unwrap();
        let mut out = device.zeros(queries * width).unwrap();
        let len = kv_rows * heads * row;
        let counters = match kv {
            KvFormat::F32 => {
                let kv = device.zeros(len).unwrap();
                gpu::counted(|| device.attention(s, &q, &kv, &kv, &of, &mut out).unwrap())
            }
            _ => {
                let kv = device.zeros(len).unwrap();
                gpu::counted(|| device.attention_q8(s, &q, &kv, &kv, &of, &mut out).unwrap())
            }
        };
        let Some([_, lanes, useful, sectors, turns, conflicts, ..]) = counters else {
            return;
        };
        let lanes = lanes as f64 / s.multiply_adds(&spans) as f64;
        let useful = useful as f64 / sectors as f64;
        writeln!(
            table,
            "{}\t{head_dim}\t{lanes:.3}\t{useful:.4}\t{turns}\t{conflicts}",
            kv.name()
        )
        .unwrap();
    }
    compare("tiles.tsv", &table);
}

/// The same for gradients of products and of attention: 32 rows of every format, and a head of 64 over 128 rows.
#[cfg(feature = "align")]
#[test]
fn gradients_access_memory_as_recorded() {
    use maquette::ops::Backward;
    use maquette::ops::backward::attention::SelfAttentionShape;

    let device = gpu::device();
    let mut table =
        "gradient\tlane instructions a product\tuseful of sector bytes\tturns of shared memory\t\
        bank conflicts\n"
            .to_owned();
    let mut note = |name: &str, products: usize, run: &mut dyn FnMut()| {
        let Some([_, lanes, useful, sectors, turns, conflicts, ..]) = gpu::counted(run) else {
            return false;
        };
        let lanes = lanes as f64 / products as f64;
        let useful = useful as f64 / sectors as f64;
        writeln!(
            table,
            "{name}\t{lanes:.3}\t{useful:.4}\t{turns}\t{conflicts}"
        )
        .unwrap();
        assert!(useful >= 0.97, "{name}: {useful} of the bytes are useful");
        assert_eq!(conflicts, 0, "{name}: conflicts");
        true
    };
    let (m, n, k) = (32, 256, 256);
    let s = GemmShape::new(m, n, k);
    let (x, dy) = (device.zeros(m * k).unwrap(), device.zeros(m * n).unwrap());
    for &format in Format::ALL {
        let data = numbers(n * k, 1);
        let mut bytes = vec![0; format.bytes(n, k).unwrap()];
        format.quantise(&data, &mut bytes);
        let w = match format {
            Format::F32 => QuantMatrix::f32(n, k, &data),
            _ => QuantMatrix::from_bytes(format, n, k, &bytes),
        };
        let w = device.pack(&w.unwrap()).unwrap();
        let mut dx = device.zeros(m * k).unwrap();
        let name = format!("inputs, {}", format.name());
        if !note(&name, m * n * k, &mut || {
            device.gemm_dx(s, &dy, &w, &mut dx).unwrap();
        }) {
            return;
        }
    }
    let mut dw = device.zeros(n * k).unwrap();
    note("weights", m * n * k, &mut || {
        device.gemm_dw(s, &dy, &x, &mut dw).unwrap();
    });
    let s = SelfAttentionShape {
        rows: 128,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 64,
        causal: 0,
    };
    let (qkv, dy) = (
        device.zeros(s.rows * s.stride()).unwrap(),
        device.zeros(s.rows * s.head_dim).unwrap(),
    );
    let mut dqkv = device.zeros(s.rows * s.stride()).unwrap();
    // Of scores and of values, and the three sums.
    let products = 5 * s.rows * s.rows * s.head_dim;
    note("attention", products, &mut || {
        device.attention_dx(s, &qkv, &dy, &mut dqkv).unwrap();
    });
    compare("backward.tsv", &table);
}

/// The assembler's table: no kernel keeps registers in memory on any architecture.
#[test]
fn no_kernel_spills() {
    let table = include_str!("../../kernels/ptx/registers.tsv");
    let mut kernels = 0;
    for line in table.lines().skip(1) {
        let row: Vec<&str> = line.split('\t').collect();
        assert_eq!(row[4..6], ["0", "0"], "{line}");
        kernels += usize::from(row[0].starts_with("gemm") && row[2] == "80");
    }
    assert_eq!(kernels, 49);
}

/// Warps that take more registers wait until others of their block have given as many: if those never do, the GPU hangs, and no
/// interpreter of PTX sees it.
#[test]
fn registers_that_warps_take_are_there() {
    let ptx = include_str!("../../kernels/ptx/wide_90a.ptx");
    let mut kernels = 0;
    for text in ptx.split(".visible .entry ").skip(1) {
        let behind = |what: &str| -> Option<u64> {
            let number = text.split_once(what)?.1.split([',', ';']).next();
            number.map(|number| number.trim().parse().unwrap())
        };
        let Some(taken) = behind("setmaxnreg.inc.sync.aligned.u32") else {
            continue;
        };
        let left = behind("setmaxnreg.dec.sync.aligned.u32").unwrap();
        // The name ends with outputs and rows; four warps multiply 64 outputs.
        let (name, _) = text.split_once('(').unwrap();
        let outputs = name
            .rsplit('_')
            .next()
            .and_then(|size| size.split('x').next());
        let multiply = outputs.unwrap().parse::<u64>().unwrap() / 64 * 4;
        let warps = behind(".maxntid").unwrap() / 32;
        let wanted = multiply * taken + (warps - multiply) * left;
        assert!(
            warps > multiply && wanted <= warps * registers(name, "90a"),
            "{name}: {wanted}"
        );
        kernels += 1;
    }
    assert_eq!(kernels, 15);
}

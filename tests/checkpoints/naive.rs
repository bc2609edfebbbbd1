//! The plainest readers: no checks, whole copies. What the crate's readers accept, these must read alike.
//!
//! Each function takes any bytes; it panics where the two readers differ, which is what a fuzzer looks for.

// By its path, since the fuzz targets have this file by its path, too.
#[path = "naive/header.rs"]
mod header;

use std::collections::{BTreeMap, HashMap};

use maquette::model::files::gguf::GgufSource;
use maquette::model::files::safetensors::SafetensorsSource;
use maquette::model::files::torch::TorchSource;
use maquette::model::weights::WeightSource;
use maquette::quant::{Block, Format};

use self::header::Header;

/// Element type, sizes, elements.
type Plain = (String, Vec<usize>, Vec<u8>);

fn tensors(source: &dyn WeightSource) -> BTreeMap<String, Plain> {
    let mut all = BTreeMap::new();
    source.names(&mut |name| {
        let t = source.tensor(name).expect("a name that was shown");
        let plain = (t.dtype.name().to_owned(), t.shape, t.bytes.to_vec());
        assert!(all.insert(name.to_owned(), plain).is_none(), "{name} twice");
    });
    all
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

/// Any bytes as a safetensors file; whether they were accepted.
pub fn safetensors(bytes: &[u8]) -> bool {
    let Ok(source) = SafetensorsSource::new(bytes) else {
        return false;
    };
    let end = 8 + word(bytes, 0);
    let Header(infos) = serde_json::from_slice(&bytes[8..end]).unwrap();
    let mut want = BTreeMap::new();
    for (name, info) in infos {
        let [from, to] = info.data_offsets;
        let data = bytes[end + from..end + to].to_vec();
        want.insert(name, (info.dtype, info.shape, data));
    }
    let mut got = tensors(&source);
    for (name, plain) in &mut got {
        if plain.0 == "another type" {
            plain.0.clone_from(&want[name].0);
        }
    }
    assert_eq!(got, want);
    true
}

/// Any bytes as a GGUF file; whether they were accepted.
pub fn gguf(bytes: &[u8]) -> bool {
    let Ok(source) = GgufSource::new(bytes) else {
        return false;
    };
    let mut at = 4;
    let take = |at: &mut usize, n: usize| {
        *at += n;
        &bytes[*at - n..*at]
    };
    let number = |at: &mut usize, n: usize| {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(take(at, n));
        usize::try_from(u64::from_le_bytes(wide)).unwrap()
    };
    let text = |at: &mut usize| {
        let len = number(at, 8);
        String::from_utf8(take(at, len).to_vec()).unwrap()
    };
    fn skip(bytes: &[u8], at: &mut usize, kind: usize) {
        match kind {
            0 | 1 | 7 => *at += 1,
            2 | 3 => *at += 2,
            4..=6 => *at += 4,
            8 => *at += 8 + word(bytes, *at),
            9 => {
                let kind = u32::from_le_bytes(bytes[*at..*at + 4].try_into().unwrap());
                let len = word(bytes, *at + 4);
                *at += 12;
                (0..len).for_each(|_| skip(bytes, at, kind as usize));
            }
            _ => *at += 8,
        }
    }
    at += 4;
    let (n_tensors, n_entries) = (number(&mut at, 8), number(&mut at, 8));
    let (mut keys, mut alignment) = (Vec::new(), 32);
    for _ in 0..n_entries {
        let (key, kind) = (text(&mut at), number(&mut at, 4));
        let from = at;
        skip(bytes, &mut at, kind);
        if key == "general.alignment" {
            alignment = number(&mut from.clone(), at - from);
        }
        keys.push(key);
    }
    keys.sort();
    let mut got_keys = Vec::new();
    source.keys(&mut |key| got_keys.push(key.to_owned()));
    assert_eq!(got_keys, keys);

    let mut infos = Vec::new();
    for _ in 0..n_tensors {
        let (name, dims) = (text(&mut at), number(&mut at, 4));
        let mut shape: Vec<_> = (0..dims).map(|_| number(&mut at, 8)).collect();
        shape.reverse();
        infos.push((name, shape, number(&mut at, 4), number(&mut at, 8)));
    }
    let start = at.next_multiple_of(alignment);
    let got = tensors(&source);
    assert_eq!(got.len(), infos.len());
    for (name, shape, kind, from) in infos {
        let (dtype, got_shape, data) = &got[&name];
        assert_eq!(*got_shape, shape, "{name}");
        let len: usize = shape.iter().product();
        let known = [
            (0, "F32", 1, 4),
            (1, "F16", 1, 2),
            (30, "BF16", 1, 2),
            (2, "Q4_0", 32, 18),
            (8, "Q8_0", 32, 34),
            (7, "Q5_1", 32, 24),
        ];
        if let Some((_, name, piece, size)) = known.into_iter().find(|k| k.0 == kind) {
            assert_eq!(dtype, name);
            assert_eq!(data.len(), len / piece * size);
        }
        assert_eq!(bytes[start + from..][..data.len()], *data, "{name}");
    }
    true
}

/// A pickle's value, copied wherever it is used.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Other,
    Int(i64),
    Text(String),
    Name(String),
    Items(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// Name of the class, key.
    Storage(String, String),
    /// Storage, offset, shape, strides.
    Tensor(Box<(Value, usize, Vec<usize>, Vec<usize>)>),
}

/// Containers are filled after they were put into others, so they are known by their place here.
#[derive(Clone, Copy)]
struct Slot(usize);

/// Any bytes as a file of `torch.save`; whether they were accepted.
pub fn torch(bytes: &[u8]) -> bool {
    let Ok(source) = TorchSource::new(bytes) else {
        return false;
    };
    let files = unzip(bytes);
    let (folder, pickle) = files
        .iter()
        .find_map(|(name, data)| Some((name.strip_suffix("/data.pkl")?, data)))
        .unwrap();
    let root = unpickle(pickle);
    let Value::Dict(root) = root else {
        panic!("the root is no dictionary")
    };
    let under = |key: &str| {
        let found = root
            .iter()
            .find(|(k, v)| *k == Value::Text(key.to_owned()) && matches!(v, Value::Dict(_)));
        found.map(|(_, v)| v.clone())
    };
    let weights = ["model", "module", "state_dict"]
        .into_iter()
        .find_map(under);
    let Value::Dict(weights) = weights.unwrap_or(Value::Dict(root.clone())) else {
        panic!("the weights are no dictionary")
    };
    let mut want = BTreeMap::new();
    for (key, value) in weights {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else {
            continue;
        };
        let (Value::Storage(class, key), offset, shape, strides) = *tensor else {
            panic!("no storage")
        };
        let (dtype, size) = match &*class {
            "FloatStorage" => ("F32", 4),
            "HalfStorage" => ("F16", 2),
            "BFloat16Storage" => ("BF16", 2),
            "LongStorage" => ("I64", 8),
            "DoubleStorage" => ("F64", 8),
            "IntStorage" => ("I32", 4),
            "ShortStorage" => ("I16", 2),
            "CharStorage" => ("I8", 1),
            "ByteStorage" => ("U8", 1),
            "BoolStorage" => ("BOOL", 1),
            other => panic!("{other}"),
        };
        let data = &files[&format!("{folder}/data/{key}")];
        let len: usize = shape.iter().product();
        let mut out = Vec::new();
        for i in 0..len {
            let (mut rest, mut at) = (i, offset);
            for (size, stride) in shape.iter().zip(&strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            out.extend(&data[at * size..(at + 1) * size]);
        }
        want.insert(name, (dtype.to_owned(), shape, out));
    }
    assert_eq!(tensors(&source), want);
    true
}

/// The entries by the central directory, found from the last end record.
fn unzip(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let half = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let four = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let end = (0..=bytes.len() - 22)
        .rev()
        .find(|&at| four(at) == 0x0605_4b50)
        .unwrap();
    let (mut count, mut at) = (half(end + 10), four(end + 16));
    if end >= 20 && four(end - 20) == 0x0706_4b50 {
        let far = word(bytes, end - 12);
        (count, at) = (word(bytes, far + 32), word(bytes, far + 48));
    }
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let lens = [half(at + 28), half(at + 30), half(at + 32)];
        let name = String::from_utf8(bytes[at + 46..][..lens[0]].to_vec()).unwrap();
        let (len, local) = (four(at + 24), four(at + 42));
        let data = local + 30 + half(local + 26) + half(local + 28);
        files.insert(name, bytes[data..data + len].to_vec());
        at += 46 + lens.iter().sum::<usize>();
    }
    files
}

#[derive(Clone)]
enum Item {
    Plain(Value),
    Slot(Slot),
    Mark,
}

fn unpickle(bytes: &[u8]) -> Value {
    let mut at = 0;
    let (mut stack, mut slots): (Vec<Item>, Vec<(bool, Vec<Item>)>) = (Vec::new(), Vec::new());
    let mut memo: HashMap<usize, Item> = HashMap::new();
    fn settle(item: &Item, slots: &[(bool, Vec<Item>)], depth: usize) -> Value {
        match item {
            Item::Plain(v) => v.clone(),
            Item::Mark => panic!("a mark as a value"),
            // Deeper than any tensor lies, or round in a circle.
            Item::Slot(_) if depth > 3 => Value::Other,
            Item::Slot(Slot(at)) => {
                let (dict, items) = &slots[*at];
                let items = items.iter().map(|i| settle(i, slots, depth + 1));
                if *dict {
                    let items: Vec<_> = items.collect();
                    let pairs = items.chunks_exact(2);
                    Value::Dict(pairs.map(|p| (p[0].clone(), p[1].clone())).collect())
                } else {
                    Value::Items(items.collect())
                }
            }
        }
    }
    loop {
        let code = bytes[at];
        at += 1;
        let mut take = |n: usize| {
            at += n;
            &bytes[at - n..at]
        };
        let little = |b: &[u8]| {
            b.iter()
                .rev()
                .fold(0_usize, |n, d| n << 8 | usize::from(*d))
        };
        macro_rules! since_mark {
            () => {{
                let mark = stack.iter().rposition(|i| matches!(i, Item::Mark)).unwrap();
                let items = stack.split_off(mark + 1);
                stack.pop();
                items
            }};
        }
        macro_rules! container {
            ($dict:expr, $items:expr) => {{
                slots.push(($dict, $items));
                stack.push(Item::Slot(Slot(slots.len() - 1)));
            }};
        }
        macro_rules! extend {
            ($items:expr) => {{
                let items = $items;
                let Some(Item::Slot(Slot(at))) = stack.last() else {
                    panic!("nothing to add to")
                };
                slots[*at].1.extend(items);
            }};
        }
        match code {
            0x80 => drop(take(1)),
            0x95 => drop(take(8)),
            b'.' => return settle(&stack.pop().unwrap(), &slots, 0),
            b'(' => stack.push(Item::Mark),
            b'0' => drop(stack.pop()),
            b'1' => drop(since_mark!()),
            b'2' => stack.push(stack.last().unwrap().clone()),
            b'N' | 0x88 | 0x89 => stack.push(Item::Plain(Value::Other)),
            b'G' => {
                take(8);
                stack.push(Item::Plain(Value::Other));
            }
            b'K' | b'M' | b'J' | 0x8a => {
                let n = match code {
                    b'K' => i64::from(take(1)[0]),
                    b'M' => i64::from(u16::from_le_bytes(take(2).try_into().unwrap())),
                    b'J' => i64::from(i32::from_le_bytes(take(4).try_into().unwrap())),
                    _ => {
                        let len = usize::from(take(1)[0]);
                        let digits = take(len);
                        if len > 8 {
                            stack.push(Item::Plain(Value::Other));
                            continue;
                        }
                        let sign = digits.last().is_some_and(|d| *d > 127);
                        let mut wide = [if sign { 255 } else { 0 }; 8];
                        wide[..len].copy_from_slice(digits);
                        i64::from_le_bytes(wide)
                    }
                };
                stack.push(Item::Plain(Value::Int(n)));
            }
            b'X' | 0x8c | 0x8d => {
                let len = little(take(match code {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                }));
                let text = String::from_utf8(take(len).to_vec()).unwrap();
                stack.push(Item::Plain(Value::Text(text)));
            }
            b'}' => container!(true, vec![]),
            b']' | b')' => container!(false, vec![]),
            b'l' | b't' => container!(false, since_mark!()),
            b'd' => container!(true, since_mark!()),
            0x85..=0x87 => {
                let items = stack.split_off(stack.len() - usize::from(code - 0x84));
                container!(false, items);
            }
            b'a' => extend!(stack.pop()),
            b'e' | b'u' => extend!(since_mark!()),
            b's' => extend!(stack.split_off(stack.len() - 2)),
            b'q' | b'r' => {
                let key = little(take(if code == b'q' { 1 } else { 4 }));
                memo.insert(key, stack.last().unwrap().clone());
            }
            0x94 => {
                memo.insert(memo.len(), stack.last().unwrap().clone());
            }
            b'h' | b'j' => {
                let key = little(take(if code == b'h' { 1 } else { 4 }));
                stack.push(memo[&key].clone());
            }
            b'c' => {
                let mut line = || {
                    let from = at;
                    while bytes[at] != b'\n' {
                        at += 1;
                    }
                    at += 1;
                    String::from_utf8(bytes[from..at - 1].to_vec()).unwrap()
                };
                line();
                stack.push(Item::Plain(Value::Name(line())));
            }
            0x93 => {
                let name = stack.split_off(stack.len() - 2).pop().unwrap();
                let Value::Text(name) = settle(&name, &slots, 0) else {
                    panic!("a name that is no text")
                };
                stack.push(Item::Plain(Value::Name(name)));
            }
            b'b' => drop(stack.pop()),
            b'Q' => {
                let id = settle(&stack.pop().unwrap(), &slots, 0);
                let Value::Items(id) = id else {
                    panic!("{id:?}")
                };
                let [_, Value::Name(class), Value::Text(key), ..] = &*id else {
                    panic!("{id:?}")
                };
                stack.push(Item::Plain(Value::Storage(class.clone(), key.clone())));
            }
            b'R' => {
                let args = stack.pop().unwrap();
                let Value::Name(callee) = settle(&stack.pop().unwrap(), &slots, 0) else {
                    panic!("a call of no name")
                };
                let Item::Slot(Slot(mut from)) = args else {
                    panic!("a call without a tuple")
                };
                let mut callee = callee;
                if callee == "_rebuild_from_type_v2" {
                    let Value::Name(inner) = settle(&slots[from].1[0], &slots, 0) else {
                        panic!("a call of no name")
                    };
                    callee = inner;
                    let Item::Slot(Slot(args)) = slots[from].1[2] else {
                        panic!("a call without a tuple")
                    };
                    from = args;
                }
                match &*callee {
                    "OrderedDict" => container!(true, vec![]),
                    "_rebuild_tensor_v2" => {
                        let a: Vec<_> = slots[from].1[..4]
                            .iter()
                            .map(|i| settle(i, &slots, 0))
                            .collect();
                        let whole = |v: &Value| match v {
                            Value::Int(n) => usize::try_from(*n).unwrap(),
                            other => panic!("{other:?}"),
                        };
                        let list = |v: &Value| match v {
                            Value::Items(items) => items.iter().map(whole).collect(),
                            other => panic!("{other:?}"),
                        };
                        let tensor = (a[0].clone(), whole(&a[1]), list(&a[2]), list(&a[3]));
                        stack.push(Item::Plain(Value::Tensor(Box::new(tensor))));
                    }
                    _ => stack.push(slots[from].1[0].clone()),
                }
            }
            other => panic!("instruction {other}"),
        }
    }
}

/// Any bytes as numbers and as blocks: nothing panics, and small numbers come back finite.
pub fn quant(bytes: &[u8]) {
    let floats = bytes.as_chunks::<4>().0.iter();
    let x: Vec<f32> = floats.map(|b| f32::from_le_bytes(*b)).collect();
    // Scales of half precision reach no further.
    let small = x.iter().all(|v| v.abs() < 65504.0);
    for &block in Block::ALL {
        let n = x.len() / block.len();
        let (mut blocks, mut back) = (vec![0; n * block.bytes()], vec![0.0; n * block.len()]);
        if block.quantise(&x, &mut blocks).is_ok() {
            block.dequantise(&blocks, &mut back);
            let finite = back.iter().all(|v| v.is_finite());
            assert!(finite || !small, "{}", block.name());
        }
        let mut any = vec![0.0; bytes.len() / block.bytes() * block.len()];
        block.dequantise(bytes, &mut any);
    }
    for &format in Format::ALL {
        let n = x.len() / format.block();
        let mut kept = vec![0; n * format.block_bytes()];
        let mut back = vec![0.0; n * format.block()];
        format.quantise(&x, &mut kept);
        format.dequantise(&kept, &mut back);
        let finite = back.iter().all(|v| v.is_finite());
        assert!(finite || !small, "{}", format.name());
    }
}

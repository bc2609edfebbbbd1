//! Files put together byte by byte, so that each of their lies can be told alone.

/// Entries of a zip archive, stored as they are.
#[derive(Default)]
pub struct Zip {
    body: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    pub fn entry(self, name: &str, data: &[u8]) -> Self {
        let len = u32::try_from(data.len()).unwrap();
        self.raw(name, name, 0, [len, len], data, None)
    }

    /// An entry whose directory may say what it likes.
    pub fn raw(
        mut self,
        name: &str,
        listed: &str,
        method: u16,
        sizes: [u32; 2],
        data: &[u8],
        at: Option<u32>,
    ) -> Self {
        let start = u32::try_from(self.body.len()).unwrap();
        let name_len = u16::try_from(name.len()).unwrap();
        let header = |signature: u32, made: &[u8]| {
            let mut h = signature.to_le_bytes().to_vec();
            h.extend(made);
            h.extend([0, 0, 0, 0]);
            h.extend(method.to_le_bytes());
            h.extend([0; 8]);
            h.extend(sizes[0].to_le_bytes());
            h.extend(sizes[1].to_le_bytes());
            h
        };
        self.body.extend(header(0x0403_4b50, &[]));
        self.body.extend(name_len.to_le_bytes());
        self.body.extend([0, 0]);
        self.body.extend(name.as_bytes());
        self.body.extend(data);
        self.directory.extend(header(0x0201_4b50, &[0, 0]));
        self.directory
            .extend(u16::try_from(listed.len()).unwrap().to_le_bytes());
        self.directory.extend([0; 12]);
        self.directory.extend(at.unwrap_or(start).to_le_bytes());
        self.directory.extend(listed.as_bytes());
        self.count += 1;
        self
    }

    pub fn end(self) -> Vec<u8> {
        let mut out = self.body;
        let at = u32::try_from(out.len()).unwrap();
        let len = u32::try_from(self.directory.len()).unwrap();
        out.extend(self.directory);
        out.extend(0x0605_4b50_u32.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.count.to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend(at.to_le_bytes());
        out.extend([0, 0]);
        out
    }
}

/// A pickle, instruction by instruction.
#[derive(Clone)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn code(mut self, code: &[u8]) -> Self {
        self.0.extend(code);
        self
    }

    pub fn text(mut self, text: &str) -> Self {
        self.0.push(b'X');
        self.0
            .extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub fn int(mut self, n: i64) -> Self {
        self.0.extend([0x8a, 8]);
        self.0.extend(n.to_le_bytes());
        self
    }

    pub fn global(mut self, module: &str, name: &str) -> Self {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
        self
    }

    pub fn ints(self, list: &[i64]) -> Self {
        list.iter()
            .fold(self.code(b"("), |p, &n| p.int(n))
            .code(b"t")
    }

    /// A tensor of F32: storage key and length, offset, shape, strides.
    pub fn tensor(self, key: &str, len: i64, at: i64, shape: &[i64], strides: &[i64]) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .code(b"((")
            .text("storage")
            .global("torch", "FloatStorage")
            .text(key)
            .text("cpu")
            .int(len)
            .code(b"tQ")
            .int(at)
            .ints(shape)
            .ints(strides)
            .code(&[0x89])
            .global("collections", "OrderedDict")
            .code(b")RtR")
    }

    /// The archive around it, with these storages of so many bytes.
    pub fn file(self, storages: &[(&str, usize)]) -> Vec<u8> {
        let zip = Zip::default().entry("archive/data.pkl", &self.code(b".").0);
        storages
            .iter()
            .fold(zip, |zip, (key, len)| {
                zip.entry(&format!("archive/data/{key}"), &vec![0; *len])
            })
            .end()
    }
}

/// A GGUF file, field by field.
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    entries: Vec<u8>,
    n_entries: u64,
    infos: Vec<u8>,
    n_infos: u64,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Gguf {
    pub fn new() -> Self {
        Self {
            version: 3,
            alignment: 32,
            entries: Vec::new(),
            n_entries: 0,
            infos: Vec::new(),
            n_infos: 0,
            data: Vec::new(),
        }
    }

    /// A metadata entry: kind, and the value's bytes.
    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.extend(text(key));
        self.entries.extend(kind.to_le_bytes());
        self.entries.extend(value);
        self.n_entries += 1;
        self
    }

    /// A line of the table: sizes as stored, innermost first.
    pub fn line(mut self, name: &str, sizes: &[u64], kind: u32, at: u64) -> Self {
        self.infos.extend(text(name));
        self.infos
            .extend(u32::try_from(sizes.len()).unwrap().to_le_bytes());
        self.infos
            .extend(sizes.iter().flat_map(|n| n.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(at.to_le_bytes());
        self.n_infos += 1;
        self
    }

    /// A tensor after the last one.
    pub fn tensor(mut self, name: &str, sizes: &[u64], kind: u32, bytes: &[u8]) -> Self {
        let at = self.data.len().next_multiple_of(self.alignment);
        self.data.resize(at, 0);
        self.data.extend(bytes);
        self.line(name, sizes, kind, at as u64)
    }

    /// Bytes after the table.
    pub fn bytes(mut self, len: usize) -> Self {
        self.data.resize(len, 0);
        self
    }

    pub fn end(self) -> Vec<u8> {
        let counts = [self.n_infos, self.n_entries];
        self.end_with(counts)
    }

    /// The file with other numbers of tensors and entries than it has.
    pub fn end_with(self, counts: [u64; 2]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(counts.iter().flat_map(|n| n.to_le_bytes()));
        out.extend(self.entries);
        out.extend(self.infos);
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(self.data);
        out
    }
}

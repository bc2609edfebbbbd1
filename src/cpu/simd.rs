//! Vectors of floats, and the choice of the instruction set.
//!
//! A [`Job`] is written once, generic over [`Lanes`], and instantiated inside one function per instruction set, where
//! the compiler may use the instructions. There is no fused multiply-add here: it would round once where the
//! reference rounds twice. A [`DotsJob`] is the same over [`Dots`], sums of integer products.

#[cfg(target_arch = "x86_64")]
mod x86;

/// A vector of floats.
///
/// Values of a type are made only inside [`Isa::run`] of its instruction set: that is what every `SAFETY` below means
/// by "the instruction set is there".
pub(super) trait Lanes: Copy {
    /// Floats of a vector.
    const N: usize;
    /// Whether there are 32 vector registers, not 16.
    const WIDE: bool;
    /// The same number in every lane.
    fn splat(x: f32) -> Self;
    /// The first `N` floats.
    fn load(x: &[f32]) -> Self;
    /// The first bytes, the second ones … of the first `N` quads, less 128.
    fn load_quads(x: &[u8]) -> [Self; 4];
    /// The low halves, and the high halves, of the first bytes, the second ones … of the first `N` quads, less a number.
    fn load_nibble_quads<const LESS: i32>(x: &[u8]) -> [[Self; 4]; 2];
    /// The lower six bits of the first `N` bytes.
    fn load_low_six(x: &[u8]) -> Self;
    /// Six bits: the two highest ones of the first `N` bytes of one side, and four from bit `AT`, 0 or 4, on of the other.
    fn load_split_six<const AT: u32>(upper: &[u8], lower: &[u8]) -> Self;
    /// The first `N` floats of half precision.
    fn load_f16(x: &[u8]) -> Self;
    /// The first `N` upper halves of floats.
    fn load_bf16(x: &[u16]) -> Self;
    /// The first `N` signed bytes of words, those in the lowest bits first.
    fn load_levels(x: &[u32]) -> Self;
    /// Writes the first `N` floats.
    fn store(self, out: &mut [f32]);
    /// Writes the first 16 floats of 16 rows as columns: those of the first row to the first of each 16 places that are
    /// `stride` apart, and so on.
    fn turn(rows: [&[f32]; 16], stride: usize, out: &mut [f32]);
    /// self · x.
    fn mul(self, x: Self) -> Self;
    /// self + x.
    fn add(self, x: Self) -> Self;
}

/// A vector of integer sums.
///
/// Values of a type are made only inside [`Isa::run_dots`] of its instruction set.
pub(super) trait Dots: Copy {
    /// Sums of a vector.
    const N: usize;
    /// Most rows whose sums fit the registers beside all else.
    const ROWS: usize;
    /// A quad of unsigned bytes for each sum.
    type Quads: Copy;
    /// The vector of as many floats.
    type Floats: Lanes;
    /// The same number in every lane.
    fn splat(x: i32) -> Self;
    /// The first `N` quads.
    fn load_quads(x: &[u8]) -> Self::Quads;
    /// The low and the high halves of the bytes of the first `N` quads.
    fn load_nibbles(x: &[u8]) -> [Self::Quads; 2];
    /// self + the products of each quad with four signed bytes, the first in the lowest bits of `x`.
    fn dot(self, w: Self::Quads, x: u32) -> Self;
    /// As floats.
    fn floats(self) -> Self::Floats;
}

/// Work that is compiled for each instruction set.
pub(super) trait Job {
    /// What it returns.
    type Out;
    /// Does it; an implementation is `#[inline(always)]`.
    fn run<V: Lanes>(self) -> Self::Out;
}

/// As [`Job`], on integer products.
pub(super) trait DotsJob {
    /// What it returns.
    type Out;
    /// Does it; an implementation is `#[inline(always)]`.
    fn run<D: Dots>(self) -> Self::Out;
}

/// An instruction set that is known to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// What the program was compiled for.
    Portable,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// And products of bytes that add fours.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// Does a job with these instructions.
    #[inline]
    pub(super) fn run<J: Job>(self, job: J) -> J::Out {
        match self {
            Self::Portable => job.run::<Four>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` is made only by `detect` and `all`, where the features were found.
            Self::Avx2 => unsafe { x86::run_avx2(job) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for AVX-512.
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::run_avx512(job) },
        }
    }

    /// Does a job on integer products with these instructions.
    #[inline]
    pub(super) fn run_dots<J: DotsJob>(self, job: J) -> J::Out {
        match self {
            Self::Portable => job.run::<FourSums>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `run`; machines with AVX-512 have AVX2.
            Self::Avx2 | Self::Avx512 => unsafe { x86::run_dots_avx2(job) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `run`, for AVX-512 and VNNI.
            Self::Avx512Vnni => unsafe { x86::run_dots_vnni(job) },
        }
    }

    /// The widest instruction set of this machine.
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    pub(super) fn detect() -> Self {
        use std::arch::is_x86_feature_detected as has;
        Self::of(
            has!("avx2") && has!("f16c"),
            has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq"),
            has!("avx512vnni"),
        )
    }

    /// The widest instruction set that the program was compiled for.
    #[cfg(all(target_arch = "x86_64", not(feature = "std")))]
    pub(super) fn detect() -> Self {
        Self::of(
            cfg!(target_feature = "avx2") && cfg!(target_feature = "f16c"),
            cfg!(target_feature = "avx512f")
                && cfg!(target_feature = "avx512vl")
                && cfg!(target_feature = "avx512bw")
                && cfg!(target_feature = "avx512dq"),
            cfg!(target_feature = "avx512vnni"),
        )
    }

    /// Only the portable path: the compiler vectorises it for the target.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn detect() -> Self {
        Self::Portable
    }

    #[cfg(target_arch = "x86_64")]
    fn of(avx2: bool, avx512: bool, vnni: bool) -> Self {
        match (avx2, avx512, vnni) {
            (true, true, true) => Self::Avx512Vnni,
            (true, true, false) => Self::Avx512,
            (true, false, _) => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// Its name, as traces have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512vnni",
        }
    }

    /// Those of the target, each with what those before it have.
    #[cfg(target_arch = "x86_64")]
    const ALL: &[Self] = &[Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni];

    /// Those of the target.
    #[cfg(not(target_arch = "x86_64"))]
    const ALL: &[Self] = &[Self::Portable];

    /// Every instruction set of this machine, the widest last.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let widest = Self::detect();
        let before = Self::ALL.iter().take_while(move |isa| **isa != widest);
        before.copied().chain([widest])
    }
}

/// Four floats, in whatever registers the compiler has.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Four([f32; 4]);

impl Lanes for Four {
    const N: usize = 4;
    const WIDE: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        Self([x[0], x[1], x[2], x[3]])
    }

    #[inline(always)]
    fn load_quads(x: &[u8]) -> [Self; 4] {
        let x = &x[..16];
        [0, 1, 2, 3]
            .map(|i: usize| Self([0, 4, 8, 12].map(|at: usize| f32::from(x[at + i]) - 128.0)))
    }

    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "a difference of small numbers")]
    fn load_nibble_quads<const LESS: i32>(x: &[u8]) -> [[Self; 4]; 2] {
        let x = &x[..16];
        [0, 4].map(|shift: u8| {
            [0, 1, 2, 3].map(|i: usize| {
                let level = |at: usize| (i32::from(x[at + i] >> shift & 15) - LESS) as f32;
                Self([0, 4, 8, 12].map(level))
            })
        })
    }

    #[inline(always)]
    fn load_low_six(x: &[u8]) -> Self {
        let x = &x[..4];
        Self([0, 1, 2, 3].map(|i: usize| f32::from(x[i] & 63)))
    }

    #[inline(always)]
    fn load_split_six<const AT: u32>(upper: &[u8], lower: &[u8]) -> Self {
        let (upper, lower) = (&upper[..4], &lower[..4]);
        Self([0, 1, 2, 3].map(|i: usize| f32::from(upper[i] >> 6 << 4 | lower[i] >> AT & 15)))
    }

    #[inline(always)]
    fn load_f16(x: &[u8]) -> Self {
        let x = &x[..8];
        Self([0, 2, 4, 6].map(|i: usize| half::f16::from_le_bytes([x[i], x[i + 1]]).to_f32()))
    }

    #[inline(always)]
    fn load_bf16(x: &[u16]) -> Self {
        Self([0, 1, 2, 3].map(|i: usize| f32::from_bits(u32::from(x[i]) << 16)))
    }

    #[inline(always)]
    fn load_levels(x: &[u32]) -> Self {
        Self(x[0].to_le_bytes().map(|byte| f32::from(byte.cast_signed())))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..4].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn turn(rows: [&[f32]; 16], stride: usize, out: &mut [f32]) {
        for (t, out) in out.chunks_mut(stride).take(16).enumerate() {
            for (row, out) in rows.iter().zip(out) {
                *out = row[t];
            }
        }
    }

    #[inline(always)]
    fn mul(self, x: Self) -> Self {
        let (a, b) = (self.0, x.0);
        Self([a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]])
    }

    #[inline(always)]
    fn add(self, x: Self) -> Self {
        let (a, b) = (self.0, x.0);
        Self([a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]])
    }
}

/// Four sums, in whatever registers the compiler has.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct FourSums([i32; 4]);

impl Dots for FourSums {
    const N: usize = 4;
    const ROWS: usize = 4;
    type Quads = [u8; 16];
    type Floats = Four;

    #[inline(always)]
    fn splat(x: i32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    fn load_quads(x: &[u8]) -> [u8; 16] {
        let x = &x[..16];
        core::array::from_fn(|i| x[i])
    }

    #[inline(always)]
    fn load_nibbles(x: &[u8]) -> [[u8; 16]; 2] {
        let x = Self::load_quads(x);
        [x.map(|byte| byte & 15), x.map(|byte| byte >> 4)]
    }

    #[inline(always)]
    fn dot(self, w: [u8; 16], x: u32) -> Self {
        let x = x.to_le_bytes().map(u8::cast_signed).map(i32::from);
        Self(core::array::from_fn(|lane| {
            let w = &w[4 * lane..];
            // Fours of bytes are far from the ends of 32 bits.
            self.0[lane]
                + i32::from(w[0]) * x[0]
                + i32::from(w[1]) * x[1]
                + i32::from(w[2]) * x[2]
                + i32::from(w[3]) * x[3]
        }))
    }

    #[inline(always)]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of 32 products of two bytes is below 2^24"
    )]
    fn floats(self) -> Four {
        Four(self.0.map(|x| x as f32))
    }
}

//! Vectors of floats, and the choice of the instruction set.
//!
//! A [`Job`] is written once, generic over [`Lanes`], and instantiated inside one function per instruction set, where
//! the compiler may use the instructions. There is no fused multiply-add here: it would round once where the
//! reference rounds twice.

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
    /// The first `N` bytes as signed numbers.
    fn load_i8(x: &[u8]) -> Self;
    /// The low and the high halves of the first `N` bytes, less eight.
    fn load_nibbles(x: &[u8]) -> [Self; 2];
    /// The first `N` upper halves of floats.
    fn load_bf16(x: &[u16]) -> Self;
    /// Writes the first `N` floats.
    fn store(self, out: &mut [f32]);
    /// self · x.
    fn mul(self, x: Self) -> Self;
    /// self + x.
    fn add(self, x: Self) -> Self;
}

/// Work that is compiled for each instruction set.
pub(super) trait Job {
    /// What it returns.
    type Out;
    /// Does it; an implementation is `#[inline(always)]`.
    fn run<V: Lanes>(self) -> Self::Out;
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
            Self::Avx512 => unsafe { x86::run_avx512(job) },
        }
    }

    /// The widest instruction set of this machine.
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    pub(super) fn detect() -> Self {
        let avx2 = std::arch::is_x86_feature_detected!("avx2");
        let avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq");
        Self::of(avx2, avx512)
    }

    /// The widest instruction set that the program was compiled for.
    #[cfg(all(target_arch = "x86_64", not(feature = "std")))]
    pub(super) fn detect() -> Self {
        let avx512 = cfg!(target_feature = "avx512f")
            && cfg!(target_feature = "avx512vl")
            && cfg!(target_feature = "avx512bw")
            && cfg!(target_feature = "avx512dq");
        Self::of(cfg!(target_feature = "avx2"), avx512)
    }

    /// Only the portable path: the compiler vectorises it for the target.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn detect() -> Self {
        Self::Portable
    }

    #[cfg(target_arch = "x86_64")]
    fn of(avx2: bool, avx512: bool) -> Self {
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// Every instruction set of this machine, for tests.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(super) fn all() -> alloc::vec::Vec<Self> {
        match Self::detect() {
            Self::Avx512 => alloc::vec![Self::Portable, Self::Avx2, Self::Avx512],
            Self::Avx2 => alloc::vec![Self::Portable, Self::Avx2],
            Self::Portable => alloc::vec![Self::Portable],
        }
    }

    /// Every instruction set of this machine, for tests.
    #[cfg(all(test, not(target_arch = "x86_64")))]
    pub(super) fn all() -> alloc::vec::Vec<Self> {
        alloc::vec![Self::Portable]
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
    fn load_i8(x: &[u8]) -> Self {
        Self([0, 1, 2, 3].map(|i: usize| f32::from(x[i].cast_signed())))
    }

    #[inline(always)]
    fn load_nibbles(x: &[u8]) -> [Self; 2] {
        let half = |shift: u8| [0, 1, 2, 3].map(|i: usize| f32::from(x[i] >> shift & 15) - 8.0);
        [Self(half(0)), Self(half(4))]
    }

    #[inline(always)]
    fn load_bf16(x: &[u16]) -> Self {
        Self([0, 1, 2, 3].map(|i: usize| f32::from_bits(u32::from(x[i]) << 16)))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..4].copy_from_slice(&self.0);
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{
        __m256, __m512, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_ps, _mm256_and_si256,
        _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
        _mm256_cvtepu16_epi32, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps,
        _mm256_sub_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps,
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32,
        _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32,
        _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi32,
    };

    use super::{Job, Lanes};

    #[target_feature(enable = "avx2")]
    pub(super) fn run_avx2<J: Job>(job: J) -> J::Out {
        job.run::<Eight>()
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    pub(super) fn run_avx512<J: Job>(job: J) -> J::Out {
        job.run::<Sixteen>()
    }

    /// An AVX register.
    #[derive(Clone, Copy)]
    pub(super) struct Eight(__m256);

    impl Lanes for Eight {
        const N: usize = 8;
        const WIDE: bool = false;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm256_set1_ps(x) })
        }

        #[inline(always)]
        fn load(x: &[f32]) -> Self {
            let x = &x[..8];
            // SAFETY: the instruction set is there, and 8 floats are readable.
            Self(unsafe { _mm256_loadu_ps(x.as_ptr()) })
        }

        #[inline(always)]
        fn load_i8(x: &[u8]) -> Self {
            let x = &x[..8];
            // SAFETY: SSE2 is part of x86-64, and 8 bytes are readable.
            let bytes = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm256_cvtepi8_epi32(bytes) };
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm256_cvtepi32_ps(words) })
        }

        #[inline(always)]
        fn load_nibbles(x: &[u8]) -> [Self; 2] {
            let x = &x[..8];
            // SAFETY: SSE2 is part of x86-64, and 8 bytes are readable.
            let bytes = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm256_cvtepu8_epi32(bytes) };
            // SAFETY: the instruction set is there.
            let fifteen = unsafe { _mm256_set1_epi32(15) };
            // SAFETY: the instruction set is there.
            let low = unsafe { _mm256_and_si256(words, fifteen) };
            // SAFETY: the instruction set is there.
            let high = unsafe { _mm256_srli_epi32::<4>(words) };
            // SAFETY: the instruction set is there.
            let eight = unsafe { _mm256_set1_epi32(8) };
            [low, high].map(|words| {
                // SAFETY: the instruction set is there.
                let words = unsafe { _mm256_sub_epi32(words, eight) };
                // SAFETY: the instruction set is there.
                Self(unsafe { _mm256_cvtepi32_ps(words) })
            })
        }

        #[inline(always)]
        fn load_bf16(x: &[u16]) -> Self {
            let x = &x[..8];
            // SAFETY: the instruction set is there, and 8 halves are readable.
            let halves = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm256_cvtepu16_epi32(halves) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm256_slli_epi32::<16>(words) };
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm256_castsi256_ps(words) })
        }

        #[inline(always)]
        fn store(self, out: &mut [f32]) {
            let out = &mut out[..8];
            // SAFETY: the instruction set is there, and 8 floats are writable.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn mul(self, x: Self) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm256_mul_ps(self.0, x.0) })
        }

        #[inline(always)]
        fn add(self, x: Self) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm256_add_ps(self.0, x.0) })
        }
    }

    /// An AVX-512 register.
    #[derive(Clone, Copy)]
    pub(super) struct Sixteen(__m512);

    impl Lanes for Sixteen {
        const N: usize = 16;
        const WIDE: bool = true;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(x: &[f32]) -> Self {
            let x = &x[..16];
            // SAFETY: the instruction set is there, and 16 floats are readable.
            Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }

        #[inline(always)]
        fn load_i8(x: &[u8]) -> Self {
            let x = &x[..16];
            // SAFETY: SSE2 is part of x86-64, and 16 bytes are readable.
            let bytes = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm512_cvtepi8_epi32(bytes) };
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm512_cvtepi32_ps(words) })
        }

        #[inline(always)]
        fn load_nibbles(x: &[u8]) -> [Self; 2] {
            let x = &x[..16];
            // SAFETY: SSE2 is part of x86-64, and 16 bytes are readable.
            let bytes = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm512_cvtepu8_epi32(bytes) };
            // SAFETY: the instruction set is there.
            let fifteen = unsafe { _mm512_set1_epi32(15) };
            // SAFETY: the instruction set is there.
            let low = unsafe { _mm512_and_si512(words, fifteen) };
            // SAFETY: the instruction set is there.
            let high = unsafe { _mm512_srli_epi32::<4>(words) };
            // SAFETY: the instruction set is there.
            let eight = unsafe { _mm512_set1_epi32(8) };
            [low, high].map(|words| {
                // SAFETY: the instruction set is there.
                let words = unsafe { _mm512_sub_epi32(words, eight) };
                // SAFETY: the instruction set is there.
                Self(unsafe { _mm512_cvtepi32_ps(words) })
            })
        }

        #[inline(always)]
        fn load_bf16(x: &[u16]) -> Self {
            let x = &x[..16];
            // SAFETY: the instruction set is there, and 16 halves are readable.
            let halves = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm512_cvtepu16_epi32(halves) };
            // SAFETY: the instruction set is there.
            let words = unsafe { _mm512_slli_epi32::<16>(words) };
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm512_castsi512_ps(words) })
        }

        #[inline(always)]
        fn store(self, out: &mut [f32]) {
            let out = &mut out[..16];
            // SAFETY: the instruction set is there, and 16 floats are writable.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn mul(self, x: Self) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm512_mul_ps(self.0, x.0) })
        }

        #[inline(always)]
        fn add(self, x: Self) -> Self {
            // SAFETY: the instruction set is there.
            Self(unsafe { _mm512_add_ps(self.0, x.0) })
        }
    }
}

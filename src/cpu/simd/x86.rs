//! AVX2 and AVX-512.

use core::arch::x86_64::*;

use super::{Dots, DotsJob, Job, Lanes};

/// An intrinsic of the instruction set at hand.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: values of the types below are made only where their instruction set is there, and no call in this
        // macro goes through a pointer.
        unsafe { $call }
    };
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn run_avx2<J: Job>(job: J) -> J::Out {
    job.run::<Eight>()
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
pub(super) fn run_avx512<J: Job>(job: J) -> J::Out {
    job.run::<Sixteen>()
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn run_dots_avx2<J: DotsJob>(job: J) -> J::Out {
    job.run::<EightSums>()
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni")]
pub(super) fn run_dots_vnni<J: DotsJob>(job: J) -> J::Out {
    job.run::<SixteenSums>()
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
    fn load_quads(x: &[u8]) -> [Self; 4] {
        let x = words256(x);
        [
            less256::<255, 128>(x),
            less256::<255, 128>(intrinsic!(_mm256_srli_epi32::<8>(x))),
            less256::<255, 128>(intrinsic!(_mm256_srli_epi32::<16>(x))),
            less256::<255, 128>(intrinsic!(_mm256_srli_epi32::<24>(x))),
        ]
    }

    #[inline(always)]
    fn load_nibble_quads<const LESS: i32>(x: &[u8]) -> [[Self; 4]; 2] {
        let x = words256(x);
        [
            [
                less256::<15, LESS>(x),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<8>(x))),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<16>(x))),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<24>(x))),
            ],
            [
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<4>(x))),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<12>(x))),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<20>(x))),
                less256::<15, LESS>(intrinsic!(_mm256_srli_epi32::<28>(x))),
            ],
        ]
    }

    #[inline(always)]
    fn load_low_six(x: &[u8]) -> Self {
        less256::<63, 0>(bytes256(x))
    }

    #[inline(always)]
    fn load_split_six<const AT: u32>(upper: &[u8], lower: &[u8]) -> Self {
        let upper = intrinsic!(_mm256_srli_epi32::<2>(bytes256(upper)));
        let upper = intrinsic!(_mm256_and_si256(upper, _mm256_set1_epi32(0x30)));
        let lower = bytes256(lower);
        let lower = if AT == 0 {
            lower
        } else {
            intrinsic!(_mm256_srli_epi32::<4>(lower))
        };
        let lower = intrinsic!(_mm256_and_si256(lower, _mm256_set1_epi32(15)));
        less256::<63, 0>(intrinsic!(_mm256_or_si256(upper, lower)))
    }

    #[inline(always)]
    fn load_f16(x: &[u8]) -> Self {
        let x = &x[..16];
        // SAFETY: the instruction set is there, and 16 bytes are readable.
        let halves = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        Self(intrinsic!(_mm256_cvtph_ps(halves)))
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
    fn load_levels(x: &[u32]) -> Self {
        let x = &x[..2];
        // SAFETY: the instruction set is there, and 8 bytes are readable.
        let bytes = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
        Self(intrinsic!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: the instruction set is there, and 8 floats are writable.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn turn(rows: [&[f32]; 16], stride: usize, out: &mut [f32]) {
        for (half, rows) in rows.as_chunks::<8>().0.iter().enumerate() {
            for from in [0, 8] {
                let mut fours = [[intrinsic!(_mm256_setzero_ps()); 4]; 2];
                for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
                    let [a, b, c, d] = [
                        Self::load(&rows[0][from..]).0,
                        Self::load(&rows[1][from..]).0,
                        Self::load(&rows[2][from..]).0,
                        Self::load(&rows[3][from..]).0,
                    ];
                    let ab = intrinsic!(_mm256_castps_pd(_mm256_unpacklo_ps(a, b)));
                    let ab_high = intrinsic!(_mm256_castps_pd(_mm256_unpackhi_ps(a, b)));
                    let cd = intrinsic!(_mm256_castps_pd(_mm256_unpacklo_ps(c, d)));
                    let cd_high = intrinsic!(_mm256_castps_pd(_mm256_unpackhi_ps(c, d)));
                    // Each 128 bits: four rows of one column; the columns are four apart.
                    *four = [
                        intrinsic!(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd))),
                        intrinsic!(_mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd))),
                        intrinsic!(_mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high))),
                        intrinsic!(_mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high))),
                    ];
                }
                let [p, q] = fours;
                for c in 0..4 {
                    let first = intrinsic!(_mm256_permute2f128_ps::<0x20>(p[c], q[c]));
                    let second = intrinsic!(_mm256_permute2f128_ps::<0x31>(p[c], q[c]));
                    Self(first).store(&mut out[(from + c) * stride + 8 * half..]);
                    Self(second).store(&mut out[(from + 4 + c) * stride + 8 * half..]);
                }
            }
        }
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
    fn load_quads(x: &[u8]) -> [Self; 4] {
        let x = words512(x);
        [
            less512::<255, 128>(x),
            less512::<255, 128>(intrinsic!(_mm512_srli_epi32::<8>(x))),
            less512::<255, 128>(intrinsic!(_mm512_srli_epi32::<16>(x))),
            less512::<255, 128>(intrinsic!(_mm512_srli_epi32::<24>(x))),
        ]
    }

    #[inline(always)]
    fn load_nibble_quads<const LESS: i32>(x: &[u8]) -> [[Self; 4]; 2] {
        let x = words512(x);
        [
            [
                less512::<15, LESS>(x),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<8>(x))),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<16>(x))),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<24>(x))),
            ],
            [
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<4>(x))),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<12>(x))),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<20>(x))),
                less512::<15, LESS>(intrinsic!(_mm512_srli_epi32::<28>(x))),
            ],
        ]
    }

    #[inline(always)]
    fn load_low_six(x: &[u8]) -> Self {
        less512::<63, 0>(bytes512(x))
    }

    #[inline(always)]
    fn load_split_six<const AT: u32>(upper: &[u8], lower: &[u8]) -> Self {
        let upper = intrinsic!(_mm512_srli_epi32::<2>(bytes512(upper)));
        let upper = intrinsic!(_mm512_and_si512(upper, _mm512_set1_epi32(0x30)));
        let lower = bytes512(lower);
        let lower = if AT == 0 {
            lower
        } else {
            intrinsic!(_mm512_srli_epi32::<4>(lower))
        };
        let lower = intrinsic!(_mm512_and_si512(lower, _mm512_set1_epi32(15)));
        less512::<63, 0>(intrinsic!(_mm512_or_si512(upper, lower)))
    }

    #[inline(always)]
    fn load_f16(x: &[u8]) -> Self {
        let x = &x[..32];
        // SAFETY: the instruction set is there, and 32 bytes are readable.
        let halves = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        Self(intrinsic!(_mm512_cvtph_ps(halves)))
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
    fn load_levels(x: &[u32]) -> Self {
        let x = &x[..4];
        // SAFETY: the instruction set is there, and 16 bytes are readable.
        let bytes = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        Self(intrinsic!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: the instruction set is there, and 16 floats are writable.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn turn(rows: [&[f32]; 16], stride: usize, out: &mut [f32]) {
        let mut fours = [[intrinsic!(_mm512_setzero_ps()); 4]; 4];
        for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
            let [a, b, c, d] = [
                Self::load(rows[0]).0,
                Self::load(rows[1]).0,
                Self::load(rows[2]).0,
                Self::load(rows[3]).0,
            ];
            let ab = intrinsic!(_mm512_castps_pd(_mm512_unpacklo_ps(a, b)));
            let ab_high = intrinsic!(_mm512_castps_pd(_mm512_unpackhi_ps(a, b)));
            let cd = intrinsic!(_mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
            let cd_high = intrinsic!(_mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
            // Each 128 bits: four rows of one column; the columns are four apart.
            *four = [
                intrinsic!(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd))),
                intrinsic!(_mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd))),
                intrinsic!(_mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high))),
                intrinsic!(_mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high))),
            ];
        }
        let [p, q, r, s] = fours;
        for c in 0..4 {
            let even = intrinsic!(_mm512_shuffle_f32x4::<0x88>(p[c], q[c]));
            let even_low = intrinsic!(_mm512_shuffle_f32x4::<0x88>(r[c], s[c]));
            let odd = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(p[c], q[c]));
            let odd_low = intrinsic!(_mm512_shuffle_f32x4::<0xdd>(r[c], s[c]));
            let columns = [
                intrinsic!(_mm512_shuffle_f32x4::<0x88>(even, even_low)),
                intrinsic!(_mm512_shuffle_f32x4::<0x88>(odd, odd_low)),
                intrinsic!(_mm512_shuffle_f32x4::<0xdd>(even, even_low)),
                intrinsic!(_mm512_shuffle_f32x4::<0xdd>(odd, odd_low)),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                Self(column).store(&mut out[(4 * i + c) * stride..]);
            }
        }
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

/// Eight quads.
#[inline(always)]
fn words256(x: &[u8]) -> __m256i {
    let x = &x[..32];
    // SAFETY: the instruction set is there, and 32 bytes are readable.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Sixteen quads.
#[inline(always)]
fn words512(x: &[u8]) -> __m512i {
    let x = &x[..64];
    // SAFETY: the instruction set is there, and 64 bytes are readable.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Eight bytes, each in a word.
#[inline(always)]
fn bytes256(x: &[u8]) -> __m256i {
    let x = &x[..8];
    // SAFETY: the instruction set is there, and 8 bytes are readable.
    let bytes = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
    intrinsic!(_mm256_cvtepu8_epi32(bytes))
}

/// Sixteen bytes, each in a word.
#[inline(always)]
fn bytes512(x: &[u8]) -> __m512i {
    let x = &x[..16];
    // SAFETY: the instruction set is there, and 16 bytes are readable.
    let bytes = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
    intrinsic!(_mm512_cvtepu8_epi32(bytes))
}

/// Some low bits of each word, less a number.
#[inline(always)]
fn less256<const MASK: i32, const LESS: i32>(x: __m256i) -> Eight {
    let low = intrinsic!(_mm256_and_si256(x, _mm256_set1_epi32(MASK)));
    let less = intrinsic!(_mm256_sub_epi32(low, _mm256_set1_epi32(LESS)));
    Eight(intrinsic!(_mm256_cvtepi32_ps(less)))
}

/// Some low bits of each word, less a number.
#[inline(always)]
fn less512<const MASK: i32, const LESS: i32>(x: __m512i) -> Sixteen {
    let low = intrinsic!(_mm512_and_si512(x, _mm512_set1_epi32(MASK)));
    let less = intrinsic!(_mm512_sub_epi32(low, _mm512_set1_epi32(LESS)));
    Sixteen(intrinsic!(_mm512_cvtepi32_ps(less)))
}

/// Sums of AVX2, which multiplies and adds pairs of 16 bits without loss.
#[derive(Clone, Copy)]
pub(super) struct EightSums(__m256i);

impl Dots for EightSums {
    const N: usize = 8;
    const ROWS: usize = 4;
    /// The even and the odd bytes, 16 bits each.
    type Quads = [__m256i; 2];
    type Floats = Eight;

    #[inline(always)]
    fn splat(x: i32) -> Self {
        Self(intrinsic!(_mm256_set1_epi32(x)))
    }

    #[inline(always)]
    fn load_quads(x: &[u8]) -> Self::Quads {
        let x = words256(x);
        let even = intrinsic!(_mm256_and_si256(x, _mm256_set1_epi16(255)));
        [even, intrinsic!(_mm256_srli_epi16::<8>(x))]
    }

    #[inline(always)]
    fn load_nibbles(x: &[u8]) -> [Self::Quads; 2] {
        let x = words256(x);
        let low = intrinsic!(_mm256_set1_epi16(15));
        let odd = intrinsic!(_mm256_srli_epi16::<8>(x));
        let high = intrinsic!(_mm256_srli_epi16::<4>(x));
        [
            [
                intrinsic!(_mm256_and_si256(x, low)),
                intrinsic!(_mm256_and_si256(odd, low)),
            ],
            [
                intrinsic!(_mm256_and_si256(high, low)),
                intrinsic!(_mm256_srli_epi16::<12>(x)),
            ],
        ]
    }

    #[inline(always)]
    fn dot(self, [even, odd]: Self::Quads, x: u32) -> Self {
        let x = intrinsic!(_mm256_set1_epi32(x.cast_signed()));
        let x_odd = intrinsic!(_mm256_srai_epi16::<8>(x));
        let x_even = intrinsic!(_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)));
        let even = intrinsic!(_mm256_madd_epi16(even, x_even));
        let odd = intrinsic!(_mm256_madd_epi16(odd, x_odd));
        let both = intrinsic!(_mm256_add_epi32(even, odd));
        Self(intrinsic!(_mm256_add_epi32(self.0, both)))
    }

    #[inline(always)]
    fn floats(self) -> Eight {
        Eight(intrinsic!(_mm256_cvtepi32_ps(self.0)))
    }
}

/// Sums of AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct SixteenSums(__m512i);

impl Dots for SixteenSums {
    const N: usize = 16;
    const ROWS: usize = 12;
    type Quads = __m512i;
    type Floats = Sixteen;

    #[inline(always)]
    fn splat(x: i32) -> Self {
        Self(intrinsic!(_mm512_set1_epi32(x)))
    }

    #[inline(always)]
    fn load_quads(x: &[u8]) -> __m512i {
        words512(x)
    }

    #[inline(always)]
    fn load_nibbles(x: &[u8]) -> [__m512i; 2] {
        let x = words512(x);
        let low = intrinsic!(_mm512_set1_epi8(15));
        let high = intrinsic!(_mm512_srli_epi16::<4>(x));
        [
            intrinsic!(_mm512_and_si512(x, low)),
            intrinsic!(_mm512_and_si512(high, low)),
        ]
    }

    #[inline(always)]
    fn dot(self, w: __m512i, x: u32) -> Self {
        let x = intrinsic!(_mm512_set1_epi32(x.cast_signed()));
        Self(intrinsic!(_mm512_dpbusd_epi32(self.0, w, x)))
    }

    #[inline(always)]
    fn floats(self) -> Sixteen {
        Sixteen(intrinsic!(_mm512_cvtepi32_ps(self.0)))
    }
}

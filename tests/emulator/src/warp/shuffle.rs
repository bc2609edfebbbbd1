//! Words from lane to lane.

use super::{Warp, put};
use crate::Result;
use crate::program::{Inst, Kernel, Shuffle};

impl Warp {
    pub(super) fn shuffle(
        &mut self,
        kernel: &Kernel,
        i: &Inst,
        m: u32,
        mode: Shuffle,
    ) -> Result<()> {
        let (value, from, limits) = (
            self.words[i.a as usize],
            self.words[i.b as usize],
            self.words[i.c as usize],
        );
        let (mut out, mut valid) = ([0; 32], 0);
        for lane in (0..32_u32).filter(|l| m >> l & 1 == 1) {
            let l = lane as usize;
            let (segment, clamp) = (limits[l] >> 8 & 31, limits[l] & 31);
            let last = lane & segment | clamp & !segment;
            let (source, inside) = match mode {
                Shuffle::Idx => {
                    let source = lane & segment | from[l] & 31 & !segment;
                    (source, source <= last)
                }
                Shuffle::Bfly => (lane ^ (from[l] & 31), lane ^ (from[l] & 31) <= last),
                Shuffle::Down => (lane + (from[l] & 31), lane + (from[l] & 31) <= last),
                Shuffle::Up => {
                    let source = lane.wrapping_sub(from[l] & 31);
                    (source, source < 32 && source >= last)
                }
            };
            let source = if inside { source } else { lane };
            if m >> source & 1 == 0 {
                return Err(format!(
                    "lane {lane} asks lane {source}, which is not there"
                ));
            }
            out[l] = value[source as usize];
            valid |= u32::from(inside) << lane;
        }
        put(&mut self.words[i.d as usize], out, m);
        let side = kernel.vectors[i.extra as usize][0];
        let old = &mut self.preds[side as usize];
        *old = *old & !m | valid & m;
        Ok(())
    }
}

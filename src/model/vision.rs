//! A judge's image tower and projector: square views of bytes to rows of text.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, Result, product};
use crate::model::linear::Linear;
use crate::model::transformer::{
    BlockNames, Cache, Mlp, Norm, NormWeights, Pass, Scratch, Stack, StackConfig, Stage,
};
use crate::model::weights::Loader;
use crate::ops::Backend;
use crate::ops::attention::{KvFormat, SPAN_WORDS};
use crate::ops::conv::PatchShape;
use crate::ops::norm::{Activation, NormShape};

/// Shape of a SigLIP tower. The default is the so400m tower at 384 pixels without its last layer.
///
/// # Source
/// Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VisionConfig {
    /// Rows and columns of a view, in pixels.
    pub image_size: usize,
    /// Rows and columns of a patch; what fills no patch at the right and bottom is dropped.
    pub patch_size: usize,
    /// Width of a row.
    pub width: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Inner width of the MLP.
    pub mlp_width: usize,
    /// Layers that are run.
    pub layers: usize,
    /// Added to variances.
    pub eps: f32,
    /// Between the two layers of the MLP.
    pub activation: Activation,
    /// Whether the tower's last norm stands before the projector.
    pub final_norm: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            image_size: 384,
            patch_size: 14,
            width: 1152,
            n_heads: 16,
            mlp_width: 4304,
            layers: 26,
            eps: 1e-6,
            activation: Activation::GeluTanh,
            final_norm: false,
        }
    }
}

impl VisionConfig {
    /// Patches along one side.
    #[must_use]
    pub const fn grid(&self) -> usize {
        match self.image_size.checked_div(self.patch_size) {
            Some(grid) => grid,
            None => 0,
        }
    }

    /// Patches of a view.
    #[must_use]
    pub const fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    const fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    fn stack(&self) -> StackConfig {
        StackConfig {
            layers: self.layers,
            width: self.width,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            head_dim: self.width / self.n_heads.max(1),
            mlp_width: self.mlp_width,
            norm: Norm::Layer,
            eps: self.eps,
            parallel: false,
            qk_norm: false,
            qkv_bias: true,
            out_bias: true,
            mlp: Mlp::Plain(self.activation),
            rotary: None,
        }
    }

    /// Fails if the sizes contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Range`] with the key at fault.
    pub fn check(&self) -> Result<()> {
        if self.patch_size == 0 || self.patch_size > self.image_size || self.image_size > 1 << 12 {
            return Err(Error::Config {
                key: "patch_size",
                problem: "does not fit image_size",
            });
        }
        if self.n_heads == 0 || !self.width.is_multiple_of(self.n_heads) {
            return Err(Error::Config {
                key: "num_attention_heads",
                problem: "does not divide the tower's hidden_size",
            });
        }
        self.stack().check()
    }
}

/// The tower and the projector. Immutable.
#[derive(Debug)]
pub struct Vision<B: Backend> {
    config: VisionConfig,
    patch: Linear<B>,
    position: Vec<f32>,
    stack: Stack<B>,
    norm: Option<NormWeights<B>>,
    projector: [Linear<B>; 2],
}

/// Memory for `views` views at a time.
#[derive(Debug)]
pub struct VisionScratch<B: Backend> {
    views: usize,
    pixels: B::Buffer<u8>,
    patches: B::Buffer<f32>,
    position: B::Buffer<f32>,
    x: B::Buffer<f32>,
    cache: Cache<B>,
    scratch: Scratch<B>,
    places: B::Buffer<u32>,
    spans: B::Buffer<u32>,
    normed: Option<B::Buffer<f32>>,
    hidden: B::Buffer<f32>,
    out: B::Buffer<f32>,
}

impl<B: Backend> VisionScratch<B> {
    /// Views that fit.
    #[must_use]
    pub const fn views(&self) -> usize {
        self.views
    }

    /// The projected rows of the last pass, `[views, patches, width]`.
    #[must_use]
    pub const fn out(&self) -> &B::Buffer<f32> {
        &self.out
    }
}

/// What a caller may look at in a pass of the tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VisionStage {
    /// Patches with their positions.
    Embeddings,
    /// After a layer.
    Layer(usize),
    /// After the last norm, if there is one.
    Features,
    /// After the projector.
    Projector,
}

/// Looks at one stage of a pass.
pub type VisionLook<'a, B> =
    &'a mut dyn FnMut(VisionStage, &<B as Backend>::Buffer<f32>) -> Result<()>;

const TOWER: &str = "model.vision_tower.vision_tower.vision_model";

fn block_names(layer: usize, fused: bool) -> BlockNames {
    let name = |part: &str| format!("{TOWER}.encoder.layers.{layer}.{part}");
    BlockNames {
        norm1: name("layer_norm1"),
        norm2: name("layer_norm2"),
        qkv: if fused {
            [name("self_attn.qkv"), String::new(), String::new()]
        } else {
            ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")))
        },
        out: name("self_attn.out_proj"),
        qk_norm: [String::new(), String::new()],
        mlp_in: Vec::from([name("mlp.fc1")]),
        mlp_out: name("mlp.fc2"),
    }
}

impl<B: Backend> Vision<B> {
    /// Reads tower and projector; the projector's rows are `width` wide.
    ///
    /// # Errors
    /// As [`Loader::floats`], or a configuration that contradicts itself.
    pub fn load(loader: &Loader<'_, B>, config: VisionConfig, width: usize) -> Result<Self> {
        config.check()?;
        let c = &config;
        let patch =
            ["weight", "bias"].map(|part| format!("{TOWER}.embeddings.patch_embedding.{part}"));
        let weight = loader.floats(&patch[0], &[c.width, 3, c.patch_size, c.patch_size])?;
        let bias = loader.floats(&patch[1], &[c.width])?;
        let shape = [c.width, c.patch_values()];
        let fused = loader.has(&format!("{TOWER}.encoder.layers.0.self_attn.qkv.weight"));
        Ok(Self {
            patch: Linear::from_floats(loader, &patch[0], shape, &weight, Some(&bias))?,
            position: loader.floats(
                &format!("{TOWER}.embeddings.position_embedding.weight"),
                &[c.patches(), c.width],
            )?,
            stack: Stack::load(loader, c.stack(), &|layer| block_names(layer, fused))?,
            norm: c
                .final_norm
                .then(|| {
                    let name = format!("{TOWER}.post_layernorm");
                    NormWeights::load(loader, Norm::Layer, &name, c.width)
                })
                .transpose()?,
            projector: [
                Linear::load(loader, "model.mm_projector.0", width, c.width, true)?,
                Linear::load(loader, "model.mm_projector.2", width, width, true)?,
            ],
            config,
        })
    }

    /// The shape.
    #[must_use]
    pub const fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Reserves memory for `views` views at a time, with keys and values in floats.
    ///
    /// # Errors
    /// No memory.
    pub fn scratch(&self, backend: &B, views: usize) -> Result<VisionScratch<B>> {
        self.scratch_as(backend, views, KvFormat::F32)
    }

    /// As [`scratch`](Self::scratch), with keys and values in a format.
    ///
    /// # Errors
    /// No memory.
    pub fn scratch_as(&self, backend: &B, views: usize, kv: KvFormat) -> Result<VisionScratch<B>> {
        let c = &self.config;
        let patches = c.patches();
        let rows = product("judge", &[views, patches])?;
        let index = |i: usize| u32::try_from(i).map_err(|_| Error::Overflow { op: "judge" });
        let width = self.projector[1].n();
        let mut position = backend.zeros(product("judge", &[rows, c.width])?)?;
        let mut spans = backend.zeros(views * SPAN_WORDS)?;
        let mut places = backend.zeros(rows)?;
        for view in 0..views {
            backend.write(&mut position, view * patches * c.width, &self.position)?;
            backend.write(
                &mut spans,
                view * SPAN_WORDS,
                &[0, 0, index(view * patches)?, index(patches)?],
            )?;
            for row in view * patches..(view + 1) * patches {
                backend.write(&mut places, row, &[index(row)?])?;
            }
        }
        Ok(VisionScratch {
            views,
            pixels: backend.zeros(product("judge", &[views, c.image_size, c.image_size, 3])?)?,
            patches: backend.zeros(product("judge", &[rows, c.patch_values()])?)?,
            x: backend.zeros(product("judge", &[rows, c.width])?)?,
            cache: self.stack.passing_cache(backend, rows, kv)?,
            scratch: self.stack.scratch(backend, rows)?,
            normed: self
                .norm
                .as_ref()
                .map(|_| backend.zeros(product("judge", &[rows, c.width])?))
                .transpose()?,
            hidden: backend.zeros(product("judge", &[rows, width])?)?,
            out: backend.zeros(product("judge", &[rows, width])?)?,
            position,
            places,
            spans,
        })
    }

    /// Sends `n` square views of bytes through tower and projector; their rows are [`VisionScratch::out`].
    ///
    /// # Errors
    /// More views than fit, fewer bytes than they have, or what `look` returns.
    pub fn forward(
        &self,
        backend: &B,
        n: usize,
        pixels: &[u8],
        s: &mut VisionScratch<B>,
        look: VisionLook<'_, B>,
    ) -> Result<()> {
        let c = &self.config;
        if n > s.views {
            return Err(Error::Full {
                what: "views of the image tower",
                limit: s.views,
            });
        }
        let rows = n * c.patches();
        backend.write(&mut s.pixels, 0, pixels)?;
        let shape = PatchShape {
            images: n,
            height: c.image_size,
            width: c.image_size,
            patch: c.patch_size,
        };
        backend.patchify(shape, &s.pixels, &mut s.patches)?;
        backend.copy(&s.position, 0, &mut s.x, 0, rows * c.width)?;
        self.patch.apply_add(backend, rows, &s.patches, &mut s.x)?;
        look(VisionStage::Embeddings, &s.x)?;
        let pass = Pass {
            sequences: n,
            queries: c.patches(),
            causal: false,
            positions: &s.places,
            places: &s.places,
            spans: &s.spans,
            pages: 0,
        };
        self.stack.forward_watched(
            backend,
            &pass,
            &mut s.x,
            (&mut s.cache, &mut s.scratch),
            &mut |layer, stage, x| {
                if stage == Stage::Output {
                    look(VisionStage::Layer(layer), x)
                } else {
                    Ok(())
                }
            },
        )?;
        let features = match (&self.norm, &mut s.normed) {
            (Some(norm), Some(normed)) => {
                let shape = NormShape {
                    rows,
                    width: c.width,
                    eps: c.eps,
                };
                norm.apply(backend, shape, &s.x, normed)?;
                look(VisionStage::Features, normed)?;
                normed
            }
            _ => &s.x,
        };
        let [first, second] = &self.projector;
        first.apply(backend, rows, features, &mut s.hidden)?;
        backend.activate(Activation::GeluErf, rows * first.n(), &mut s.hidden)?;
        second.apply(backend, rows, &s.hidden, &mut s.out)?;
        look(VisionStage::Projector, &s.out)
    }
}

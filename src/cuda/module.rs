//! The kernels' PTX, one module a family, each loaded at its first use.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::failed;
use crate::error::Result;

/// Shared memory that a block may have on every GPU of compute capability 8.0 and up, a kernel's own arrays included;
/// without leave it is 48 KB.
pub(super) const SHARED_BYTES: i32 = 99 << 10;
/// What a launch may ask for on GPUs of compute capability 9.0: all but what barriers take.
pub(super) const HOPPER_BYTES: i32 = 224 << 10;

/// A family of kernels: a source file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    Attention,
    Conv,
    Decode,
    Filter,
    Flash,
    Gemm,
    GemmMany,
    Gemv,
    GroupNorm,
    Heads,
    Nearest,
    Norm,
    RewardHead,
    Sample,
    Tiles,
    Vq,
    Wide,
    Wide90a,
}

/// A family's name and its PTX.
pub(super) type Source = (&'static str, &'static str);

/// The file of a name.
macro_rules! source {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../kernels/ptx/", $name, ".ptx")),
        )
    };
}

impl Family {
    const fn source(self) -> Source {
        match self {
            Self::Attention => source!("attention"),
            Self::Conv => source!("conv"),
            Self::Decode => source!("decode"),
            Self::Filter => source!("filter"),
            Self::Flash => source!("flash"),
            Self::Gemm => source!("gemm"),
            Self::GemmMany => source!("gemm_many"),
            Self::Gemv => source!("gemv"),
            Self::GroupNorm => source!("group_norm"),
            Self::Heads => source!("heads"),
            Self::Nearest => source!("nearest"),
            Self::Norm => source!("norm"),
            Self::RewardHead => source!("reward_head"),
            Self::Sample => source!("sample"),
            Self::Tiles => source!("tiles"),
            Self::Vq => source!("vq"),
            Self::Wide => source!("wide"),
            Self::Wide90a => source!("wide_90a"),
        }
    }
}

/// The families of gradients: nothing else embeds them.
#[cfg(feature = "align")]
pub(super) mod gradients {
    use super::Source;

    pub(in crate::cuda) const ROWS: Source = source!("backward");
    pub(in crate::cuda) const ATTENTION: Source = source!("backward_attention");
    pub(in crate::cuda) const GEMM: Source = source!("backward_gemm");
}

/// Weights and rows as a library takes them.
#[cfg(feature = "cublaslt")]
pub(super) const PLAIN: Source = source!("plain");

/// What has been loaded so far.
#[derive(Debug, Default)]
pub(super) struct Modules(Mutex<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    modules: BTreeMap<&'static str, Arc<CudaModule>>,
    functions: BTreeMap<&'static str, CudaFunction>,
}

impl Modules {
    /// A kernel of a family.
    pub(super) fn function(
        &self,
        context: &Arc<CudaContext>,
        family: Family,
        kernel: &'static str,
    ) -> Result<CudaFunction> {
        self.of(context, family.source(), kernel)
    }

    /// A kernel of a family by its source.
    pub(super) fn of(
        &self,
        context: &Arc<CudaContext>,
        (family, ptx): Source,
        kernel: &'static str,
    ) -> Result<CudaFunction> {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(kernel) {
            return Ok(function.clone());
        }
        let module = match loaded.modules.get(family) {
            Some(module) => Arc::clone(module),
            None => {
                let ptx = Ptx::from_src(ptx);
                let module = context.load_module(ptx).map_err(|e| failed(kernel, e))?;
                loaded.modules.insert(family, Arc::clone(&module));
                module
            }
        };
        let function = module
            .load_function(kernel)
            .map_err(|e| failed(kernel, e))?;
        let shared = match family {
            "decode" | "filter" | "flash" | "gemm" | "gemm_many" | "heads" | "sample" | "tiles"
            | "wide" => {
                let own = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                let own = function.get_attribute(own).map_err(|e| failed(kernel, e))?;
                SHARED_BYTES.saturating_sub(own)
            }
            "wide_90a" => HOPPER_BYTES,
            _ => 0,
        };
        if shared > 0 {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(most, shared)
                .map_err(|e| failed(kernel, e))?;
        }
        loaded.functions.insert(kernel, function.clone());
        Ok(function)
    }
}

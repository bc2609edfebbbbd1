//! The kernels' PTX, one module a family, each loaded at its first use.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::failed;
use crate::error::Result;

/// Shared memory that a block may ask for on every GPU of compute capability 8.0 and up; without leave it is 48 KB.
pub(super) const SHARED_BYTES: i32 = 99 << 10;

/// A family of kernels: a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Attention,
    Conv,
    Decode,
    Gemm,
    Gemv,
    Norm,
    RewardHead,
    Sample,
    Vq,
}

impl Family {
    const fn ptx(self) -> &'static str {
        match self {
            Self::Attention => include_str!("../../kernels/ptx/attention.ptx"),
            Self::Conv => include_str!("../../kernels/ptx/conv.ptx"),
            Self::Decode => include_str!("../../kernels/ptx/decode.ptx"),
            Self::Gemm => include_str!("../../kernels/ptx/gemm.ptx"),
            Self::Gemv => include_str!("../../kernels/ptx/gemv.ptx"),
            Self::Norm => include_str!("../../kernels/ptx/norm.ptx"),
            Self::RewardHead => include_str!("../../kernels/ptx/reward_head.ptx"),
            Self::Sample => include_str!("../../kernels/ptx/sample.ptx"),
            Self::Vq => include_str!("../../kernels/ptx/vq.ptx"),
        }
    }
}

/// What has been loaded so far.
#[derive(Debug, Default)]
pub(super) struct Modules(Mutex<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    modules: BTreeMap<Family, Arc<CudaModule>>,
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
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(kernel) {
            return Ok(function.clone());
        }
        let module = match loaded.modules.get(&family) {
            Some(module) => Arc::clone(module),
            None => {
                let ptx = Ptx::from_src(family.ptx());
                let module = context.load_module(ptx).map_err(|e| failed(kernel, e))?;
                loaded.modules.insert(family, Arc::clone(&module));
                module
            }
        };
        let function = module
            .load_function(kernel)
            .map_err(|e| failed(kernel, e))?;
        if family == Family::Gemm {
            function
                .set_attribute(
                    CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    SHARED_BYTES,
                )
                .map_err(|e| failed(kernel, e))?;
        }
        loaded.functions.insert(kernel, function.clone());
        Ok(function)
    }
}

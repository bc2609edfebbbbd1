//! Autoregressive image generation that verifies before it delivers.
#![no_std]

//! The models by their laws, and what they refuse. One program, so that each model is compiled once for all of it.

mod bad_input;
#[path = "../bundled"]
mod bundled {
    pub mod drawing;
    pub mod files;
    pub mod janus;
    pub mod judging;
}
mod bundled_janus;
mod bundled_search;
mod janus;
mod janus_draws;
mod latent;
mod llamagen;
mod llava;
mod magvit;
mod show_o;
mod threads;
#[path = "../tiny_janus/mod.rs"]
mod tiny_janus;

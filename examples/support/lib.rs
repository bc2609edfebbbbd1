//! What the examples and their tests share: models opened from folders, pictures and sheets, results and shards, and the
//! world of the bundled models.
//!
//! A library, so that the models are compiled once for the CPU and not once for every program: what they are generic
//! over is filled in here.

pub mod auc;
pub mod canvas;
pub mod chart;
pub mod checker;
pub mod choice;
pub mod comparison;
pub mod detections;
pub mod evaluation;
pub mod kernels;
pub mod layout;
pub mod layouts;
pub mod locator;
pub mod measured;
pub mod memory;
pub mod open;
pub mod parts;
pub mod person;
pub mod png_file;
pub mod precision;
pub mod random_file;
pub mod record;
pub mod report;
pub mod requests;
pub mod results;
pub mod rules;
pub mod say;
pub mod score;
pub mod scorer;
pub mod settings;
pub mod shard;
pub mod sheet;
pub mod status;
pub mod weights;
pub mod world;

//! The programs, as somebody at a terminal or on a cluster runs them, and a program in C over the library. One test program:
//! while one of them waits, another works.

mod align;
mod c_program;
mod comparison;
mod distil;
mod drawing;
mod evaluation;
mod interrupted;
#[cfg(target_os = "linux")]
mod kernel_report;
mod model_dirs;
#[path = "../programs/mod.rs"]
mod programs;

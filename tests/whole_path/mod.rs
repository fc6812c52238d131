//! What the tests of the whole path share.

pub mod asker;
pub mod dead_letters;
mod handover;
pub mod history;
pub mod publishing;
#[path = "../simulation/rng.rs"]
#[allow(dead_code)]
pub mod rng;
pub mod run;
mod several_instances;
pub mod truth;

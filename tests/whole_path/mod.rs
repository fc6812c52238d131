//! What the tests of the whole path share.

pub mod asker;
pub mod dead_letters;
pub mod history;
pub mod publishing;
#[path = "../simulation/rng.rs"]
#[allow(dead_code)]
pub mod rng;
pub mod run;
pub mod truth;

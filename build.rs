//! Generates the Rust types of the schemas, without protoc.

use std::path::{Path, PathBuf};

use prost::Message;

/// Every schema. A package `a.b.v1` becomes the file `a.b.v1.rs` in the build folder.
const SCHEMAS: &[&str] = &["readstates.proto", "internal.proto", "rows.proto"];
const SCHEMAS_DIR: &str = "schemas";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for schema in SCHEMAS {
        println!("cargo::rerun-if-changed={SCHEMAS_DIR}/{schema}");
    }
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = protox::compile(SCHEMAS, [Path::new(SCHEMAS_DIR)])?;
    // Read at run time by prost-reflect, for JSON.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    prost_build::Config::new()
        .enable_type_names()
        .compile_fds(descriptors)?;
    Ok(())
}

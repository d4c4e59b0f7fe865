//! Compiles the .proto files with protox, so that no protoc is needed.

use prost::Message as _;
use std::path::PathBuf;

const FILES: [&str; 8] = [
    "health", "common", "run", "link", "rank", "store", "snapshot", "admin",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=rebloom/v1");
    let files = FILES.map(|name| format!("rebloom/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("rebloom.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

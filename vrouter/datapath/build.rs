//! Makes the drop reasons (C header, Rust enum, docs page) from their table, compiles the eBPF programs and
//! generates the skeleton with the types of the maps.

#[path = "build/reasons.rs"]
mod reasons;

use std::path::PathBuf;
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let bpf = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../bpf");
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rerun-if-changed=build");

    let table = reasons::read(&fs::read_to_string(bpf.join("drop_reasons.toml"))?)?;
    fs::write(out.join("drop_reasons.h"), reasons::c_header(&table))?;
    fs::write(out.join("drop_reason.rs"), reasons::rust_enum(&table))?;
    fs::write(out.join("drop-reasons.md"), reasons::markdown(&table))?;

    // The headers of the very libbpf that will load the object, never the system's.
    fs::create_dir_all(out.join("bpf"))?;
    for (name, text) in libbpf_rs::libbpf_sys::API_HEADERS {
        fs::write(out.join("bpf").join(name), text)?;
    }

    libbpf_cargo::SkeletonBuilder::new()
        .source(bpf.join("vrouter.bpf.c"))
        .obj(out.join("vrouter.bpf.o"))
        .reference_obj(true)
        .clang_args([
            format!("-I{}", bpf.display()),
            format!("-I{}", out.display()),
            "-Wall".into(),
            "-Wextra".into(),
            "-Werror".into(),
            // Kernel 6.1 knows v3; debug info with line numbers makes verifier logs readable.
            "-mcpu=v3".into(),
        ])
        .build_and_generate(out.join("vrouter.skel.rs"))
        .map_err(|error| format!("cannot build the eBPF programs: {error:#}; `apt install clang libelf-dev zlib1g-dev`"))?;
    Ok(())
}

//! Compiles the contracts without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["session.proto", "ports.proto", "enroll.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // A message is made, sent and dropped; a box around the large ones would be one more allocation each.
        .type_attribute("skein.session.v1.ToAgent.message", "#[allow(clippy::large_enum_variant)]")
        .compile_fds(descriptors)?;
    Ok(())
}

//! Compiles the part of etcd's interface that is used, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=etcd.proto");
    let descriptors = protox::compile(["etcd.proto"], ["."])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}

//! The programs under test, built as this test was built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PROGRAMS: [&str; 3] = ["skein", "skeind", "skein-cni"];

/// The folder with Skein's programs, of this test's own profile. Builds what is missing, or older than
/// one of its sources: `cargo test -p skein-lab` alone builds no program of another package.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find).clone()
}

fn find() -> PathBuf {
    // .../target/PROFILE/deps/this-test
    let own = std::env::current_exe().expect("the test knows its own path");
    let folder = own.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_owned();
    if PROGRAMS.iter().all(|name| is_fresh(&folder, name)) {
        return folder;
    }
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = folder.parent().expect("a profile has a folder in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(["build", "--quiet", "--profile", profile, "--target-dir"]).arg(target);
    for name in PROGRAMS {
        build.args(["-p", name]);
    }
    let status = build.status().unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(
        status.success(),
        "the programs under test do not build; see why with `cargo build -p {}`",
        PROGRAMS.join(" -p ")
    );
    for name in PROGRAMS {
        let path = folder.join(name);
        assert!(path.is_file(), "cargo built no {}", path.display());
    }
    folder
}

/// Whether a program is younger than every source that cargo's own list beside it names.
fn is_fresh(folder: &Path, name: &str) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let list = std::fs::read_to_string(folder.join(format!("{name}.d"))).unwrap_or_default();
    let Some((_, sources)) = list.split_once(':') else { return false };
    let Some(built) = modified(&folder.join(name)) else { return false };
    sources
        .split_whitespace()
        .all(|source| modified(Path::new(source)).is_some_and(|changed| changed <= built))
}

//! The original's own Python client, unmodified, drives the server: spec section 18.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

mod support;

use std::{path::Path, process::Command};

use support::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn the_unmodified_python_client_works() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture = Fixture::new().await;
    let port = fixture.server.local_addr().port();
    let run = tokio::task::spawn_blocking(move || {
        let setup = Command::new(here.join("../../lab/python/setup.sh")).output().unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        let python = String::from_utf8(setup.stdout).unwrap();
        Command::new(python.trim())
            .arg(here.join("tests/python/test_vnc_client.py"))
            .env("SKEIN_API_PORT", port.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOME", "/nonexistent")
            .output()
            .unwrap()
    });
    let output = run.await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
    assert!(text.contains("Ran ") && text.trim_end().ends_with("OK"), "{text}");
}

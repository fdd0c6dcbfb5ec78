//! Replays the fuzzing corpus: no input makes the parser panic, and every refusal is a CNI error.

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_answered() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        // Cut anywhere, an input must be as harmless as whole.
        for end in 0..=input.len() {
            if let Err(error) = skein_cni::Request::parse_recorded(&input[..end]) {
                let answer = error.to_json(&input);
                assert!(answer["code"].as_u64().is_some_and(|code| code > 0), "{}", path.display());
                assert!(!error.details.is_empty());
            }
        }
        seen += 1;
    }
    assert!(seen >= 7);
}

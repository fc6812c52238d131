//! The documentation says what the program does.

use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_readme_has_every_key_of_the_configuration() {
    let reference = readstates::config::reference();
    assert!(
        read("README.md").contains(&reference),
        "put this table into README.md:\n{reference}"
    );
}

#[test]
fn links_to_files_lead_somewhere() {
    for file in ["README.md", "ARCHITECTURE.md", "docs/operations.md"] {
        for link in read(file).split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            let is_file = !target.contains("://") && !target.starts_with('#');
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(target);
            assert!(
                !is_file || path.exists(),
                "{file} links to {target}, which is not there"
            );
        }
    }
}

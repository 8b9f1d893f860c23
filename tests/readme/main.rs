//! The README's examples, as they stand there, and that they stand there as they are here.

mod failing;
mod greeting;

#[test]
fn the_readme_shows_these_files() {
    let files = [include_str!("greeting.rs"), include_str!("failing.rs")];
    let readme = include_str!("../../README.md");
    let shown: Vec<&str> =
        readme.split("```rust\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert_eq!(shown.len(), files.len());
    for (shown, file) in shown.into_iter().zip(files) {
        assert!(file.contains(shown), "an example in README.md differs:\n{shown}");
    }
}

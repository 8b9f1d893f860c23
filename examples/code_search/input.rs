//! Which files are indexed: those of a folder, or the sources of the crates that this
//! workspace depends on, which every machine that built it has.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// Larger files are left out, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a file's name ends with if it is source or plain text.
const EXTENSIONS: [&str; 24] = [
    "asm", "c", "cc", "cpp", "css", "go", "h", "hpp", "html", "java", "js", "json", "md", "proto",
    "py", "rs", "s", "sh", "sql", "toml", "ts", "txt", "yaml", "yml",
];

/// A file to index.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    /// What it is called: `tokio-1.54.1/src/lib.rs`.
    pub(crate) path: String,
    /// Where it is on this machine.
    pub(crate) place: PathBuf,
}

/// The files to index, each path once.
#[derive(Debug)]
pub(crate) struct Input {
    /// Where they are from, for people.
    pub(crate) origin: String,
    pub(crate) files: Vec<SourceFile>,
    /// Files left out: too large, or with a name that is not Unicode.
    pub(crate) skipped: usize,
}

impl Input {
    /// The source files in `folder` and below.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let failed = |error| format!("{} can not be read: {error}", folder.display());
        let whole = folder.canonicalize().map_err(failed)?;
        fs::read_dir(&whole).map_err(failed)?;
        let name = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let origin = format!("the folder {}", folder.display());
        Self { origin, files: Vec::new(), skipped: 0 }.with(name, &whole).finished()
    }

    /// The sources of the crates that this workspace depends on, as far as they are on this
    /// machine.
    pub(crate) fn of_dependencies() -> Result<Self, Box<dyn Error>> {
        let mut input = Self { origin: String::new(), files: Vec::new(), skipped: 0 };
        let mut crates = 0;
        for package in dependencies()? {
            if let Some(folder) = package.manifest_path.parent().filter(|folder| folder.is_dir()) {
                crates += 1;
                input = input.with(&format!("{}-{}", package.name, package.version), folder);
            }
        }
        input.origin =
            format!("the sources of the {crates} crates that this workspace is built on");
        input.finished()
    }

    /// Adds what is in `folder`, under the name `name`.
    fn with(mut self, name: &str, folder: &Path) -> Self {
        let mut folders = vec![(name.to_owned(), folder.to_owned())];
        while let Some((path, folder)) = folders.pop() {
            // A cache, such as the target folder of cargo, says so by this file.
            if folder.join("CACHEDIR.TAG").exists() {
                continue;
            }
            let Ok(entries) = fs::read_dir(&folder) else {
                self.skipped += 1;
                continue;
            };
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    self.skipped += 1;
                    continue;
                };
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                // Links are not followed: they may lead round in a circle.
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && !name.starts_with('.') {
                    folders.push((path, entry.path()));
                } else if kind.is_file() && is_source(&name) {
                    match entry.metadata() {
                        Ok(file) if file.len() <= MAX_FILE_BYTES => {
                            self.files.push(SourceFile { path, place: entry.path() });
                        }
                        _ => self.skipped += 1,
                    }
                }
            }
        }
        self
    }

    fn finished(mut self) -> Result<Self, Box<dyn Error>> {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        // The same crate from two registries has the same name.
        self.files.dedup_by(|a, b| a.path == b.path);
        if self.files.is_empty() {
            return Err(format!("there are no source files in {}", self.origin).into());
        }
        Ok(self)
    }
}

fn is_source(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// What is read of the answer of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// None for the packages of this workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

/// The packages of other people that this workspace is built from on this machine.
fn dependencies() -> Result<Vec<Package>, Box<dyn Error>> {
    // Without a platform, cargo wants the sources for all of them, and nobody has those.
    let version = cargo(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("cargo does not say which platform this is")?;
    let of_host = ["metadata", "--format-version=1", "--filter-platform", host];
    // Building one example downloads less than all members of the workspace need; what is
    // missing is fetched, but a machine without a network must do if it has everything.
    let metadata = cargo(&[&of_host[..], &["--frozen"]].concat())
        .or_else(|_| cargo(&[&of_host[..], &["--locked"]].concat()))?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    Ok(metadata.packages.into_iter().filter(|package| package.source.is_some()).collect())
}

/// What cargo prints, asked in this workspace.
fn cargo(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| format!("cargo does not start ({error}); name a FOLDER instead"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {} failed: {}", arguments[0], why.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

//! A folder for as long as the demo runs.

use std::path::{Path, PathBuf};

/// A new folder among the temporary files, removed with all that is in it when it is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new() -> std::io::Result<Self> {
        let name = format!("tidegate-demo-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind among the temporary files harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_with_what_is_in_it() {
        let folder = Folder::new().expect("made");
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), "text").expect("written");
        drop(folder);
        assert!(!path.exists());
    }
}

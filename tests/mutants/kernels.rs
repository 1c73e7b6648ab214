//! Copies of `kernels/` with edits, and their PTX.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::table::{Edit, Target};

/// A compiler, found as `build.rs` finds it.
pub(crate) struct Nvcc(PathBuf);

impl Nvcc {
    pub(crate) fn find() -> Option<Self> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
        let in_homes = homes.map(|home| Path::new(&home).join("bin/nvcc"));
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
        let named = variable("NVCC").map(PathBuf::from);
        let mut all = named.into_iter().chain(in_homes).chain(in_path);
        all.find(|nvcc| nvcc.is_file()).map(Self)
    }
}

/// A folder with a copy of `kernels/`, which goes when this does.
pub(crate) struct Copy(PathBuf);

impl Copy {
    /// With these edits, in their order.
    pub(crate) fn of<'a>(edits: impl Iterator<Item = &'a Edit>) -> Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("mutant-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let copy = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        copy_folder(&kernels, &copy.0.join("kernels")).map_err(|error| error.to_string())?;
        let mut files = BTreeMap::new();
        for Edit { file, old, new } in edits {
            let path = copy.0.join("kernels").join(file);
            let text = match files.remove(&path) {
                Some(text) => text,
                None => fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?,
            };
            let (old, new) = (old.join("\n"), new.join("\n"));
            let times = text.matches(&old).count();
            if times != 1 {
                return Err(format!("{file} has this {times} times, not once:\n{old}"));
            }
            files.insert(path, text.replace(&old, &new));
        }
        for (path, text) in files {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(copy)
    }

    /// The PTX of one of its sources.
    pub(crate) fn compile(
        &self,
        nvcc: &Nvcc,
        source: &str,
        target: Target,
    ) -> Result<PathBuf, String> {
        let ptx = self.0.join("mutant.ptx");
        let output = Command::new(&nvcc.0)
            .current_dir(&self.0)
            .args(["--options-file", "kernels/nvcc-options.txt", "-ptx"])
            .arg(format!("-arch={target}"))
            .arg(Path::new("kernels").join(source))
            .arg("-o")
            .arg(&ptx)
            .output()
            .map_err(|error| format!("{}: {error}", nvcc.0.display()))?;
        match output.status.success() {
            true => Ok(ptx),
            false => Err(format!("nvcc: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left is in cargo's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(|_| ())?,
        }
    }
    Ok(())
}

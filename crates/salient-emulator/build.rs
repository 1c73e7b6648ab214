//! Compiles the kernels as C++ for the CPU. Needs a C++ compiler and nothing of CUDA.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let kernels = here.join("../../kernels").canonicalize().expect("kernels/ of the workspace");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-changed=probes");
    println!("cargo::rerun-if-changed=src/runtime.cpp");
    let sources = sources(&kernels);
    compile(&here, &kernels, "salient_mutated_kernels", &sources, true);
    let probes = self::sources(&here.join("probes"));
    let others = [here.join("src/runtime.cpp")].into_iter().chain(probes);
    let sources: Vec<PathBuf> = sources.into_iter().chain(others).collect();
    compile(&here, &kernels, "salient_emulated_kernels", &sources, false);
}

fn compile(here: &Path, kernels: &Path, name: &str, sources: &[PathBuf], mutants: bool) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .define("SALIENT_EMULATOR", None)
        .include(kernels)
        .include(here.join("include"))
        .flag("-xc++")
        // The arithmetic that the kernels spell out, no more and no less.
        .flag("-ffp-contract=off")
        .flag("-fvisibility=hidden")
        .flag("-Wno-unknown-pragmas")
        // Of parameters that are aligned to more than 16 bytes: there is one compiler here.
        .flag("-Wno-psabi")
        .files(sources);
    if mutants {
        build.define("SALIENT_MUTANTS", None);
    }
    build.compile(name);
}

/// Every `.cu` below a folder, in order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = folder.read_dir().unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    found.sort();
    found
}

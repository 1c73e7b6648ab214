//! Under feature `cuda`, compiles `kernels/` with nvcc into a static library. Under feature
//! `bindgen`, writes the bindings of their C ABI into `OUT_DIR`. Otherwise does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(salient_kernels)");
    #[cfg(feature = "bindgen")]
    bindings::write();
    #[cfg(feature = "cuda")]
    kernels::build();
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    type Result<T> = std::result::Result<T, String>;

    const FOLDER: &str = "kernels";
    /// What `scripts/check-kernels` compiles with too.
    const OPTIONS: &str = "kernels/nvcc-options.txt";
    const ARCHITECTURES: &str = "80;86;89;90a;100a";
    const OLDEST_ARCHITECTURE: u32 = 80;
    const OLDEST_NVCC: (u32, u32) = (12, 4);
    const HELP: &str = "\
feature `cuda` needs nvcc 12.4 or later; one of these lines will do:
    export CUDA_HOME=/usr/local/cuda   # wherever bin/nvcc of a CUDA toolkit is
    eval \"$(scripts/cuda-toolkit)\"    # in salient's repository: installs one from Python wheels
    export SALIENT_SKIP_KERNELS=1      # to check and document: no kernels, launchers do not link";

    /// Compiles and links the kernels, and sets the cfg `salient_kernels` when they are there.
    pub(crate) fn build() {
        println!("cargo::rerun-if-changed={FOLDER}");
        for variable in [
            "CUDA_COMPUTE_CAP",
            "CUDA_HOME",
            "CUDA_PATH",
            "DOCS_RS",
            "NVCC",
            "SALIENT_CUDART",
            "SALIENT_CUDA_ARCHS",
            "SALIENT_SKIP_KERNELS",
        ] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        if variable("SALIENT_SKIP_KERNELS").is_some_and(|skip| skip == "1")
            || variable("DOCS_RS").is_some()
        {
            return;
        }
        if let Err(error) = compile_and_link() {
            for line in error.lines() {
                println!("cargo::error={line}");
            }
        }
    }

    fn compile_and_link() -> Result<()> {
        let mut sources = Vec::new();
        find_sources(Path::new(FOLDER), &mut sources)?;
        sources.sort();
        if sources.is_empty() {
            println!("cargo::warning={FOLDER}/ holds no .cu file: there are no kernels to link");
            return Ok(());
        }
        let nvcc = find_nvcc()?;
        let objects = compile(&sources, &nvcc)?;
        cc::Build::new()
            .cargo_metadata(false)
            .try_create_archive("salient_kernels", &objects)
            .map_err(|error| error.to_string())?;
        println!("cargo::rustc-link-search=native={}", out_dir().display());
        println!("cargo::rustc-link-lib=static=salient_kernels");
        link_cudart(&nvcc)?;
        println!("cargo::rustc-cfg=salient_kernels");
        Ok(())
    }

    fn find_sources(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
        let unreadable = |error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                find_sources(&path, sources)?;
            } else if path.extension().is_some_and(|extension| extension == "cu") {
                sources.push(path);
            }
        }
        Ok(())
    }

    /// The first nvcc there is, if it is new enough.
    fn find_nvcc() -> Result<PathBuf> {
        let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
        let in_homes = homes.map(|home| Path::new(&home).join("bin").join(&name));
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|folder| folder.join(&name));
        let nvcc = variable("NVCC")
            .map(PathBuf::from)
            .into_iter()
            .chain(in_homes)
            .chain(in_path)
            .find(|nvcc| nvcc.is_file())
            .ok_or(format!("no nvcc at NVCC, in CUDA_HOME, in CUDA_PATH or on PATH\n{HELP}"))?;
        let about = stdout(&nvcc, "--version")?;
        let version = about
            .split_once("release ")
            .and_then(|(_, rest)| rest.split([',', '\n']).next())
            .and_then(|version| version.split_once('.'))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or(format!("{} --version names no release\n{HELP}", nvcc.display()))?;
        if version < OLDEST_NVCC {
            let (major, minor) = version;
            return Err(format!("{} is of CUDA {major}.{minor}\n{HELP}", nvcc.display()));
        }
        Ok(nvcc)
    }

    /// An object for each source: no relocatable device code, so nothing to link on the device.
    fn compile(sources: &[PathBuf], nvcc: &Path) -> Result<Vec<PathBuf>> {
        let mut build = cc::Build::new();
        // cc turns debug information into unoptimised kernels, hence never. It would warn that nvcc
        // is not on PATH, where it need not be.
        build.cuda(true).debug(false).opt_level(3).warnings(false).cargo_warnings(false);
        build.flag("--options-file").flag(OPTIONS);
        for flag in code_generation(nvcc)? {
            build.flag(flag);
        }
        let tool = build.try_get_compiler().map_err(|error| error.to_string())?;

        let jobs = variable("NUM_JOBS").and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
        let next = AtomicUsize::new(0);
        let worker = || -> Result<()> {
            while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                compile_one(&tool, nvcc, source)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
        })?;
        Ok(sources.iter().map(|source| object(source)).collect())
    }

    fn compile_one(tool: &cc::Tool, nvcc: &Path, source: &Path) -> Result<()> {
        // cc looks for nvcc on PATH alone; its command may begin with a compiler cache.
        let command = tool.to_command();
        let mut words = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| if word == "nvcc" { nvcc.as_os_str() } else { word });
        let output = Command::new(words.next().expect("a command has a program"))
            .args(words)
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(object(source))
            .output()
            .map_err(|error| format!("{}: {error}", nvcc.display()))?;
        let messages = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let status = output.status;
            return Err(format!("{}: nvcc: {status}\n{messages}", source.display()));
        }
        for line in messages.lines() {
            println!("cargo::warning={line}");
        }
        Ok(())
    }

    /// Machine code for every architecture asked for that this nvcc knows, and PTX for what comes
    /// after the newest of them; of those that are asked for as `compute_N`, PTX alone.
    fn code_generation(nvcc: &Path) -> Result<Vec<String>> {
        let (from, asked) = ["SALIENT_CUDA_ARCHS", "CUDA_COMPUTE_CAP"]
            .into_iter()
            .find_map(|name| Some((name, variable(name)?)))
            .unwrap_or(("the default", ARCHITECTURES.to_owned()));
        let help = stdout(nvcc, "--help")?;
        let mut known = Vec::new();
        for name in asked.split([';', ',', ' ']).filter(|name| !name.is_empty()) {
            let (kind, name) = match name.strip_prefix("compute_") {
                Some(name) => ("compute", name),
                None => ("sm", name.trim_start_matches("sm_")),
            };
            if help.contains(&format!("'{kind}_{name}'")) {
                known.push((kind, name));
            } else {
                println!("cargo::warning={from}: this nvcc has no {kind}_{name}; skipped");
            }
        }
        let number = |name: &str| name.trim_end_matches(['a', 'f']).parse::<u32>().ok();
        if let Some((_, old)) =
            known.iter().find(|(_, name)| number(name) < Some(OLDEST_ARCHITECTURE))
        {
            return Err(format!("{from}: sm_{old}, but the kernels need sm_80 or later"));
        }
        if known.is_empty() {
            return Err(format!(
                "{from}: {asked:?} names no architecture of this nvcc; try 80;90a"
            ));
        }
        let mut flags: Vec<_> = known
            .iter()
            .map(|(kind, name)| format!("-gencode=arch=compute_{name},code={kind}_{name}"))
            .collect();
        flags.sort();
        flags.dedup();
        let machine_code = known.iter().filter(|(kind, _)| *kind == "sm");
        if let Some(newest) = machine_code.filter_map(|(_, name)| number(name)).max() {
            flags.push(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
        }
        Ok(flags)
    }

    /// The CUDA runtime: inside the binary, which then starts with no driver and no toolkit; or
    /// shared, to be the same as that of other code that shares it.
    fn link_cudart(nvcc: &Path) -> Result<()> {
        let nvcc = fs::canonicalize(nvcc).map_err(|error| format!("nvcc: {error}"))?;
        let home = nvcc.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        for folder in ["lib64", "lib", "lib/x64"] {
            let folder = home.join(folder);
            if folder.is_dir() {
                println!("cargo::rustc-link-search=native={}", folder.display());
            }
        }
        match variable("SALIENT_CUDART").as_deref() {
            None | Some("static") => link(&["cudart_static"]),
            Some("shared") => link(&["cudart"]),
            Some(other) => {
                return Err(format!("SALIENT_CUDART is {other:?}, not static or shared"));
            }
        }
        if variable("CARGO_CFG_TARGET_OS").as_deref() == Some("linux") {
            // The host code that nvcc generates is C++; the others are the static runtime's.
            link(&["stdc++", "dl", "pthread", "rt"]);
        }
        Ok(())
    }

    fn link(libraries: &[&str]) {
        for library in libraries {
            println!("cargo::rustc-link-lib={library}");
        }
    }

    fn object(source: &Path) -> PathBuf {
        let name = source.with_extension("o").display().to_string();
        out_dir().join(name.replace(['/', '\\'], "-"))
    }

    fn out_dir() -> PathBuf {
        env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
    }

    /// An environment variable, unless it is empty.
    fn variable(name: &str) -> Option<String> {
        env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn stdout(program: &Path, argument: &str) -> Result<String> {
        let output = Command::new(program)
            .arg(argument)
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(feature = "bindgen")]
mod bindings {
    use std::path::Path;

    use bindgen::callbacks::ParseCallbacks;

    const HEADER: &str = "kernels/include/salient.h";

    pub(crate) fn write() {
        println!("cargo::rerun-if-changed=kernels/include");
        let bindings = bindgen::Builder::default()
            .header(HEADER)
            .allowlist_file(r"kernels/include/.*\.h")
            .clang_args(["-std=c17", "-fparse-all-comments"])
            .parse_callbacks(Box::new(Comments))
            .rust_edition(bindgen::RustEdition::Edition2024)
            .formatter(bindgen::Formatter::Prettyplease)
            .disable_header_comment()
            .raw_line("// Made by bindgen from kernels/include/salient.h: see scripts/bindings.")
            .use_core()
            .merge_extern_blocks(true)
            .prepend_enum_name(false)
            .derive_partialeq(true)
            .derive_default(true)
            // These hold pointers, and their default would take unsafe code.
            .no_default("Salient.*Params|SalientRowTensor")
            .generate()
            .unwrap_or_else(|error| panic!("{HEADER}: {error}"));
        let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
        std::fs::write(Path::new(&out).join("raw.rs"), tidy(&bindings.to_string()))
            .expect("OUT_DIR is writable");
    }

    /// Comments become documentation, a line each; shapes such as `[batch]` are no links there.
    #[derive(Debug)]
    struct Comments;

    impl ParseCallbacks for Comments {
        fn process_comment(&self, comment: &str) -> Option<String> {
            let comment = comment.replace('[', "\\[").replace(']', "\\]");
            Some(comment.replace('\n', ""))
        }
    }

    /// Gives the constants of anonymous enums the type of the fields they are for, in place of
    /// numbered aliases, and keeps the layout tests to pointers of the size they were made with.
    fn tidy(bindings: &str) -> String {
        let mut lines = Vec::new();
        for line in bindings.lines() {
            if line.starts_with("pub type _bindgen_ty_") {
                lines.pop_if(|line: &mut String| line.starts_with("///"));
            } else if let Some((name, alias)) = line.split_once(": _bindgen_ty_") {
                let value = alias.trim_start_matches(|c: char| c.is_ascii_digit());
                let kind = if name.contains("SALIENT_STATUS_") { "u32" } else { "i32" };
                lines.push(format!("{name}: {kind}{value}"));
            } else {
                if line == "const _: () = {" {
                    lines.push("#[cfg(target_pointer_width = \"64\")]".to_owned());
                }
                lines.push(line.to_owned());
            }
        }
        lines.join("\n") + "\n"
    }
}

//! Under feature `cuda`, compiles `kernels/` with nvcc into a static library. Under feature
//! `bindgen`, writes the bindings of their C ABI into `OUT_DIR`. Otherwise does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(salient_kernels)");
    #[cfg(feature = "bindgen")]
    bindings::write();
}

#[cfg(feature = "bindgen")]
mod bindings {
    use std::path::Path;

    use bindgen::callbacks::ParseCallbacks;

    const HEADER: &str = "kernels/include/salient.h";

    pub(crate) fn write() {
        println!("cargo::rerun-if-changed={HEADER}");
        let bindings = bindgen::Builder::default()
            .header(HEADER)
            .allowlist_file(HEADER)
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

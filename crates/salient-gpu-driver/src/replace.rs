//! Other PTX in place of what a program was built with: `SALIENT_GPU_PTX` lists files, with colons
//! between.
//!
//! A file takes the place of the module that has the same kernels, for the same target; it may lack
//! some of them. So tests run a program on kernels with a mistake in them, without building it
//! again.

use std::borrow::Cow;
use std::collections::BTreeMap;

const VARIABLE: &str = "SALIENT_GPU_PTX";
/// What nvcc puts in place of an anonymous namespace: two hashes around the file's name.
const MARK: &str = "_GLOBAL__N__";
const HASH: usize = 8;

/// The text of a module, or what a file has in its place, under the names that the program knows.
///
/// # Errors
///
/// A file that cannot be read.
pub(crate) fn replace(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    let Ok(files) = std::env::var(VARIABLE) else { return Ok(text) };
    for path in files.split(':').filter(|path| !path.is_empty()) {
        let other = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        if let Some(renamed) = in_place_of(&text, &other) {
            return Ok(renamed.into());
        }
    }
    Ok(text)
}

/// `other` with the names of `text`, if it is for the same target and all its kernels are of
/// `text`.
fn in_place_of(text: &str, other: &str) -> Option<String> {
    let (ours, theirs) = (entries(text), entries(other));
    let known = !theirs.is_empty() && theirs.keys().all(|name| ours.contains_key(name));
    if target(text) != target(other) || !known {
        return None;
    }
    let mut renamed = other.to_owned();
    for (plain, name) in &theirs {
        if *name != ours[plain] {
            renamed = renamed.replace(name, ours[plain]);
        }
    }
    Some(renamed)
}

fn target(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(".target")).map(str::trim)
}

/// The names of kernels, by what is left of them without hashes.
fn entries(text: &str) -> BTreeMap<String, &str> {
    text.lines()
        .filter_map(|line| {
            let name = line.split_once(".entry ")?.1;
            let name = name.split(['(', ' ']).next()?;
            Some((without_hashes(name), name))
        })
        .collect()
}

fn without_hashes(name: &str) -> String {
    let Some((before, rest)) = name.split_once(MARK) else { return name.to_owned() };
    // 8 digits, the length of the file's name, the name, 8 digits.
    let file = || {
        let (length, rest) = rest.get(HASH..)?.strip_prefix('_')?.split_once('_')?;
        let (file, rest) = rest.split_at_checked(length.parse().ok()?)?;
        Some(format!("{before}{file}{}", rest.get(1 + HASH..)?))
    };
    file().unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = ".version 9.0\n.target sm_80\n\
        .entry _ZN7salient39_GLOBAL__N__b03611ab_7_pool_cu_4ff43ca74poolEi(\n\
        ld _ZN7salient39_GLOBAL__N__b03611ab_7_pool_cu_4ff43ca74poolEi_param_0\n";

    #[test]
    fn names_differ_in_hashes_alone() {
        let other = OURS.replace("b03611ab", "00000000").replace("4ff43ca7", "11111111");
        let other = other.replace("ld ", "st ");
        assert_eq!(in_place_of(OURS, &other), Some(OURS.replace("ld ", "st ")));
    }

    #[test]
    fn another_target_and_other_kernels_are_no_replacement() {
        assert_eq!(in_place_of(OURS, &OURS.replace("sm_80", "sm_90a")), None);
        assert_eq!(in_place_of(OURS, &OURS.replace("4pool", "4pond")), None);
        assert_eq!(in_place_of(OURS, ""), None);
    }

    #[test]
    fn some_of_the_kernels_are_enough_and_one_too_many_is_not() {
        let both = format!("{OURS}{}", OURS.replace("4pool", "4pond"));
        assert_eq!(in_place_of(&both, OURS), Some(OURS.to_owned()));
        assert_eq!(in_place_of(OURS, &both), None);
    }
}

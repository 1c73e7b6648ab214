//! How models of the hub are named.

use std::fmt;

/// A model of the hub: `org/name`, or one of its files, `org/name/FILE.gguf`; either of a branch,
/// tag or commit, `@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    repository: String,
    file: Option<String>,
    revision: String,
}

/// The branch that is meant where no revision is named.
const MAIN: &str = "main";

impl Name {
    /// The model that `text` names, if it has the form of a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let parts: Vec<&str> = path.split('/').collect();
        let (owner, model, file) = match parts[..] {
            [owner, model] => (owner, model, None),
            [owner, model, file] => (owner, model, Some(file)),
            _ => return None,
        };
        // As the hub has them; `--` stands for the slash in the cache's folders.
        let of_hub = |word: &&str| is_word(word) && !word.contains("--") && !is_gguf(word);
        if ![owner, model].iter().all(of_hub) {
            return None;
        }
        if file.is_some_and(|file| !is_word(file) || !is_gguf(file)) {
            return None;
        }
        // A revision may have slashes, as in refs/pr/1, and is a path in the cache.
        if !revision.split('/').all(is_word) {
            return None;
        }
        Some(Self {
            repository: format!("{owner}/{model}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The .gguf file, if one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The branch, tag or commit; `main` where none is named.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// Whether a file's name says that it is GGUF.
pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `text` is safe as one part of a path and of an address.
pub(super) fn is_word(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(inside)
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let parts = |text: &str| {
            let name = Name::parse(text)?;
            assert_eq!(name.to_string(), text.trim_end_matches("@main"));
            Some((name.repository, name.file, name.revision))
        };
        let is = |repository: &str, file: Option<&str>, revision: &str| {
            Some((repository.to_owned(), file.map(str::to_owned), revision.to_owned()))
        };
        assert_eq!(parts("org/name"), is("org/name", None, "main"));
        assert_eq!(parts("org/name@main"), is("org/name", None, "main"));
        assert_eq!(parts("Qwen/Qwen3-0.6B@v1.0"), is("Qwen/Qwen3-0.6B", None, "v1.0"));
        assert_eq!(parts("a/b@refs/pr/1"), is("a/b", None, "refs/pr/1"));
        assert_eq!(parts("a/b-GGUF/b-Q8_0.gguf"), is("a/b-GGUF", Some("b-Q8_0.gguf"), "main"));
        assert_eq!(parts("a/b/c.GGUF@0af3"), is("a/b", Some("c.GGUF"), "0af3"));
        for path in [
            "",
            "name",
            "/org/name",
            "./org",
            "../org",
            "org/",
            "org//name",
            "org/name/",
            "no/such.gguf",
            "org/name/model.safetensors",
            "org/name/.gguf",
            "org/name/sub/file.gguf",
            "org/name/../x.gguf",
            "org/na--me",
            "org/name@",
            "org/name@../../x",
            "org/name@/x",
            "org/name@a@b",
            "org/my model",
            "org\\name",
            "org/name?x",
        ] {
            assert_eq!(parts(path), None, "{path}");
        }
    }
}

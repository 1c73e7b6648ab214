//! The table of mutants.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// `table.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// Edits that leave a source fewer instances, to be compiled sooner: a name for each set.
    pub(crate) cuts: BTreeMap<String, Vec<Edit>>,
    pub(crate) mutants: Vec<Mutant>,
}

/// A mistake.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// For readers: what goes wrong by it.
    #[allow(dead_code, reason = "for readers of the table")]
    pub(crate) breaks: String,
    /// The file in `kernels/` that is compiled.
    pub(crate) source: String,
    /// What it is compiled for.
    pub(crate) target: Target,
    /// The name of a cut, if there is one.
    #[serde(default)]
    pub(crate) cut: Option<String>,
    pub(crate) edits: Vec<Edit>,
    pub(crate) runs: Vec<Run>,
}

/// Other text in a file in `kernels/`, by lines. The old text is there exactly once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    pub(crate) file: String,
    pub(crate) old: Vec<String>,
    pub(crate) new: Vec<String>,
}

/// A case that fails.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) case: String,
    /// Words of `SALIENT_GPU`.
    pub(crate) gpu: String,
    /// What it says then.
    pub(crate) says: String,
}

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Target {
    #[serde(rename = "80")]
    Sm80,
    #[serde(rename = "90a")]
    Sm90,
}

impl Target {
    /// The device that runs it, as `SALIENT_GPU` has it.
    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90 => "sm_90",
        }
    }
}

/// As nvcc has it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sm80 => "compute_80",
            Self::Sm90 => "compute_90a",
        })
    }
}

impl Table {
    pub(crate) fn read() -> Self {
        serde_json::from_str(include_str!("table.json")).expect("a table of mutants")
    }

    /// The edits of a mutant's cut.
    pub(crate) fn cut(&self, mutant: &Mutant) -> &[Edit] {
        mutant.cut.as_ref().map_or(&[], |cut| &self.cuts[cut])
    }
}

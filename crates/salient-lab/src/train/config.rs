//! A training run as a TOML file says it.

use std::path::Path;

use super::TrainOptions;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::corpus::Split;
use crate::error::{Error, Result};

/// A training run: what decides its result, besides the model.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Config {
    /// Predictors, losses and steps; in the file, at the top level.
    #[serde(flatten)]
    pub options: TrainOptions,
    /// The texts; in the file, the table `data`.
    pub data: Data,
}

/// The texts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// HotpotQA questions, of [`Split::Train`].
    pub questions: usize,
    /// Stretches of State of the Union messages.
    pub speeches: usize,
    /// Questions for a fact that was hidden in such a message.
    pub facts: usize,
    /// Of all these, how many are held out, of every kind in proportion.
    pub held_out: usize,
    /// Tokens of a stretch, and the most that a question with its text and answer may have.
    pub tokens: usize,
    /// Which tokens marks are taken by.
    pub scored: Scored,
    /// Chooses the texts; the seed of the options has no part in it.
    pub seed: u64,
}

/// Which tokens' log-likelihood and attention tell what the tokens before are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scored {
    /// All of a text's.
    All,
    /// The question's and its answer's; all of a speech's, which has neither.
    Question,
    /// The answer's alone; all of a speech's.
    Answer,
}

impl Default for Data {
    fn default() -> Self {
        let scored = Scored::All;
        Self { questions: 120, speeches: 40, facts: 0, held_out: 24, tokens: 512, scored, seed: 0 }
    }
}

impl Config {
    /// Reads a configuration; what it leaves out has the default, in tables too. Errors name
    /// `path`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the text is no TOML, or has an unknown name or a value of another
    /// kind: the known ones are listed.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let malformed = |problem: String| Error::Malformed { path: path.into(), problem };
        let given: Table = text.parse().map_err(|e: toml::de::Error| malformed(e.to_string()))?;
        let mut whole = Self::default().to_table();
        merge(&mut whole, given, "").map_err(malformed)?;
        let data = whole.remove("data").expect("it is among the defaults");
        Ok(Self {
            options: read(Value::Table(whole)).map_err(malformed)?,
            data: read(data).map_err(|problem| malformed(format!("data: {problem}")))?,
        })
    }

    /// The file that says this.
    pub fn to_toml(&self) -> String {
        self.to_table().to_string()
    }

    /// # Errors
    /// [`Error::Usage`] for texts that cannot be had or held out, and if no step is to be taken.
    pub fn check(&self) -> Result<()> {
        let Data { questions, held_out, tokens, .. } = self.data;
        let refuse = |problem: String| Err(Error::Usage(problem));
        let most = Split::Train.range().len();
        if questions > most {
            return refuse(format!("{questions} questions: there are {most} to train on"));
        }
        let texts = self.data.texts();
        if held_out == 0 || held_out >= texts {
            return refuse(format!(
                "{held_out} of {texts} texts held out: at least one, and fewer than all"
            ));
        }
        if tokens == 0 {
            return refuse("texts of 0 tokens: at least one is needed".into());
        }
        if self.options.fast.steps + self.options.full.steps == 0 {
            return refuse("0 steps in both phases: at least one is needed".into());
        }
        Ok(())
    }

    fn to_table(&self) -> Table {
        Table::try_from(self).expect("plain values, and a seed that TOML can hold")
    }
}

impl Data {
    /// All of them.
    pub fn texts(&self) -> usize {
        self.questions + self.speeches + self.facts
    }

    /// Questions that are held out.
    pub fn held_out_questions(&self) -> usize {
        self.share(self.questions)
    }

    /// Facts that are held out.
    pub fn held_out_facts(&self) -> usize {
        self.share(self.facts).min(self.held_out - self.held_out_questions())
    }

    /// Stretches that are held out.
    pub fn held_out_speeches(&self) -> usize {
        self.held_out - self.held_out_questions() - self.held_out_facts()
    }

    fn share(&self, of_kind: usize) -> usize {
        let texts = self.texts();
        (self.held_out * of_kind + texts / 2) / texts.max(1)
    }
}

/// Puts `given` in the place of `defaults`, which have all the names that there are.
fn merge(defaults: &mut Table, given: Table, within: &str) -> Result<(), String> {
    for (name, value) in given {
        let known = defaults.keys().cloned().collect::<Vec<_>>().join(", ");
        let place = defaults
            .get_mut(&name)
            .ok_or_else(|| format!("`{within}{name}` is unknown; there are {known}"))?;
        match (place, value) {
            (Value::Table(defaults), Value::Table(given)) => {
                merge(defaults, given, &format!("{within}{name}."))?;
            }
            (place, value) => *place = value,
        }
    }
    Ok(())
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    value.try_into().map_err(|e: toml::de::Error| e.to_string())
}

#[cfg(test)]
mod tests {
    use crate::train::Target;

    use super::*;

    fn parsed(text: &str) -> Result<Config> {
        Config::from_toml(text, Path::new("run.toml"))
    }

    #[test]
    fn what_is_left_out_has_the_default() {
        assert_eq!(parsed("").unwrap(), Config::default());
        let text = "target = 'attention-mean'\nschedule = 'late'\ndecay = 0\n\
            [fast]\nsteps = 7\n[losses]\nmse = 0.5\n[data]\nscored = 'answer'\ntokens = 300\n";
        let config = parsed(text).unwrap();
        let default = Config::default();
        assert_eq!(config.options.target, Target::MeanAttention);
        assert_eq!((config.options.fast.steps, config.options.decay), (7, 0.0));
        assert_eq!(config.options.fast.rate, default.options.fast.rate);
        assert_eq!((config.options.losses.mse, config.options.losses.rank), (0.5, 1.0));
        let data = Data { tokens: 300, scored: Scored::Answer, ..default.data };
        assert_eq!(config.data, data);
        assert_eq!(parsed(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn what_is_unknown_is_named_beside_what_is_known() {
        for (text, said) in [
            ("taget = 'saliency'", &["run.toml", "`taget`", "target", "data", "seed"][..]),
            ("[losses]\nrnak = 1", &["`losses.rnak`", "rank", "divergence"]),
            ("[data]\ntexts = 1", &["`data.texts`", "questions", "speeches"]),
            ("target = 'salience'", &["`salience`", "attention-mean"]),
            ("scale = 'root'", &["root", "largest", "log"]),
            ("[data]\nscored = 'none'", &["data", "none", "answer"]),
            ("width = 'wide'", &["wide"]),
            ("losses = 3", &["losses"]),
            ("seed = ", &["run.toml"]),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(said.iter().all(|said| error.contains(said)), "{text}: {error}");
        }
    }

    #[test]
    fn texts_are_held_out_in_proportion() {
        for (questions, speeches, held_out, expected) in
            [(30, 10, 8, (6, 2)), (3, 0, 1, (1, 0)), (0, 5, 4, (0, 4)), (1, 2, 2, (1, 1))]
        {
            let data = Data { questions, speeches, held_out, ..Data::default() };
            assert_eq!((data.held_out_questions(), data.held_out_speeches()), expected);
        }
        for (questions, speeches, facts, held_out, expected) in
            [(180, 30, 80, 30, (19, 3, 8)), (3, 1, 3, 1, (0, 1, 0)), (0, 0, 5, 2, (0, 0, 2))]
        {
            let data = Data { questions, speeches, facts, held_out, ..Data::default() };
            let of_kinds =
                (data.held_out_questions(), data.held_out_speeches(), data.held_out_facts());
            assert_eq!(of_kinds, expected);
        }
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut Config), said: &str| {
            let mut config = Config::default();
            assert!(config.check().is_ok());
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(matches!(&error, Error::Usage(problem) if problem.contains(said)), "{error}");
        };
        refused(|c| c.data.questions = 6001, "6000 to train on");
        refused(|c| c.data.held_out = 0, "at least one");
        refused(|c| c.data.held_out = 160, "160 of 160");
        refused(|c| c.data.tokens = 0, "0 tokens");
        refused(|c| c.options.fast.steps = 0, "0 steps");
    }
}

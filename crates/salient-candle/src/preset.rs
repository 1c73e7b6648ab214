//! Schedules and scorers that belong together, with predictors that come with this crate.
//!
//! There are predictors for SmolLM2-135M-Instruct as `salient fetch smollm2` brings it; their model
//! cards lie beside them in `predictors/`, and `scripts/train` makes them again.

use std::path::Path;

use salient::schedule::Schedule;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::scorer::{FromLayer, LastQuery, Learned, RankSum, Scorer, Window};

/// What to drop when, and by which scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// SDTP as published (arXiv 2504.04514): the paper's schedule, predictors trained towards
    /// gradient saliency alone.
    Sdtp,
    /// For prompts that end with their question. Below layer 16, where no token has understood the
    /// question yet, predictors trained towards the attention that questions and answers pay; from
    /// there on these, the attention of the last token and of the last 24, by the sum of their
    /// ranks.
    Salient,
    /// For prompts that are pruned before their question is known: the predictors of
    /// [`Self::Salient`] alone, at its schedule.
    SalientAgnostic,
}

/// From which layer on [`Preset::Salient`] goes by what is asked too.
const ASKED: usize = 16;
/// Of the last tokens, how many ask.
const WINDOW: usize = 24;
/// Over how many tokens scores of predictors are averaged, by themselves below [`ASKED`]; widely,
/// since early blocks build what later ones look for from runs of tokens.
const WIDE: usize = 17;
/// The same where they are one of several, and for [`Preset::SalientAgnostic`].
const NARROW: usize = 9;

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sdtp, Self::Salient, Self::SalientAgnostic];

    /// Its name, and that of its scorer on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sdtp => "sdtp",
            Self::Salient => "salient",
            Self::SalientAgnostic => "salient-agnostic",
        }
    }

    /// The schedule.
    pub fn schedule(self) -> Schedule {
        match self {
            Self::Sdtp => Schedule::sdtp(),
            Self::Salient | Self::SalientAgnostic => Schedule::salient(),
        }
    }

    /// Whether predictors for `model` come with this crate.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the crate's file is not one of predictors.
    pub fn knows(self, model: &Model) -> Result<bool> {
        let info = Learned::info(self.file(), Path::new(self.name()))?;
        Ok(info.is_some_and(|info| info.model == model.fingerprint()))
    }

    /// The scorer, for the stages of `schedules`.
    ///
    /// # Errors
    /// [`Error::OtherModel`] if no predictors for `model` come with this crate,
    /// [`Error::OtherSchedule`] if they lack one for a stage.
    pub fn scorer(self, model: &Model, schedules: &[Schedule]) -> Result<Box<dyn Scorer>> {
        let path = Path::new(self.name());
        let learned = Learned::for_schedules(self.file(), path, model, schedules)?;
        Ok(match self {
            Self::Sdtp => Box::new(learned),
            Self::SalientAgnostic => Box::new(learned.pooled(NARROW)),
            Self::Salient => {
                let last = LastQuery::default();
                let window = Window::tokens(WINDOW, last.rule);
                Box::new(FromLayer {
                    layer: ASKED,
                    earlier: Box::new(learned.clone().pooled(WIDE)),
                    later: Box::new(RankSum(vec![
                        Box::new(last),
                        Box::new(window),
                        Box::new(learned.pooled(NARROW)),
                    ])),
                })
            }
        })
    }

    /// The predictors, as `salient train` wrote them.
    fn file(self) -> &'static [u8] {
        match self {
            Self::Sdtp => include_bytes!("../predictors/smollm2-135m-instruct-sdtp.safetensors"),
            Self::Salient | Self::SalientAgnostic => {
                include_bytes!("../predictors/smollm2-135m-instruct-salient.safetensors")
            }
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
            Error::Unsupported {
                what: "preset",
                name: name.to_owned(),
                supported: "sdtp, salient, salient-agnostic",
            }
        })
    }
}

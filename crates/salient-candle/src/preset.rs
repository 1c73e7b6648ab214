//! Schedules and scorers that belong together, with predictors that come with this crate.
//!
//! There are predictors for SmolLM2-135M-Instruct as `salient fetch smollm2` brings it; their model
//! cards lie beside them in `predictors/`, and `scripts/train` makes them again.

use std::path::Path;

use salient::host::score::MAX_POOL_WIDTH;
use salient::schedule::Schedule;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::scorer::{FromLayer, LastQuery, Learned, RankSum, Scorer, Window};

/// What to drop when, and by which scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// SDTP as published (arXiv 2504.04514): the paper's schedule, predictors trained towards gradient
    /// saliency alone.
    Sdtp,
    /// Below layer 14, where no token has understood the question yet, predictors trained towards the
    /// attention that tokens receive, averaged over 33 tokens; from there on the attention of the last
    /// token and of the last 24, by the sum of both ranks.
    Salient,
}

/// From which layer on [`Preset::Salient`] goes by what is asked.
const ASKED: usize = 14;
/// Of the last tokens, how many ask.
const WINDOW: usize = 24;

impl Preset {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sdtp, Self::Salient];

    /// Its name: that of its schedule, and on the command line of its scorer too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sdtp => "sdtp",
            Self::Salient => "salient",
        }
    }

    /// The schedule.
    pub fn schedule(self) -> Schedule {
        match self {
            Self::Sdtp => Schedule::sdtp(),
            Self::Salient => Schedule::salient(),
        }
    }

    /// Whether predictors for `model` come with this crate.
    ///
    /// # Errors
    /// Those of [`Model::fingerprint`].
    pub fn knows(self, model: &Model) -> Result<bool> {
        let info = Learned::info(self.file(), Path::new(self.name()))?;
        let fingerprint = model.fingerprint()?;
        Ok(info.is_some_and(|info| info.model == fingerprint))
    }

    /// The scorer, for the stages of `schedules`.
    ///
    /// # Errors
    /// [`Error::OtherModel`] if no predictors for `model` come with this crate,
    /// [`Error::OtherSchedule`] if they lack one for a stage.
    pub fn scorer(self, model: &Model, schedules: &[Schedule]) -> Result<Box<dyn Scorer>> {
        let below = match self {
            Self::Sdtp => model.config().layers,
            Self::Salient => ASKED,
        };
        let path = Path::new(self.name());
        let learned = Learned::for_schedules(self.file(), path, model, schedules, below)?;
        Ok(match self {
            Self::Sdtp => Box::new(learned),
            Self::Salient => {
                let last = LastQuery::default();
                let window = Window::tokens(WINDOW, last.rule);
                Box::new(FromLayer {
                    layer: ASKED,
                    earlier: Box::new(learned.pooled(MAX_POOL_WIDTH)),
                    later: Box::new(RankSum([Box::new(last), Box::new(window)])),
                })
            }
        })
    }

    /// The predictors, as `salient train` wrote them.
    fn file(self) -> &'static [u8] {
        match self {
            Self::Sdtp => include_bytes!("../predictors/smollm2-135m-instruct-sdtp.safetensors"),
            Self::Salient => {
                include_bytes!("../predictors/smollm2-135m-instruct-salient.safetensors")
            }
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
            Error::Unsupported { what: "preset", name: name.to_owned(), supported: "sdtp, salient" }
        })
    }
}

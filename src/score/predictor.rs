//! The weights of the SDTP predictor.

use crate::checks::{check_finite, check_len};
use crate::error::{Error, Result};

/// The weights of a [predictor](crate::host::score::Predictor), as trained.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictorWeights {
    /// First layer, `[width, hidden]`.
    pub w1: Vec<f32>,
    /// Its bias, `[width]`.
    pub b1: Vec<f32>,
    /// Second layer, `[outputs, width]`: one output is the score; of two (keep, drop) it is the
    /// first minus the second.
    pub w2: Vec<f32>,
    /// Its bias, `[outputs]`.
    pub b2: Vec<f32>,
    /// RMSNorm of the input: weight `[hidden]` and epsilon. `None` takes hidden states as they are.
    pub norm: Option<(Vec<f32>, f32)>,
}

/// Weights of which the norm's are folded into w1, and two outputs into one.
pub(crate) struct Folded {
    /// `[width, hidden]`.
    pub(crate) w1: Vec<f32>,
    /// `[width]`.
    pub(crate) b1: Vec<f32>,
    /// `[width]`.
    pub(crate) w2: Vec<f32>,
    pub(crate) b2: f32,
    /// Of the norm, if there is one.
    pub(crate) eps: Option<f32>,
}

impl PredictorWeights {
    /// Checks and folds; the errors are those of
    /// [`Predictor::new`](crate::host::score::Predictor::new).
    pub(crate) fn fold(self, hidden: usize) -> Result<Folded> {
        let (width, outputs) = (self.b1.len(), self.b2.len());
        let positive = |what, value| match value {
            0 => Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" }),
            _ => Ok(()),
        };
        positive("predictor hidden size", hidden)?;
        positive("predictor width", width)?;
        if !(1..=2).contains(&outputs) {
            let value = outputs as f64;
            return Err(Error::OutOfRange { what: "predictor outputs", value, expected: "1 or 2" });
        }
        let product =
            |a: usize, b| a.checked_mul(b).ok_or(Error::Overflow { what: "predictor weights" });
        check_len("predictor w1", product(width, hidden)?, self.w1.len())?;
        check_len("predictor w2", product(outputs, width)?, self.w2.len())?;

        let mut w1 = self.w1;
        let mut eps = None;
        if let Some((weight, epsilon)) = self.norm {
            check_len("predictor norm", hidden, weight.len())?;
            check_finite("predictor norm", &weight)?;
            check_finite("predictor norm epsilon", &[epsilon])?;
            if epsilon < 0.0 {
                let (what, value) = ("predictor norm epsilon", epsilon.into());
                return Err(Error::OutOfRange { what, value, expected: "0 or more" });
            }
            check_finite("predictor w1", &w1)?;
            for row in w1.chunks_exact_mut(hidden) {
                row.iter_mut().zip(&weight).for_each(|(w, gamma)| *w *= gamma);
            }
            eps = Some(epsilon);
        }
        let fold = |v: &[f32]| match v.split_at(v.len() / outputs) {
            (keep, drop) if outputs == 2 => keep.iter().zip(drop).map(|(k, d)| k - d).collect(),
            _ => v.to_vec(),
        };
        let (w2, b2): (Vec<f32>, Vec<f32>) = (fold(&self.w2), fold(&self.b2));
        check_finite("predictor w1", &w1)?;
        check_finite("predictor b1", &self.b1)?;
        check_finite("predictor w2", &w2)?;
        check_finite("predictor b2", &b2)?;
        Ok(Folded { w1, b1: self.b1, w2, b2: b2[0], eps })
    }
}
